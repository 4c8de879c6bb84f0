"""Flower's own robust aggregations, as the rules of a run ask for them (`fedlearn.robust`).

They are functions of a list of updates, each a list of arrays with a weight. Weights are said by
the sites themselves and no rule looks at them, so all are 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.flower.private import (
    aggregate_bulyan,
    aggregate_krum,
    aggregate_median,
    aggregate_trimmed_avg,
)
from fedlearn.robust.in_clear import Aggregation, Updates


class FlowerAggregation:
    """What `flwr.server.strategy.aggregate` does."""

    def krum(self, updates: Updates, liars: int, keep: int) -> NDArray[Any]:
        """Krum, or MultiKrum with `keep` above 1."""
        return _only(aggregate_krum(_results(updates), liars, keep))

    def bulyan(self, updates: Updates, liars: int) -> NDArray[Any]:
        """Bulyan over Krum."""
        return _only(aggregate_bulyan(_results(updates), liars, aggregate_krum, to_keep=0))

    def trimmed_mean(self, updates: Updates, share: float) -> NDArray[Any]:
        """The mean without a share, rounded down to whole updates, at each end."""
        return _only(aggregate_trimmed_avg(_results(updates), share))

    def median(self, updates: Updates) -> NDArray[Any]:
        """The median of each value."""
        return _only(aggregate_median(_results(updates)))


AGGREGATION: Aggregation = FlowerAggregation()


def _results(updates: Updates) -> list[tuple[list[NDArray[Any]], int]]:
    """As Flower takes them, in float64: distances between near updates are small differences."""
    return [([np.asarray(one, np.float64)], 1) for one in updates]


def _only(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    (found,) = arrays
    return found
