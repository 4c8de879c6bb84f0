"""Krum, again and again, and then the middle of what it has chosen."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from fedlearn.core.settings import Count, config
from fedlearn.robust.in_clear import Aggregation, InClear, Updates


@config
class Bulyan(InClear):
    """Krum chooses `n - 2 liars` updates, one by one; of each value those nearest the median count.

    Source: El Mhamdi, Guerraoui and Rouault 2018, "The hidden vulnerability of distributed
    learning in Byzantium"; the arithmetic is Flower's.
    """

    kind: Literal["bulyan"] = "bulyan"
    liars: Count = 1

    @property
    def fewest(self) -> int:
        """So that three honest values are left around the median."""
        return 4 * self.liars + 3

    @property
    def assumes(self) -> str:
        """At most so many liars."""
        return f"assumes robust.liars={self.liars}"

    def chosen(self, updates: Updates, by: Aggregation) -> NDArray[Any]:
        """The mean of `n - 4 liars` values each."""
        return by.bulyan(updates, self.liars)
