"""What integer mechanisms cost, in closed form: rounding, and noise that is not quite Gaussian.

Three facts are here, each with its proof or its source:

1. Stochastic rounding moves neighbours apart, by a bounded amount (`rounded_sensitivity`).
2. A sum of discrete Gaussians is so close to a rounded continuous Gaussian
   that the privacy-loss distribution of the Gaussian mechanism serves for it,
   sampling included (`gaussian_gap`).
3. Renyi divergences: discrete Gaussian (`discrete_gaussian_rho`) and Skellam (`skellam_rdp`).

Sources: Kairouz, Liu, Steinke 2021 (arXiv 2102.06387); Agarwal, Kairouz, Liu
2021 (arXiv 2110.04995).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

LOG_GAP_FAILURE: Final = -160.0
"""Logarithm of the chance with which `gaussian_gap` may fail: small even times e^100."""


def rounded_sensitivity(distance: float, dimension: int, failure: float) -> float:
    """How far apart two vectors can be after stochastic rounding to integers with the same coins.

    `distance` is their distance before, in units of the grid. Coordinate j
    rounds up where its fraction exceeds a uniform coin u_j, which does not
    depend on the data. Then coordinates at distance a = k + f end at distance k
    or k + 1 with mean a, so the squared distance has mean at most
    sum(a^2 + f(1-f)) <= distance^2 + dimension/4, and by Hoeffding's inequality
    (ranges 2k + 1, whose squares sum to at most (2 distance + sqrt(dimension))^2)
    exceeds it by sqrt(2 ln(1/failure)) (distance + sqrt(dimension)/2) with
    chance at most `failure`. Never more than distance + sqrt(dimension).

    With one of the two vectors zero this is proposition 22 of Kairouz et al.,
    and the bound to which they condition the rounding (there `failure` is the
    chance to have to round again).
    """
    root = math.sqrt(dimension)
    deviation = math.sqrt(-2 * math.log(failure)) * (distance + root / 2)
    return min(math.sqrt(distance**2 + dimension / 4 + deviation), distance + root)


def gaussian_gap(stddev: int, shares: int, draws: int) -> float:
    """Bound on the log-likelihood ratio between integer noise and rounded Gaussian noise.

    Both directions hold, each except with chance exp(LOG_GAP_FAILURE): with
    p the law of `draws` sums of `shares` discrete Gaussians of parameter
    `stddev` and r that of as many Gaussians of variance s^2 = shares * stddev^2
    rounded to the nearest integer, log(p/r) <= gap under p, and
    log(r/p) <= gap under r. The Gaussian mechanism followed by rounding adds
    the noise r to an integer sum. So if it is (epsilon, delta)-DP over all its
    steps, the one with p is (epsilon + 2 gap, e^gap delta + (1 + e^(epsilon + gap)) failure)-DP.

    Proof for shares = 1. At k the ratio r/p is Z R_k with
    R_k = int exp(-t^2 / 2s^2) cosh(kt / s^2) dt over [-1/2, 1/2], where
    1 - 1/(24 s^2) <= R_k <= sinh(x)/x <= exp(x^2/6) with x = k / 2s^2. So
    Y = log(r/p), of one draw, has |Y| <= max(1.01, k^2/s^2) / (24 s^2), its
    mean is the square of that order, and for 0 < theta <= 3 s^2 and s >= 4 both
    log E_r exp(theta Y) and log E_p exp(-theta Y) are at most
    (theta + theta^2) / (144 s^4), checked numerically in the tests.
    Chernoff's bound over all draws gives the gap. For more shares, p is within
    the factor exp(+-tau) of one discrete Gaussian (Kairouz et al., theorem 9),
    which from a stddev of 4 on is nothing.
    """
    variance = shares * float(stddev) ** 2
    rate = draws / (144 * variance**2)
    theta = min(math.sqrt(-LOG_GAP_FAILURE / rate), 3 * variance)
    return -LOG_GAP_FAILURE / theta + rate * (1 + theta) + draws * _convolution_gap(stddev, shares)


def discrete_gaussian_rho(l2_sensitivity: float, dimension: int, stddev: int, shares: int) -> float:
    """The zero-concentrated DP of one sum with noise of `shares` discrete Gaussians of `stddev`.

    Kairouz et al., theorem 1 (rho = epsilon^2 / 2); the L1 sensitivity of an
    integer vector is at most its squared L2 norm. The theorem's third bound,
    (ratio + tau sqrt(dimension))^2, is never below the second.
    """
    tau, stddev_of_sum = _convolution_gap(stddev, shares), math.sqrt(shares) * stddev
    ratio = l2_sensitivity / stddev_of_sum
    l1 = _l1_sensitivity(l2_sensitivity, dimension)
    return 0.5 * min(
        ratio**2 + tau * dimension / 2,
        ratio**2 + 2 * l1 * tau / stddev_of_sum + tau**2 * dimension,
    )


def skellam_rdp(
    orders: NDArray[np.float64], l2_sensitivity: float, dimension: int, variance: float
) -> NDArray[np.float64]:
    """Renyi divergences of whole `orders` of one sum with Skellam noise of `variance` in total.

    Agarwal et al., theorem 3.5. Sums of Skellam variables are Skellam variables
    exactly, so only the total variance counts.
    """
    l1 = _l1_sensitivity(l2_sensitivity, dimension)
    correction = np.minimum(
        ((2 * orders - 1) * l2_sensitivity**2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance)
    )
    return np.asarray(orders * l2_sensitivity**2 / (2 * variance) + correction)


def _l1_sensitivity(l2_sensitivity: float, dimension: int) -> float:
    return min(math.sqrt(dimension) * l2_sensitivity, l2_sensitivity**2)


def _convolution_gap(stddev: int, shares: int) -> float:
    """tau of Kairouz et al.: log-ratio of a sum of discrete Gaussians to a single one."""
    exponents = (-2 * (math.pi * stddev) ** 2 * k / (k + 1) for k in range(1, shares))
    return 10 * math.fsum(math.exp(exponent) for exponent in exponents)
