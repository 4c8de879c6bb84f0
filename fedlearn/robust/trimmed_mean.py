"""The mean of each value without the largest and the smallest."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from fedlearn.core.settings import Count, config
from fedlearn.robust.in_clear import Aggregation, InClear, Updates


@config
class TrimmedMean(InClear):
    """Of every value the `liars` largest and the `liars` smallest are left out of the mean.

    Source: Yin, Chen, Kannan and Bartlett 2018, "Byzantine-robust distributed learning: towards
    optimal statistical rates"; the arithmetic is Flower's.
    """

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    liars: Count = 1

    @property
    def fewest(self) -> int:
        """So that one value is left."""
        return 2 * self.liars + 1

    @property
    def assumes(self) -> str:
        """At most so many liars."""
        return f"assumes robust.liars={self.liars}"

    def chosen(self, updates: Updates, by: Aggregation) -> NDArray[Any]:
        """The mean of what is left; the quarter keeps the share from being rounded to one less."""
        return by.trimmed_mean(updates, (self.liars + 0.25) / len(updates))
