"""Gaussian differential privacy: from the distance of two normal distributions to epsilon and back.

A mechanism is mu-GDP if telling two neighbours apart is no easier than telling
N(0, 1) from N(mu, 1). Dong, Roth and Su 2022, "Gaussian Differential Privacy",
corollary 2.13; Balle and Wang 2018, theorem 8.
"""

from __future__ import annotations

import math
from typing import Final

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

_LARGEST_MU: Final = 1e4
"""Beyond it the epsilon has eight digits, and means no privacy at all."""


def delta_of(epsilon: float, mu: float) -> float:
    """The smallest delta at which mu-GDP implies (epsilon, delta)-DP; zero for mu <= 0."""
    if mu <= 0:
        return 0.0
    gain = float(ndtr(mu / 2 - epsilon / mu))
    return max(0.0, gain - math.exp(epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))))


def epsilon_of(mu: float, delta: float) -> float:
    """The smallest epsilon at `delta` under mu-GDP; zero for mu <= 0, infinite for mu > 10,000."""
    if mu > _LARGEST_MU:
        return math.inf
    if delta_of(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while delta_of(high, mu) > delta:
        high *= 2
    return float(brentq(lambda epsilon: delta_of(epsilon, mu) - delta, 0.0, high, xtol=1e-9))


def mu_of(epsilon: float, delta: float) -> float:
    """The mu whose epsilon at `delta` is `epsilon` (in (0, 10,000))."""
    high = 1.0
    while epsilon_of(high, delta) < epsilon:
        high *= 2
    return float(brentq(lambda mu: epsilon_of(mu, delta) - epsilon, 0.0, high, xtol=1e-9))
