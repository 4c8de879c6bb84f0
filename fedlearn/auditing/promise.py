"""What a run promises, as tests and attacks can be held against it.

A promise is more than its one epsilon at one delta: the accountant proves an
epsilon at every delta, and each such pair limits what any attack can reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtr

from fedlearn.auditing.gaussian import mu_of
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.privacy import Event
from fedlearn.privacy.accounting import epsilon

_TRIED: Final = (0.01, 0.05, 0.2, 0.5, 0.8, 0.98, 1.0, 1.01, 1.03, 1.1, 1.3)
"""Deltas, as shares of the advantage of a Gaussian of the same epsilon."""

_LARGEST_EXPONENT: Final = 700.0


@dataclass(frozen=True, kw_only=True)
class Promise:
    """(epsilon, delta), and in `points` more such pairs that hold for the same run."""

    epsilon: float
    delta: float
    points: tuple[tuple[float, float], ...]

    @property
    def advantage(self) -> float:
        """At most so much, the total variation distance between neighbours, is gained by a guess.

        Every pair bounds it by `(e^epsilon - 1 + 2 delta) / (e^epsilon + 1)`
        (Kairouz, Oh and Viswanath 2015, theorem 2.1), exactly where epsilon is zero.
        """
        return min(1.0, *(math.tanh(e / 2) + 2 * d / (_exp(e) + 1) for e, d in self.points))

    def found_at(self, false_alarms: float) -> float:
        """The most members that an attack finds at this rate of false alarms, over all records."""
        return min(1.0, *(_found_at(false_alarms, e, d) for e, d in self.points))

    def area(self) -> float:
        """At most the area under the curve of `found_at`: steps that lie above it, to .0001."""
        return float(np.mean([self.found_at(rate) for rate in np.linspace(0, 1, 10_001)[1:]]))


def promise_of(plan: PrivacyPlan) -> Promise | None:
    """What `plan` promises to one record; None where nothing finite is promised."""
    promised = epsilon([plan.total_event], plan.delta)
    if not math.isfinite(promised):
        return None
    return Promise(
        epsilon=promised,
        delta=plan.delta,
        points=((promised, plan.delta), *_points([plan.total_event], promised, plan.delta)),
    )


def _points(
    events: Sequence[Event], promised: float, delta: float
) -> tuple[tuple[float, float], ...]:
    gaussian = 2 * float(ndtr(mu_of(promised, delta) / 2)) - 1 if promised > 0 else 0.0
    deltas = [share * gaussian for share in _TRIED if delta < share * gaussian < 1]
    return tuple((epsilon(events, one), one) for one in deltas)


def _found_at(false_alarms: float, epsilon: float, delta: float) -> float:
    up = _exp(epsilon) * false_alarms + delta
    down = 1 - math.exp(-epsilon) * (1 - delta - false_alarms)
    return max(0.0, min(up, down))


def _exp(epsilon: float) -> float:
    return math.exp(min(epsilon, _LARGEST_EXPONENT))
