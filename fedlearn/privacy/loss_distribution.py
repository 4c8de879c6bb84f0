"""Privacy-loss distributions of Gaussian histories: composed on one grid, read off at delta.

The distribution of every mechanism is discretised so that it dominates the true
one (Doroshenko et al. 2022, "Connect the Dots"), composed by FFT, and read off
in both directions (a record added, a record removed); the larger counts.
dp-accounting does the mathematics; this module chooses grid and truncation per
history, because one grid cannot serve an epsilon of 0.01 and one of 100.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from scipy.special import ndtri

from fedlearn.privacy.events import GaussianEvent, merged

SMALLEST_NOISE: Final = 0.01
"""Below this noise multiplier one step may cost an epsilon of thousands: reported as infinite."""

# Measured: the excess over the true epsilon falls with the square of the step
# of the grid over the standard deviation of the loss, and is 0.03 percent here.
_FINENESS: Final = 0.05
# A heavy tail (small rate, small noise) would need a huge grid for no gain.
_MAX_POINTS: Final = 1 << 14
# Losses below this are lost in the rounding of float64 probabilities.
_MIN_INTERVAL: Final = 1e-7
# Share of delta given away to truncated tails, counted as infinite loss.
_TRUNCATION: Final = 1e-3
# Beyond this dp-accounting's bound on the support of a power is loose; compose in two stages.
_MAX_POWER: Final = 4096


def epsilon(history: Iterable[GaussianEvent], delta: float) -> float:
    """The epsilon of a history of Gaussian events at `delta`.

    Guarantees: never below the true one; zero for an empty history, infinite
    for a noise multiplier below `SMALLEST_NOISE`.
    """
    return _epsilon(_unsampled_as_one(history), delta)


def _unsampled_as_one(history: Iterable[GaussianEvent]) -> tuple[GaussianEvent, ...]:
    """Replace all Gaussians without sampling by the single Gaussian that equals them exactly.

    Gaussians compose by adding their squared signal-to-noise ratios
    (Dong, Roth and Su 2022, corollary 3.3).
    """
    gaussians = [event for event in merged(history) if isinstance(event, GaussianEvent)]
    whole = [event for event in gaussians if event.sample_rate == 1]
    if not whole:
        return tuple(gaussians)
    if any(event.noise_multiplier == 0 for event in whole):
        noise = 0.0
    else:
        noise = 1 / math.sqrt(math.fsum(e.steps / e.noise_multiplier**2 for e in whole))
    rest = [event for event in gaussians if event.sample_rate < 1]
    return (GaussianEvent(noise_multiplier=noise, sample_rate=1.0, steps=1), *rest)


@lru_cache(maxsize=4096)
def _epsilon(history: tuple[GaussianEvent, ...], delta: float) -> float:
    if not history:
        return 0.0
    if any(event.noise_multiplier < SMALLEST_NOISE for event in history):
        return math.inf
    allowance = _TRUNCATION * delta / len(history)
    interval = _interval(history, allowance)
    total: Any = None
    for event in history:
        distribution = _distribution(event, interval, allowance)
        total = distribution if total is None else total.compose(distribution, allowance)
    return float(total.get_epsilon_for_delta(delta))


def _distribution(event: GaussianEvent, interval: float, allowance: float) -> Any:
    """The dominating loss distribution of all steps of `event`, on multiples of `interval`.

    At most about `allowance` of probability is moved to an infinite loss.
    """
    # Takes a second, most of it SciPy's statistics: not for runs without privacy.
    from dp_accounting.pld import privacy_loss_distribution as pld

    one = pld.from_gaussian_mechanism(
        event.noise_multiplier,
        sampling_prob=event.sample_rate,
        value_discretization_interval=interval,
        log_mass_truncation_bound=_log_tail(event, allowance),
    )
    return _power(one, event.steps, allowance)


def _power(distribution: Any, times: int, allowance: float) -> Any:
    if times == 1:
        return distribution
    if times <= _MAX_POWER:
        return distribution.self_compose(times, allowance)
    inner = math.isqrt(times)
    outer, left = divmod(times, inner)
    block = _power(distribution, inner, allowance / (4 * outer))
    whole = _power(block, outer, allowance / 4)
    if left == 0:
        return whole
    return whole.compose(_power(distribution, left, allowance / 4), allowance / 4)


def _log_tail(event: GaussianEvent, allowance: float) -> float:
    """Logarithm of the noise probability that one step may cut off at either end."""
    return math.log(allowance / event.steps)


def _interval(history: Sequence[GaussianEvent], allowance: float) -> float:
    """The step of the common grid: fine against the root mean square loss of one step."""
    tops = [_largest_loss(event, allowance) for event in history]
    variances = [
        event.steps * min(_loss_stddev(event), top) ** 2
        for event, top in zip(history, tops, strict=True)
    ]
    spread = math.sqrt(math.fsum(variances) / sum(event.steps for event in history))
    return max(_FINENESS * spread, 2 * max(tops) / _MAX_POINTS, _MIN_INTERVAL)


def _largest_loss(event: GaussianEvent, allowance: float) -> float:
    """The largest loss of one step inside the truncated tails: log(1 - q + q exp(unsampled))."""
    noise, rate = event.noise_multiplier, event.sample_rate
    reach = -noise * float(ndtri(0.5 * math.exp(_log_tail(event, allowance))))
    unsampled = (reach + 0.5) / noise**2
    if rate == 1:
        return unsampled
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) + unsampled))


def _loss_stddev(event: GaussianEvent) -> float:
    """Standard deviation of the loss of one step: exact at rate 1, the leading term below it."""
    unsampled = 1 / event.noise_multiplier
    if event.sample_rate == 1:
        return unsampled
    leading = event.sample_rate * math.sqrt(math.expm1(min(unsampled**2, 700.0)))
    return min(leading, unsampled)
