"""The update that is nearest to its neighbours, or the mean of several such."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from fedlearn.core.settings import Count, config
from fedlearn.robust.in_clear import Aggregation, InClear, Updates


@config
class Krum(InClear):
    """Krum; with `selected` above 1, MultiKrum: the mean of so many updates.

    An update is judged by the squared distances to its `n - liars - 2` nearest. Under Krum the
    model of one site becomes the model of all, round by round.

    Source: Blanchard, El Mhamdi, Guerraoui and Stainer 2017, "Machine learning with adversaries:
    Byzantine tolerant gradient descent"; the arithmetic is Flower's.
    """

    kind: Literal["krum"] = "krum"
    liars: Count = 1
    selected: Count = 1

    @property
    def fewest(self) -> int:
        """Two more than honest sites must be for a majority among neighbours."""
        return max(2 * self.liars + 3, self.selected + self.liars + 2)

    @property
    def assumes(self) -> str:
        """At most so many liars, and a choice that leaves them out."""
        return f"assumes robust.liars={self.liars} and takes robust.selected={self.selected}"

    def chosen(self, updates: Updates, by: Aggregation) -> NDArray[Any]:
        """The mean of those that are kept."""
        return by.krum(updates, self.liars, self.selected)
