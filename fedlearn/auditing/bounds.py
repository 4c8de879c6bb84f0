"""Lower bounds on epsilon from a game, each beside the most that it could have given.

- `one_run` assumes nothing about the canaries, which may depend on each other (Steinke,
  Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", theorem 5.2): under
  (epsilon, delta)-DP the number of right guesses is hardly ever larger than a binomial
  variable with success chance e^epsilon / (1 + e^epsilon).
- `f_dp` holds for any dependence, too, but against a whole trade-off curve (Mahloujifar,
  Melis and Chaudhuri 2024, "Auditing f-Differential Privacy in One Run", algorithm 3), here
  the curves of Gaussian differential privacy. A subsampled mechanism follows such a curve in
  the limit of many steps; the epsilon is then that of the refuted Gaussian curve at delta.
- `clopper_pearson` takes canaries that are independent, as those in slots are: exact bounds
  on both error rates of a test, and the Gaussian curve through them (Nasr et al. 2023,
  "Tight Auditing of Differentially Private Machine Learning", section 4).
- `gaussian` also takes the scores for two normal distributions of one variance (after
  Agrawal et al. 2026, "Let's Ask Gauss"): the sharpest, and the only one that assumes their form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, expit, ndtri

from fedlearn.auditing.findings import Bound, Estimator
from fedlearn.auditing.game import Game, guess_counts
from fedlearn.auditing.gaussian import epsilon_of

THRESHOLDS: Final = 20
"""Tests that are tried by `clopper_pearson`; each gets its share of alpha."""

_LARGEST_MU: Final = 64.0
_TOLERANCE: Final = 1e-6
_NORMAL: Final = NormalDist()

_Bound = Callable[[int, int, int, float, float], float]


def bounds_of(
    game: Game, *, delta: float, alpha: float, independent: bool, normal: bool
) -> tuple[Bound, ...]:
    """The bounds of `game`: those that need it only for `independent` canaries, `normal` scores."""
    free = (
        _counted("one_run", "nothing", one_run_bound, game, delta, alpha),
        _counted("f_dp", "a Gaussian trade-off curve", f_dp_bound, game, delta, alpha),
    )
    if not independent:
        return free
    exact = _exact(game, delta, alpha)
    return (*free, exact, _gaussian(game, delta, alpha)) if normal else (*free, exact)


def _counted(
    estimator: Estimator, assumes: str, bound: _Bound, game: Game, delta: float, alpha: float
) -> Bound:
    """The best over all numbers of guesses, each at its share of alpha (Bonferroni)."""
    canaries, counts = game.canaries, guess_counts(game.canaries)
    correct, share = game.correct(), alpha / len(counts)
    found = [bound(canaries, r, int(correct[r - 1]), delta, share) for r in counts]
    most = [bound(canaries, r, r, delta, share) for r in counts]
    return Bound(
        estimator=estimator,
        lower_bound=max(found),
        ceiling=max(most),
        estimate=None,
        assumes=assumes,
    )


def _exact(game: Game, delta: float, alpha: float) -> Bound:
    inside = int(game.inside.sum())
    return Bound(
        estimator="clopper_pearson",
        lower_bound=clopper_pearson(game, delta, alpha),
        ceiling=clopper_pearson_ceiling(inside, game.canaries - inside, delta, alpha),
        estimate=None,
        assumes="independent canaries, a Gaussian trade-off curve",
    )


def _gaussian(game: Game, delta: float, alpha: float) -> Bound:
    found = moments(game, delta, alpha)
    return Bound(
        estimator="gaussian",
        lower_bound=_finite(found.lower_bound),
        ceiling=None,
        estimate=_finite(found.estimate),
        assumes="independent canaries with normal scores",
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- one run ---------------------------------------------------------------------------


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
def one_run_bound(canaries: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    """The largest epsilon that `correct` right guesses refute at confidence `1 - alpha`."""

    def doubt(epsilon: float) -> float:
        return p_value(canaries, guesses, correct, epsilon, delta) - alpha

    if doubt(0.0) >= 0:
        return 0.0
    high = 1.0
    while doubt(high) < 0:
        high *= 2
    return float(brentq(doubt, 0.0, high, xtol=1e-7))


# --- a trade-off curve -----------------------------------------------------------------


def refutes(canaries: int, guesses: int, correct: int, mu: float, alpha: float) -> bool:
    """Whether `correct` of `guesses` right guesses refute mu-GDP at confidence `1 - alpha`."""
    # Names as in the paper: r and h bound the mass of runs with i or more right guesses.
    r, h = alpha * correct / canaries, alpha * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        reached = max(h, _blown_up(r, mu))
        if reached == h:
            break
        r, h = min(1.0, r + i / (guesses - i) * (reached - h)), reached
    return r + h > guesses / canaries


def _blown_up(chance: float, mu: float) -> float:
    """The inverse of the curve, `Phi(Phi^-1(chance) - mu)`; NumPy would be slow on scalars."""
    if chance <= 0 or chance >= 1:
        return chance
    return 0.5 * math.erfc((mu - _NORMAL.inv_cdf(chance)) / math.sqrt(2))


@lru_cache(maxsize=1024)  # ceilings are the same for every seat
def f_dp_bound(canaries: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    """The epsilon at `delta` of the largest Gaussian curve that is refuted; or zero."""
    low, high = 0.0, 1.0
    if correct == 0 or not refutes(canaries, guesses, correct, _TOLERANCE, alpha):
        return 0.0
    while high < _LARGEST_MU and refutes(canaries, guesses, correct, high, alpha):
        low, high = high, 2 * high
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        if refutes(canaries, guesses, correct, middle, alpha):
            low = middle
        else:
            high = middle
    return epsilon_of(low, delta)


# --- independent canaries --------------------------------------------------------------


def largest_rate(hits: int, trials: int, alpha: float) -> float:
    """Clopper and Pearson's upper bound on a rate at confidence `1 - alpha`; one for no trials."""
    if hits >= trials:
        return 1.0
    return float(betaincinv(hits + 1, trials - hits, 1 - alpha))


def clopper_pearson(game: Game, delta: float, alpha: float) -> float:
    """A lower bound on epsilon from the error rates at `THRESHOLDS` thresholds."""
    quantiles = np.linspace(0, 1, THRESHOLDS + 1)[1:-1]
    thresholds = [game.threshold, *np.quantile(game.scores, quantiles)]
    share = alpha / (2 * len(thresholds))
    mu = max(_distance(game, threshold, share) for threshold in thresholds)
    return epsilon_of(mu, delta)


def clopper_pearson_ceiling(inside: int, outside: int, delta: float, alpha: float) -> float:
    """What `clopper_pearson` says if a threshold separates all canaries."""
    share = alpha / (2 * THRESHOLDS)
    return epsilon_of(_gap(largest_rate(0, outside, share), largest_rate(0, inside, share)), delta)


def _distance(game: Game, threshold: float, alpha: float) -> float:
    above, inside = game.scores > threshold, game.inside
    false_alarms = largest_rate(int((above & ~inside).sum()), int((~inside).sum()), alpha)
    misses = largest_rate(int((~above & inside).sum()), int(inside.sum()), alpha)
    return _gap(false_alarms, misses)


def _gap(false_alarms: float, misses: float) -> float:
    if false_alarms >= 1 or misses >= 1:
        return 0.0
    return float(-ndtri(false_alarms) - ndtri(misses))


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Epsilon from the distance of two normal distributions: the estimate, and its lower bound."""

    estimate: float
    lower_bound: float


def moments(game: Game, delta: float, alpha: float) -> Moments:
    """Epsilon at `delta` from mean and common variance of the scores inside and outside.

    Zero where there are fewer than two canaries on a side or the means are in
    the wrong order; infinite where the sides differ and nothing varies.
    """
    inside, outside = game.scores[game.inside], game.scores[~game.inside]
    if min(len(inside), len(outside)) < 2:
        return Moments(estimate=0.0, lower_bound=0.0)
    total = len(inside) + len(outside)
    squares = np.square(inside - inside.mean()).sum() + np.square(outside - outside.mean()).sum()
    spread, gap = math.sqrt(squares / (total - 2)), float(inside.mean() - outside.mean())
    if gap <= 0:
        return Moments(estimate=0.0, lower_bound=0.0)
    if spread <= 1e-12 * abs(gap):
        return Moments(estimate=math.inf, lower_bound=math.inf)
    mu = gap / spread
    error = math.sqrt(1 / len(inside) + 1 / len(outside) + mu**2 / (2 * total))
    lowest = mu - float(ndtri(1 - alpha)) * error
    return Moments(estimate=epsilon_of(mu, delta), lower_bound=epsilon_of(lowest, delta))
