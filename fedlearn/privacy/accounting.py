"""Epsilon of a history of events, never too low.

Gaussian mechanisms are accounted by privacy-loss distributions (`loss_distribution`).

Sums of discrete Gaussians are so close to Gaussian that they go the same way,
with the difference added (`integer_bounds.gaussian_gap`). Skellam noise has
only Renyi divergences, the second accountant, looser and for all mechanisms. A
history of both is bounded twice, all of it by Renyi divergences, and in two parts
that share delta; the smaller bound counts.

Renyi divergences of whole orders add up over events, and the best order gives an
epsilon. Whole orders only, because the bounds for sampling and for the Skellam
mechanism hold for these.

Not here: which mechanism ran (`events`), how much noise to use (`calibration`).

Sources: Mironov 2017, "Renyi Differential Privacy"; Mironov, Talwar, Zhang
2019, for the sampled Gaussian; Zhu and Wang 2019, "Poisson Subsampled Renyi
Differential Privacy", theorem 5, for other sampled mechanisms; conversion:
Canonne, Kamath, Steinke 2020, proposition 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, assert_never, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from fedlearn.privacy import loss_distribution
from fedlearn.privacy.discrete import draw_error
from fedlearn.privacy.events import (
    ClientGaussianEvent,
    DiscreteSumEvent,
    Event,
    GaussianEvent,
    PersonGaussianEvent,
    Unit,
    merged,
)
from fedlearn.privacy.integer_bounds import (
    LOG_GAP_FAILURE,
    discrete_gaussian_rho,
    gaussian_gap,
    skellam_rdp,
)

ACCOUNTANT: Final = "PLD (dp-accounting, connect the dots)"
"""What reports call the method behind `epsilon`."""

SMALLEST_DELTA: Final = 1e-12
"""Below this the rounding errors of the FFT are no longer small beside delta."""

# Share of delta for the chance that a sampler or a bound fails, times e^epsilon.
_RESERVE: Final = 1e-4
# How delta is shared between the two parts of a mixed history.
_SPLITS: Final = (0.5, 0.1, 0.9, 0.01, 0.99)

Curve = NDArray[np.float64]

ORDERS: Final = np.array([*range(2, 65), *range(72, 257, 8), 384, 512, 1024], np.float64)


def epsilon(
    events: Iterable[Event], delta: float, *, unit: Unit = "record", cohort_known: bool = True
) -> float:
    """The smallest epsilon we can prove for the whole history at `delta`.

    `unit` says whose protection is asked for. An event for a larger unit protects
    each smaller one in it too, at twice its sensitivity (another record moves
    what the client, or the person, adds from one clipped vector to another); an event for
    a smaller unit promises nothing for a larger one. `cohort_known` is False only for
    an adversary who cannot tell which clients took part in which step: only for
    that one does the sampling of clients count.

    Guarantees: never below the true epsilon of the history (adaptively composed);
    at most 2 percent above it for Gaussian histories and an epsilon from 0.01 to
    100; zero for an empty history; infinite if anything was released in clear,
    and above about 30 where integer noise from tables is part of the history.

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
    return min([_by_moments(history, delta), *parts])  # no part where delta is next to nothing


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


_SIZES: Final = {unit: size for size, unit in enumerate(get_args(Unit))}
"""The larger unit holds the smaller one."""

_NO_NOISE: Final = 1e-100
"""A noise multiplier whose square no float holds, alone or with others: as if in clear."""


def _seen(
    events: Iterable[Event], unit: Unit, cohort_known: bool
) -> tuple[GaussianEvent | DiscreteSumEvent, ...] | None:
    """The history in terms of `unit` and of what is known; None if it promises nothing."""
    history: list[GaussianEvent | DiscreteSumEvent] = []
    for event in events:
        match event:
            case GaussianEvent():
                own: Unit = "record"
                plain: GaussianEvent | DiscreteSumEvent = event
            case PersonGaussianEvent():
                own = "person"
                plain = GaussianEvent(
                    noise_multiplier=event.noise_multiplier,
                    sample_rate=event.sample_rate,
                    steps=event.steps,
                )
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
        if _SIZES[own] < _SIZES[unit] or 0 < plain.noise_multiplier < _NO_NOISE:
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
    found = renyi_epsilon([renyi_curve(event) for event in history], left * (1 - _RESERVE))
    return _if_reserved(found, math.fsum(map(_sampler_error, history)), left)


def _by_loss(history: Sequence[GaussianEvent | DiscreteSumEvent], delta: float) -> float:
    """By privacy-loss distributions, with discrete Gaussians taken for continuous ones."""
    discrete = [event for event in history if isinstance(event, DiscreteSumEvent)]
    gaussians = [_as_gaussian(event) for event in history]
    if not discrete:
        return loss_distribution.epsilon(gaussians, delta)
    left = delta - math.fsum(map(_rounding_failure, discrete))
    gap = math.fsum(gaussian_gap(e.share_stddev, e.shares, e.dimension * e.steps) for e in discrete)
    inner = left * (1 - _RESERVE) * math.exp(-gap)
    if inner < SMALLEST_DELTA / 2:
        return _by_moments(history, delta)
    found = loss_distribution.epsilon(gaussians, inner) + 2 * gap
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


# --- Renyi divergences ----------------------------------------------------------------


def renyi_curve(event: Event) -> Curve:
    """Renyi divergences of all steps of `event` at `ORDERS`, in both directions of its relation."""
    return event.steps * _curve_of_a_step(replace(event, steps=1))


@lru_cache(maxsize=512)
def _curve_of_a_step(event: Event) -> Curve:
    """The same of one step; a ledger asks for it again whenever steps are added."""
    match event:
        case GaussianEvent() | PersonGaussianEvent() | ClientGaussianEvent():
            if event.noise_multiplier == 0:
                return np.full(len(ORDERS), math.inf)
            # For Gaussians the sum over the binomial is exact, without the factor 3.
            excess = 1.0
        case DiscreteSumEvent():
            excess = 3.0
        case _:
            assert_never(event)
    if event.sample_rate == 1:
        return _unsampled(event, ORDERS)
    return _sampled(event, event.sample_rate, excess)


def renyi_epsilon(curves: Sequence[Curve], delta: float) -> float:
    """The epsilon at `delta` of everything in `curves` together; infinite if no order gives one."""
    total = np.sum(curves, axis=0)
    found = total + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(float(np.min(found)), 0.0)


def _unsampled(event: Event, orders: Curve) -> Curve:
    match event:
        case GaussianEvent() | PersonGaussianEvent() | ClientGaussianEvent():
            return np.asarray(orders / (2 * event.noise_multiplier**2))
        case DiscreteSumEvent(law="discrete_gaussian"):
            rho = discrete_gaussian_rho(
                event.l2_sensitivity, event.dimension, event.share_stddev, event.shares
            )
            return np.asarray(orders * rho)
        case DiscreteSumEvent():
            return skellam_rdp(orders, event.l2_sensitivity, event.dimension, event.noise_stddev**2)
        case _:
            assert_never(event)


def _sampled(event: Event, rate: float, excess: float) -> Curve:
    """With every unit taking part by a coin of chance `rate`, order by order."""
    return np.array([_sampled_at(event, rate, excess, int(order)) for order in ORDERS])


def _sampled_at(event: Event, rate: float, excess: float, order: int) -> float:
    terms = np.arange(order + 1, dtype=np.float64)
    logs = gammaln(order + 1) - gammaln(terms + 1) - gammaln(order - terms + 1)
    logs += terms * math.log(rate) + (order - terms) * math.log1p(-rate)
    logs[2:] += (terms[2:] - 1) * _unsampled(event, terms[2:])
    logs[3:] += math.log(excess)
    return max(float(logsumexp(logs)) / (order - 1), 0.0)
