"""The true delta of composed (subsampled) Gaussians, by contour integration.

Shares nothing with the accountant under test: no grid of losses, no FFT, no
truncation. With S the sum of the privacy losses and M(z) = E[exp(z S)],

    delta(epsilon) = E[(1 - exp(epsilon - S))+]
                   = 1/(2 pi i) * integral over Re z = a > 0 of M(z) exp(-z epsilon) / (z (z + 1)),

because (1 - exp(epsilon - s))+ has the Laplace transform exp(-z epsilon) / (z (z + 1)). The
line is laid through the saddle point, so that the result is accurate relative to delta. M of
one step is an integral over the real line, taken by the trapezoidal rule, which converges
geometrically for such integrands. Too slow where the loss is nearly discrete (few expected
participations); there `least_delta` gives a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from fedlearn.privacy.events import GaussianEvent


def gaussian_delta(noise: float, epsilon: float) -> float:
    """Theorem 8 of Balle and Wang (2018): one Gaussian mechanism of sensitivity 1."""
    upper = norm.cdf(0.5 / noise - epsilon * noise)
    return float(upper - math.exp(epsilon + norm.logcdf(-0.5 / noise - epsilon * noise)))


def sampled_gaussian_delta(noise: float, rate: float, epsilon: float) -> float:
    """One subsampled Gaussian in closed form: both likelihood ratios are monotone."""
    removed = _amplified(noise, rate, epsilon)
    limit = -math.log1p(-rate) if rate < 1 else math.inf
    if epsilon >= limit:
        return removed
    # Added: Q - e^eps P > 0 left of the point where P / Q = e^-eps.
    cut = noise**2 * math.log((math.exp(-epsilon) - 1 + rate) / rate) + 0.5
    inside = norm.cdf(cut / noise)
    mixed = (1 - rate) * inside + rate * norm.cdf((cut - 1) / noise)
    return max(removed, float(inside - math.exp(epsilon) * mixed))


def _amplified(noise: float, rate: float, epsilon: float) -> float:
    inner = math.log1p(math.expm1(epsilon) / rate)
    return rate * gaussian_delta(noise, inner)


def true_delta(history: Sequence[GaussianEvent], epsilon: float, refine: int = 1) -> float:
    """Delta of the whole history, the worse of a record added and a record removed."""
    return max(_contour(_Loss(history, removed, refine), epsilon) for removed in (True, False))


@dataclass(frozen=True)
class _Loss:
    """The sum of the privacy losses in one direction, known by its moment generating function."""

    history: Sequence[GaussianEvent]
    removed: bool
    refine: int

    def log_mgf(self, a: float, u: NDArray[np.float64]) -> NDArray[np.complex128]:
        """log E[exp((a + iu) S)] for `u: float64[k]`, up to multiples of 2 pi i."""
        return sum(e.steps * self._one(e, a, u) for e in self.history)  # type: ignore[return-value]

    def _one(self, e: GaussianEvent, a: float, u: NDArray[np.float64]) -> NDArray[np.complex128]:
        noise, variance = e.noise_multiplier, e.noise_multiplier**2
        fastest = float(np.abs(u).max()) / variance  # of exp(iuL) along x
        step = min(noise / 12, 0.5 / max(fastest, 1e-9)) / self.refine
        # Both tails of either tilted density: the peak lies between -a and a + 1.
        low, high = (0.0, a + 1) if self.removed else (-a, 1.0)
        x = np.arange(low - 13 * noise, high + 13 * noise, step)
        ratio = self._log_ratio(e, x)
        loss = ratio if self.removed else -ratio
        log_base = norm.logpdf(x, scale=noise) + (ratio if self.removed else 0.0)
        real = log_base + a * loss + math.log(step)
        top = float(real.max())
        weights = np.exp(real - top)
        keep = weights > 1e-25
        weights, loss = weights[keep], loss[keep]
        return np.array([top + np.log(weights @ np.exp(1j * v * loss)) for v in u])

    @staticmethod
    def _log_ratio(e: GaussianEvent, x: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = (x - 0.5) / e.noise_multiplier**2
        if e.sample_rate == 1:
            return whole
        return np.logaddexp(math.log1p(-e.sample_rate), math.log(e.sample_rate) + whole)


def _contour(loss: _Loss, epsilon: float) -> float:
    zero = np.zeros(1)

    def exponent(log_a: float) -> float:
        a = math.exp(log_a)
        return float(loss.log_mgf(a, zero)[0].real) - a * epsilon - math.log(a) - math.log1p(a)

    found = minimize_scalar(exponent, bounds=(-7.0, 7.0), method="bounded", options={"xatol": 1e-2})
    a, height = math.exp(found.x), float(found.fun)
    if height < -200:
        return 0.0
    width = _width(loss, a)
    u = np.arange(0.0, 12.0 * loss.refine, 0.04 / loss.refine) * width
    terms = loss.log_mgf(a, u) - (a + 1j * u) * epsilon - np.log(a + 1j * u) - np.log1p(a + 1j * u)
    values = np.exp(terms).real
    values[0] /= 2
    return float(values.sum() * (u[1] - u[0]) / math.pi)


def _width(loss: _Loss, a: float) -> float:
    """The u at which the integrand has fallen by a few: 12 times that is the end of the line."""
    at = np.geomspace(1e-5, 1e5, 41)
    reference = float(loss.log_mgf(a, np.zeros(1))[0].real)
    for u in at:
        fallen = reference - float(loss.log_mgf(a, np.array([u]))[0].real)
        fallen += math.log(abs((a + 1j * u) * (a + 1 + 1j * u)) / (a * (a + 1)))
        if fallen > 1:
            return float(u)
    raise AssertionError("the integrand does not fall")


def least_delta(event: GaussianEvent, epsilon: float, points: int = 1 << 20) -> float:
    """A lower bound of the true delta: every loss is rounded *down* to a grid, then composed.

    For a record removed, under Poisson sampling. Rounding down, and leaving out the tails, can
    only lower E[(1 - exp(epsilon - S))+].
    """
    noise, rate, steps = event.noise_multiplier, event.sample_rate, event.steps
    reach = (9 * noise + 1) / noise**2
    top = float(np.logaddexp(math.log1p(-rate), math.log(rate) + reach - 0.5 / noise**2))
    bottom = math.log1p(-rate)
    grid = (2 * top - bottom) / points
    edges = np.arange(math.floor(bottom / grid), math.ceil(top / grid) + 1) * grid
    inner = np.maximum((np.expm1(edges) + rate) / rate, 1e-300)
    cuts = np.where(np.expm1(edges) + rate > 0, 0.5 + noise**2 * np.log(inner), -np.inf)
    above = (1 - rate) * norm.sf(cuts / noise) + rate * norm.sf((cuts - 1) / noise)
    mass = np.zeros(2 * points)
    mass[: len(edges) - 1] = -np.diff(above)
    spectrum = np.fft.rfft(mass) ** steps
    total = np.maximum(np.fft.irfft(spectrum, len(mass)), 0.0)
    # The transform wraps around: place zero loss by the offset of all steps together.
    losses = (np.arange(len(mass)) + steps * round(edges[0] / grid)) * grid
    return float(total @ np.maximum(-np.expm1(np.minimum(epsilon - losses, 0.0)), 0.0))
