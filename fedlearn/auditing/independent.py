"""Sharper bounds for canaries that are independent of each other, as those in slots are.

`clopper_pearson`: exact bounds on both error rates of a test, and the Gaussian
curve through them (Nasr et al. 2023, "Tight Auditing of Differentially Private
Machine Learning", section 4). `moments`: the scores themselves are taken for
two normal distributions of one variance (after Agrawal et al. 2026, "Let's Ask
Gauss"); the sharpest, and the only one that also assumes the form of the scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betaincinv, ndtri

from fedlearn.auditing.game import Game
from fedlearn.auditing.gaussian import epsilon_of

THRESHOLDS: Final = 20
"""Tests that are tried; each gets its share of alpha."""


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
