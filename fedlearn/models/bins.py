"""Bins of the columns of a table at several widths, by public constants alone.

A bin of width one holds few records, and under noise little can be learned of it; a wide one
holds many, and tells them not apart. So every number stands in a bin of each of several widths,
each twice that of the one below, and what is learned of a place is the sum over all of them
(Hay et al. 2010, "Boosting the Accuracy of Differentially Private Histograms Through
Consistency", section 4: a hierarchy of intervals). No record decides where a bin begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.tasks import SQUASH_UNIT, TableInput

Floats = NDArray[np.float32]
Range = tuple[float, float]

FINEST: Final = 1e-3
HIGHEST: Final = 1e9
"""Of numbers without a range: smaller differences around zero are not told apart, nor larger
numbers."""

_GAP: Final = "_missing"

Kind = Literal["number", "categories"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """One column, and the bins that it is cut into.

    `place` is where it stands in a record, `gap` where the column stands that is 1 where this one
    has no value. A number `x`, in the scale of the model, is in bin `i` if `cuts[i - 1] <= x <
    cuts[i]`; `cuts: float32[bins - 1]` rise. A category is in the bin of its code. `widths` are
    those of the bins of each level, in bins of the finest.
    """

    name: str
    kind: Kind
    place: int
    gap: int | None
    cuts: Floats
    size: int
    widths: tuple[int, ...]

    @property
    def cells(self) -> tuple[int, ...]:
        """Of every level, with one for records without a value where a column tells of them."""
        return tuple(-(-self.size // width) + (self.gap is not None) for width in self.widths)

    def fine(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """The finest bins of values of the column in the scale of the model."""
        if self.kind == "categories":
            return values.astype(np.int64)
        return np.searchsorted(self.cuts, values.astype(np.float32), side="right")


def names_of(table: TableInput) -> tuple[str, ...]:
    """What the columns are called: x1, x2 and so on where they have no names."""
    return table.names or tuple(f"x{i + 1}" for i in range(table.width))


def axes_of(
    table: TableInput,
    *,
    bins: int,
    levels: int,
    ranges: Mapping[str, Range],
    edges: Mapping[str, Sequence[float]],
) -> tuple[Axis, ...]:
    """The columns of a table with their bins; one that says where another has a gap is part of it.

    `edges` are in the units of the table, `ranges` what a column with a range was scaled by.
    """
    names = names_of(table)
    numbers = names[: table.numeric]
    gaps = {
        name.removesuffix(_GAP): i
        for i, name in enumerate(numbers)
        if name.endswith(_GAP) and name.removesuffix(_GAP) in numbers[:i]
    }
    found = []
    for place, name in enumerate(names):
        if place in gaps.values():
            continue
        if place >= table.numeric:
            size = table.cardinalities[place - table.numeric]
            found.append(_axis(name, "categories", place, None, size=size, widths=(1,)))
            continue
        cuts = _cuts(name, bins, ranges.get(name), edges.get(name), place in table.squashed)
        widths = tuple(w for i in range(levels) if (w := 2**i) == 1 or w <= len(cuts))
        gap = gaps.get(name)
        size = len(cuts) + 1
        found.append(_axis(name, "number", place, gap, cuts=cuts, size=size, widths=widths))
    return tuple(found)


def _axis(
    name: str,
    kind: Kind,
    place: int,
    gap: int | None,
    *,
    size: int,
    widths: tuple[int, ...],
    cuts: Floats | None = None,
) -> Axis:
    none = np.zeros(0, np.float32)
    return Axis(
        name=name, kind=kind, place=place, gap=gap, size=size, widths=widths,
        cuts=none if cuts is None else cuts,
    )  # fmt: skip


def _cuts(
    name: str, bins: int, own: Range | None, edges: Sequence[float] | None, squashed: bool
) -> Floats:
    """Where the bins of a number begin, in the scale of the model: as given, or by its form."""
    if edges is not None:
        return np.unique(scaled(np.array(edges, np.float64), own, squashed))
    if own is not None and not squashed:
        return np.linspace(-1, 1, bins + 1)[1:-1].astype(np.float32)
    return np.unique(scaled(_decades(bins), None, squashed))


def _decades(bins: int) -> NDArray[np.float64]:
    """So many steps to a factor of ten on both sides of zero, in three digits."""
    most = round(bins * math.log10(HIGHEST / FINEST))
    steps = FINEST * (10.0 ** (np.arange(1, most + 1) / bins) - 1)
    digits = 10.0 ** (2 - np.floor(np.log10(steps)))
    steps = np.round(steps * digits) / digits
    return np.concatenate([-steps[::-1], [0.0], steps])


def scaled(values: NDArray[np.float64], own: Range | None, squashed: bool) -> Floats:
    """Values of a column as records hold them: in its range, squashed, or as they are."""
    if squashed:
        values = np.sign(values) * np.log1p(np.abs(values)) / SQUASH_UNIT
    elif own is not None:
        low, high = own
        values = np.clip((values - low) / (high - low) * 2 - 1, -1, 1)
    return values.astype(np.float32)
