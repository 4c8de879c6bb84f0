"""A bound from one run that assumes nothing about the canaries: they may depend on each other.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run",
theorem 5.2: under (epsilon, delta)-DP the number of right guesses is hardly
ever larger than a binomial variable with success chance e^epsilon / (1 + e^epsilon).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """At most this is the chance of `correct` or more right guesses under (epsilon, delta)-DP.

    `guesses` of the `canaries` were guessed, the attacker abstained from the rest.

    Guarantees: valid for any dependence between canaries; grows with epsilon.
    """
    if correct == 0:
        return 1.0
    chance = expit(epsilon)
    at_least = float(binom.sf(correct - 1, guesses, chance))
    fewer = np.arange(1, correct + 1)
    just_missed = binom.sf(correct - fewer - 1, guesses, chance) - at_least
    slack = 2 * canaries * delta * float(np.max(just_missed / fewer))
    return min(1.0, at_least + max(0.0, slack))


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    """The largest epsilon that `correct` right guesses refute at confidence `1 - alpha`."""

    def doubt(epsilon: float) -> float:
        return p_value(canaries, guesses, correct, epsilon, delta) - alpha

    if doubt(0.0) >= 0:
        return 0.0
    high = 1.0
    while doubt(high) < 0:
        high *= 2
    return float(brentq(doubt, 0.0, high, xtol=1e-9))


def without_delta(canaries: int, alpha: float) -> float:
    """The bound at delta = 0 if all canaries are guessed, and rightly: no audit shows more."""
    log_chance = math.log(alpha) / canaries
    return log_chance - math.log(-math.expm1(log_chance))
