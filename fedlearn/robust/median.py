"""The median of each value."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from fedlearn.core.settings import config
from fedlearn.robust.in_clear import Aggregation, InClear, Updates


@config
class Median(InClear):
    """Of every value the median.

    Source: Yin, Chen, Kannan and Bartlett 2018, "Byzantine-robust distributed learning: towards
    optimal statistical rates"; the arithmetic is Flower's.
    """

    kind: Literal["median"] = "median"

    @property
    def fewest(self) -> int:
        """Of two the median is the mean."""
        return 3

    @property
    def assumes(self) -> str:
        """More honest sites than liars."""
        return "assumes that most sites are honest"

    def chosen(self, updates: Updates, by: Aggregation) -> NDArray[Any]:
        """The value in the middle, or the mean of the two there."""
        return by.median(updates)
