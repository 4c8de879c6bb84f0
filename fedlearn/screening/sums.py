"""From the records of a table to sums: how many there are of each class, and where they stand.

A record stands in every column at a public place: from -1 to 1 in the range of a number, or on a
scale of its size; in one of the known categories. So it adds at most 1, in the norm, to each
column's sums, whatever it holds, and 1 to the number of records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.tables.scaling import Scaling, public_ranges
from fedlearn.mechanisms import EvaluationPlan
from fedlearn.tasks import SQUASH_UNIT, TableInput, TaskForm

Floats = NDArray[np.float64]

_SMALLEST: Final = -2.0
_DECADES: Final = 8.0
"""Numbers without a range are told apart by their size from a hundredth on, in so many decades."""

_BEYOND: Final = 1e3
"""Of every scale."""

_MOST_CATEGORIES: Final = 32
"""Categories from here on are taken together."""


@dataclass(frozen=True, kw_only=True)
class PlacedColumn:
    """A column and where its values stand.

    `range`: a number with a public range from `low` to `high`; `size`: one without, by its order of
    magnitude; `share`: one of two values or more (`width`), or a share from 0 to 1.
    """

    name: str
    scale: Literal["range", "size", "share"]
    width: int = 1
    low: float = math.nan
    high: float = math.nan

    def places(self, scaled: NDArray[np.floating]) -> Floats:
        """Where scaled values stand: `float[n]` to `float64[n, width]`, of a norm of at most 1."""
        known = np.clip(np.nan_to_num(np.asarray(scaled, np.float64)), -_BEYOND, _BEYOND)
        if self.width > 1:
            codes = np.clip(np.rint(known), 0, self.width - 1).astype(np.int64)
            return np.asarray(np.eye(self.width)[codes], np.float64)
        if self.scale == "size":
            known = (_decades(_unsquashed(known)) - _SMALLEST) / _DECADES * 2 - 1
        elif math.isnan(self.low):
            known = known * 2 - 1
        return np.clip(known, -1.0, 1.0)[:, None]

    def values(self, scaled: NDArray[np.floating]) -> Floats:
        """Scaled values in the column's own unit, cut off at its range."""
        known = np.asarray(scaled, np.float64)
        if self.scale == "size":
            return _unsquashed(known)
        return known if math.isnan(self.low) else self._in_unit(known)

    def mean(self, place: float) -> float:
        """What a mean place stands for, in the column's own unit; of sizes, the geometric mean."""
        if self.scale == "size":
            return float(10 ** (_SMALLEST + (place + 1) / 2 * _DECADES))
        return float(self._in_unit(np.array(place)))

    def _in_unit(self, places: Floats) -> Floats:
        return np.asarray(self.low + (places + 1) / 2 * (self.high - self.low))


def _unsquashed(values: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(np.sign(values) * np.expm1(np.abs(values) * SQUASH_UNIT))


def _decades(values: Floats) -> Floats:
    """Powers of ten; what is not above zero is as small as can be."""
    found: Floats = np.log10(np.maximum(values, 10.0**_SMALLEST))
    return found


@dataclass(frozen=True)
class ScreeningLayout:
    """The sums of a table: `float64[classes, width]`, the number of records and then `columns`."""

    columns: tuple[PlacedColumn, ...]
    classes: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of what one record adds to its class."""
        return (1, *(column.width for column in self.columns))

    @cached_property
    def width(self) -> int:
        """Numbers for each class."""
        return sum(self.sizes)

    @property
    def size(self) -> int:
        """Numbers of all sums."""
        return len(self.classes) * self.width

    @property
    def parts(self) -> Iterator[tuple[int, PlacedColumn, slice]]:
        """Every column, its place among the features, and which of the `width` numbers are its."""
        at = 1
        for i, column in enumerate(self.columns):
            yield i, column, slice(at, at + column.width)
            at += column.width

    def added(self, features: NDArray[np.floating]) -> Floats:
        """What records add to their class: `float[n, columns]` to `float64[n, width]`.

        Guarantees: in each of `sizes` a row has a norm of at most 1, whatever the record holds.
        """
        ones = np.ones((len(features), 1))
        return np.hstack([ones, *(c.places(features[:, i]) for i, c, _ in self.parts)])


def layout_of(form: TaskForm, scaling: Scaling | None) -> ScreeningLayout | None:
    """The sums of records of this form; None where there are none for it."""
    table, ranges = form.input, public_ranges(scaling)
    if not isinstance(table, TableInput) or ranges is None or not form.classes:
        return None
    return ScreeningLayout(tuple(_columns(table, ranges)), form.classes)


def _columns(
    table: TableInput, ranges: Mapping[str, tuple[float, float]]
) -> Iterator[PlacedColumn]:
    names = table.names or tuple(f"column {i + 1}" for i in range(table.width))
    for i, name in enumerate(names[: table.numeric]):
        low, high = ranges.get(name, (math.nan, math.nan))
        if i in table.squashed:
            yield PlacedColumn(name=name, scale="size")
        elif math.isnan(low) or (low, high) == (0, 1):  # the first says whether another has a gap
            yield PlacedColumn(name=name, scale="share", low=low, high=high)
        else:
            yield PlacedColumn(name=name, scale="range", low=low, high=high)
    for name, size in zip(names[table.numeric :], table.cardinalities, strict=True):
        yield PlacedColumn(name=name, scale="share", width=max(2, min(size, _MOST_CATEGORIES)))


# --- in whole numbers ----------------------------------------------------------------------

EXACT: Final = 1 << 20
"""Steps in 1 where there is no noise."""


def step_of(paid: EvaluationPlan | None) -> int:
    """Steps in 1."""
    return EXACT if paid is None else paid.steps[0]


def noise_in(paid: EvaluationPlan | None) -> float:
    """The deviation of the noise of one site on a number."""
    return 0.0 if paid is None else paid.last_stddev / paid.steps[0]


def plausible(layout: ScreeningLayout, sums: Floats, noise: float) -> str | None:
    """Why honest sites cannot have given sums, `float64[classes, width]`, with noise of this
    deviation; None where they can. In a thousand billions of runs honest sites are wronged once.

    A class has no fewer than no records, and in no column does a sum go beyond their number.
    """
    slack = 8.0 * noise + 1e-3
    records = sums[:, :1]
    if (records < -slack).any():
        return "a class has fewer than no records"
    if (np.abs(sums) > np.maximum(records, 0.0) + 2 * slack).any():
        return "a column adds up to more than there are records"
    return None


# --- what there is no screening for --------------------------------------------------------


def scaling_problem(scaling: Scaling | None) -> str | None:
    """Why nothing can be summed of data that is scaled so, as far as that is known before it is
    read; None where nothing is in the way."""
    if public_ranges(scaling) is not None:
        return None
    if scaling is None:
        return "it is for tables; images, texts and arrays cannot be compared yet"
    return (
        f"values are compared by public places, and scenario.scaling.kind={scaling.kind} gives "
        "numbers none. Set scenario.scaling.kind=ranges"
    )


def form_problem(form: TaskForm, scaling: Scaling | None) -> str | None:
    """The same once it is known what a record is."""
    if layout_of(form, scaling) is None:
        return "it is for rows of a table with classes; other records and tasks not yet"
    return None
