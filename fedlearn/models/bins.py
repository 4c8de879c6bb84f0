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
    own: Range | None = None
    """The range that the column was scaled by."""
    squashed: bool = False
    open: bool = False
    """Whether its bins go as far as numbers do, so that most have no record."""

    @property
    def cells(self) -> tuple[int, ...]:
        """Of every level, with one for records without a value where a column tells of them."""
        return tuple(-(-self.size // width) + (self.gap is not None) for width in self.widths)

    def fine(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """The finest bins of values of the column in the scale of the model."""
        if self.kind == "categories":
            return values.astype(np.int64)
        return np.searchsorted(self.cuts, values.astype(np.float32), side="right")

    def own_cuts(self) -> NDArray[np.float64]:
        """The least numbers, in the units of the table, that are in all bins but the first.

        Exactly: a number is at or above one if and only if a record that was made of it is at or
        above the cut, rounding included.
        """
        low, high = (np.full(len(self.cuts), _place(end)) for end in (-_MOST, _MOST))
        while (low + 1 < high).any():
            middle = (low >> 1) + (high >> 1) + (low & high & 1)
            above = scaled(_float(middle), self.own, self.squashed) >= self.cuts
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return _float(high)


_MOST: Final = 3e38


def _place(value: float) -> np.int64:
    """Where a number stands among all of float64, in their order."""
    bits = np.float64(value).view(np.int64)
    return bits if bits >= 0 else np.int64(-(bits & np.iinfo(np.int64).max))


def _float(places: NDArray[np.int64]) -> NDArray[np.float64]:
    """The numbers at places; the other way of `_place`."""
    size: NDArray[np.float64] = np.abs(places).view(np.float64)
    return np.where(places < 0, -size, size)


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
            none = np.zeros(0, np.float32)
            found.append(
                Axis(name=name, kind="categories", place=place, gap=None, cuts=none, size=size,
                     widths=(1,))
            )  # fmt: skip
            continue
        squashed, own, given = place in table.squashed, ranges.get(name), edges.get(name)
        cuts = _cuts(bins, own, given, squashed)
        found.append(
            Axis(
                name=name, kind="number", place=place, gap=gaps.get(name), cuts=cuts,
                size=len(cuts) + 1, own=None if squashed else own, squashed=squashed,
                widths=tuple(w for i in range(levels) if (w := 2**i) == 1 or w <= len(cuts)),
                open=given is None and (squashed or own is None),
            )
        )  # fmt: skip
    return tuple(found)


def _cuts(bins: int, own: Range | None, edges: Sequence[float] | None, squashed: bool) -> Floats:
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
