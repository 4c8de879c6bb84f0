"""A bound from one run that assumes nothing about the canaries: they may depend on each other.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run",
theorem 5.2: under (epsilon, delta)-DP the number of right guesses is hardly
ever larger than a binomial variable with success chance e^epsilon / (1 + e^epsilon).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, expit


def at_least(successes: NDArray[np.int64], trials: int, chance: float) -> NDArray[np.float64]:
    """The chance of so many `successes` or more in `trials`, each with this `chance`."""
    # The regularised incomplete beta function, without the wrapping of scipy.stats.
    found = betainc(np.maximum(successes, 1), trials - successes + 1, chance)
    return np.where(successes > 0, found, 1.0)


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """At most this is the chance of `correct` or more right guesses under (epsilon, delta)-DP.

    `guesses` of the `canaries` were guessed, the attacker abstained from the rest.

    Guarantees: valid for any dependence between canaries; grows with epsilon.
    """
    if correct == 0:
        return 1.0
    chance = expit(epsilon)
    tails = at_least(np.arange(correct + 1), guesses, chance)
    fewer = np.arange(1, correct + 1)
    just_missed = tails[correct - fewer] - tails[correct]
    slack = 2 * canaries * delta * float(np.max(just_missed / fewer))
    return min(1.0, float(tails[correct]) + max(0.0, slack))


@lru_cache(maxsize=1024)  # ceilings are the same for every seat
def lower_bound(canaries: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    """The largest epsilon that `correct` right guesses refute at confidence `1 - alpha`."""

    def doubt(epsilon: float) -> float:
        return p_value(canaries, guesses, correct, epsilon, delta) - alpha

    if doubt(0.0) >= 0:
        return 0.0
    high = 1.0
    while doubt(high) < 0:
        high *= 2
    return float(brentq(doubt, 0.0, high, xtol=1e-7))


def without_delta(canaries: int, alpha: float) -> float:
    """The bound at delta = 0 if all canaries are guessed, and rightly: no audit shows more."""
    log_chance = math.log(alpha) / canaries
    return log_chance - math.log(-math.expm1(log_chance))
