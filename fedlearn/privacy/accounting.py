"""Epsilon of a history of events, never too low.

The privacy-loss distribution of every mechanism is discretised so that it
dominates the true one (Doroshenko et al. 2022, "Connect the Dots"), composed by
FFT, and read off at delta, in both directions (a record added, a record
removed); the larger counts. dp-accounting does the mathematics; this module
chooses its grid and its truncation per history, because one grid cannot serve
an epsilon of 0.01 and one of 100.

Sums of discrete Gaussians are so close to Gaussian that they go the same way,
with the difference added (`integer_bounds.gaussian_gap`). Skellam noise has
only Renyi divergences (`renyi`). A history of both is bounded twice, all of it
by Renyi divergences, and in two parts that share delta; the smaller bound counts.

Not here: which mechanism ran (`events`), how much noise to use (`calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, assert_never

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.stats import norm

from fedlearn.privacy import renyi
from fedlearn.privacy.discrete import draw_error
from fedlearn.privacy.events import (
    ClientGaussianEvent,
    DiscreteSumEvent,
    Event,
    GaussianEvent,
    Unit,
    merged,
)
from fedlearn.privacy.integer_bounds import LOG_GAP_FAILURE, gaussian_gap

ACCOUNTANT: Final = "PLD (dp-accounting, connect the dots)"
"""What reports call the method behind `epsilon`."""

SMALLEST_DELTA: Final = 1e-12
"""Below this the rounding errors of the FFT are no longer small beside delta."""

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
# Share of delta for the chance that a sampler or a bound fails, times e^epsilon.
_RESERVE: Final = 1e-4
# How delta is shared between the two parts of a mixed history.
_SPLITS: Final = (0.5, 0.1, 0.9, 0.01, 0.99)


def epsilon(
    events: Iterable[Event], delta: float, *, unit: Unit = "record", cohort_known: bool = True
) -> float:
    """The smallest epsilon we can prove for the whole history at `delta`.

    `unit` says whose protection is asked for. A client-level event protects
    each record of the client too, at twice its sensitivity (another record
    moves the client's update from one clipped vector to another); a record-level
    event promises nothing for a whole client. `cohort_known` is False only for
    an adversary who cannot tell which clients took part in which step: only for
    that one does the sampling of clients count.

    Guarantees: never below the true epsilon of the history (adaptively composed);
    at most 2 percent above it for Gaussian histories and an epsilon from 0.01 to
    100; zero for an empty history; infinite if anything was released in clear.

    Raises ValueError if delta is not in [1e-12, 1).
    """
    if not SMALLEST_DELTA <= delta < 1:
        raise ValueError(f"delta={delta}: must be in [{SMALLEST_DELTA}, 1)")
    history = _seen(events, unit, cohort_known)
    if history is None:
        return math.inf
    moments = [e for e in history if isinstance(e, DiscreteSumEvent) and e.law == "skellam"]
    losses = [event for event in history if event not in moments]
    if not moments:
        return _by_loss(losses, delta)
    if not losses:
        return _by_moments(moments, delta)
    parts = (
        _by_loss(losses, share * delta) + _by_moments(moments, (1 - share) * delta)
        for share in _SPLITS
        if min(share, 1 - share) * delta >= SMALLEST_DELTA
    )
    return min(_by_moments(history, delta), *parts)


def epsilon_rdp(
    events: Iterable[Event], delta: float, *, unit: Unit = "record", cohort_known: bool = True
) -> float:
    """The same quantity by Renyi differential privacy, as a cross-check; arguments as `epsilon`.

    Also an upper bound, by an independent derivation, and looser: an `epsilon`
    above it would mean that one of the two is wrong.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: must be in (0, 1)")
    history = _seen(events, unit, cohort_known)
    return math.inf if history is None else _by_moments(history, delta)


def _seen(
    events: Iterable[Event], unit: Unit, cohort_known: bool
) -> tuple[GaussianEvent | DiscreteSumEvent, ...] | None:
    """The history in terms of `unit` and of what the adversary knows; None if it promises nothing."""
    history: list[GaussianEvent | DiscreteSumEvent] = []
    for event in events:
        match event:
            case GaussianEvent():
                own: Unit = "record"
                plain: GaussianEvent | DiscreteSumEvent = event
            case ClientGaussianEvent():
                own = "client"
                plain = GaussianEvent(
                    noise_multiplier=event.noise_multiplier,
                    sample_rate=1.0 if cohort_known else event.sample_rate,
                    steps=event.steps,
                )
            case DiscreteSumEvent():
                own, plain = event.unit, event
            case _:
                assert_never(event)
        if own == "record" and unit == "client":
            return None
        history.append(_twice(plain) if own != unit else plain)
    # `merged` returns the kinds that it is given.
    return merged(history)  # type: ignore[return-value]


def _twice(event: GaussianEvent | DiscreteSumEvent) -> GaussianEvent | DiscreteSumEvent:
    """The same with twice the sensitivity, and without the gain of sampling.

    Sampling is no longer between a vector and none, but between two vectors:
    knowing the coins can only help the adversary, and then all noise meets both.
    """
    match event:
        case GaussianEvent():
            return replace(event, noise_multiplier=event.noise_multiplier / 2, sample_rate=1.0)
        case DiscreteSumEvent():
            return replace(event, l2_sensitivity=2 * event.l2_sensitivity, sample_rate=1.0)
        case _:
            assert_never(event)


def _by_moments(history: Sequence[GaussianEvent | DiscreteSumEvent], delta: float) -> float:
    """By Renyi divergences, less what the tables of integer noise and the rounding may add."""
    if not history:
        return 0.0
    left = delta - math.fsum(_rounding_failure(event) for event in history)
    if left <= 0:
        return math.inf
    found = renyi.epsilon([renyi.curve(event) for event in history], left * (1 - _RESERVE))
    return _if_reserved(found, math.fsum(map(_sampler_error, history)), left)


def _by_loss(history: Sequence[GaussianEvent | DiscreteSumEvent], delta: float) -> float:
    """By privacy-loss distributions, with discrete Gaussians taken for continuous ones."""
    discrete = [event for event in history if isinstance(event, DiscreteSumEvent)]
    gaussians = [_as_gaussian(event) for event in history]
    if not discrete:
        return _epsilon(_unsampled_as_one(merged(gaussians)), delta)
    left = delta - math.fsum(map(_rounding_failure, discrete))
    gap = math.fsum(
        gaussian_gap(e.share_stddev, e.shares, e.dimension * e.steps) for e in discrete
    )
    inner = left * (1 - _RESERVE) * math.exp(-min(gap, 700.0))
    if inner < SMALLEST_DELTA / 2:
        return _by_moments(history, delta)
    found = _epsilon(_unsampled_as_one(merged(gaussians)), inner) + 2 * gap
    failure = math.exp(LOG_GAP_FAILURE) * len(discrete) + math.fsum(map(_sampler_error, discrete))
    # Where the integers are few the gap is wide, and Renyi divergences may be closer.
    return min(_if_reserved(found, failure, left), _by_moments(history, delta))


def _as_gaussian(event: GaussianEvent | DiscreteSumEvent) -> GaussianEvent:
    return GaussianEvent(
        noise_multiplier=event.noise_multiplier, sample_rate=event.sample_rate, steps=event.steps
    )


def _rounding_failure(event: GaussianEvent | DiscreteSumEvent) -> float:
    # The coins of the rounding do not depend on the data, so this needs no factor e^epsilon.
    return event.rounding_failure * event.steps if isinstance(event, DiscreteSumEvent) else 0.0


def _sampler_error(event: GaussianEvent | DiscreteSumEvent) -> float:
    """Total variation distance of all noise of `event` from its law."""
    if isinstance(event, GaussianEvent):
        return 0.0
    return draw_error(event.share_stddev) * event.shares * event.dimension * event.steps


def _if_reserved(found: float, failure: float, delta: float) -> float:
    """`found`, if a chance of `failure` in both directions fits into the reserve of delta."""
    if math.isinf(found) or failure == 0:
        return found
    fits = math.log(failure) + np.logaddexp(0, found) <= math.log(_RESERVE * delta)
    return found if fits else math.inf


def _unsampled_as_one(history: Sequence[Event]) -> tuple[GaussianEvent, ...]:
    """Replace all Gaussians without sampling by the single Gaussian that equals them exactly.

    Gaussians compose by adding their squared signal-to-noise ratios
    (Dong, Roth and Su 2022, corollary 3.3).
    """
    gaussians = [event for event in history if isinstance(event, GaussianEvent)]
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
    reach = -noise * float(norm.ppf(0.5 * math.exp(_log_tail(event, allowance))))
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
