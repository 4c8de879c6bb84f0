"""Renyi divergences of a history of events: the second accountant, looser and for all mechanisms.

Divergences of whole orders add up over events, and the best order gives an
epsilon. Whole orders only, because the bounds for sampling and for the Skellam
mechanism hold for these.

Sources: Mironov 2017, "Renyi Differential Privacy"; Mironov, Talwar, Zhang
2019, for the sampled Gaussian; Zhu and Wang 2019, "Poisson Subsampled Renyi
Differential Privacy", theorem 5, for other sampled mechanisms; conversion:
Canonne, Kamath, Steinke 2020, proposition 12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from fedlearn.privacy import integer_bounds
from fedlearn.privacy.events import ClientGaussianEvent, DiscreteSumEvent, Event, GaussianEvent

Curve = NDArray[np.float64]

ORDERS: Final = np.array([*range(2, 65), *range(72, 257, 8), 384, 512, 1024], np.float64)


def curve(event: Event) -> Curve:
    """Renyi divergences of all steps of `event` at `ORDERS`, in both directions of its relation."""
    match event:
        case GaussianEvent() | ClientGaussianEvent():
            if event.noise_multiplier == 0:
                return np.full(len(ORDERS), math.inf)
            # For Gaussians the sum over the binomial is exact, without the factor 3.
            excess = 1.0
        case DiscreteSumEvent():
            excess = 3.0
        case _:
            assert_never(event)
    if event.sample_rate == 1:
        return event.steps * _unsampled(event, ORDERS)
    return event.steps * _sampled(event, event.sample_rate, excess)


def epsilon(curves: Sequence[Curve], delta: float) -> float:
    """The epsilon at `delta` of everything in `curves` together; infinite if no order gives one."""
    total = np.sum(curves, axis=0)
    found = total + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(float(np.min(found)), 0.0)


def _unsampled(event: Event, orders: Curve) -> Curve:
    match event:
        case GaussianEvent() | ClientGaussianEvent():
            return np.asarray(orders / (2 * event.noise_multiplier**2))
        case DiscreteSumEvent(law="discrete_gaussian"):
            rho = integer_bounds.discrete_gaussian_rho(
                event.l2_sensitivity, event.dimension, event.share_stddev, event.shares
            )
            return np.asarray(orders * rho)
        case DiscreteSumEvent():
            return integer_bounds.skellam_rdp(
                orders, event.l2_sensitivity, event.dimension, event.noise_stddev**2
            )
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
