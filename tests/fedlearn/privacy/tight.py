"""True deltas, by closed forms and plain summation: nothing here is shared with the accountant."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ive
from scipy.stats import norm


def gaussian_delta(noise: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8: one Gaussian mechanism of sensitivity 1."""
    upper = norm.cdf(0.5 / noise - epsilon * noise)
    return float(upper - math.exp(epsilon + norm.logcdf(-0.5 / noise - epsilon * noise)))


def sampled_gaussian_delta(noise: float, rate: float, epsilon: float) -> float:
    """One Gaussian mechanism on a Poisson sample, one record removed: exact amplification."""
    return rate * gaussian_delta(noise, math.log1p(math.expm1(epsilon) / rate))


def discrete_gaussian_delta(stddev: float, shift: int, steps: int, epsilon: float) -> float:
    """`steps` releases of an integer with discrete Gaussian noise, neighbours `shift` apart.

    The loss depends on the sum of the noises only, and that is a discrete
    Gaussian itself, to 60 digits where `stddev` is 4 or more.
    """
    whole = math.sqrt(steps) * stddev
    values = np.arange(-math.ceil(14 * whole), math.ceil(14 * whole) + 1)
    chances = np.exp(-(values**2) / (2 * whole**2))
    chances /= chances.sum()
    loss = (2 * values * shift + steps * shift**2) / (2 * stddev**2)
    return float(np.sum(chances * -np.expm1(np.minimum(epsilon - loss, 0.0))))


def skellam_delta(variance: float, shift: int, epsilon: float) -> float:
    """One release of an integer with Skellam noise, neighbours `shift` apart."""
    reach = math.ceil(14 * math.sqrt(variance)) + shift
    values = np.arange(-reach, reach + 1)
    # exp(-mu) I_k(mu), the law of the difference of two Poisson variables of mean mu / 2.
    here, there = ive(np.abs(values), variance), ive(np.abs(values - shift), variance)
    return float(np.sum(np.maximum(here - math.exp(epsilon) * there, 0.0)))
