"""What a record adds to the sums of a table, column by column: vectors of a known length.

Each part gives for every record a vector of numbers from -1 to 1; what is summed of these is
multiplied by a public matrix (`encoded`), and no record moves the product by more than `bound`,
whatever it holds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.figures import prefixes
from fedlearn.tasks import SQUASH_UNIT

Floats = NDArray[np.float64]

LARGEST_SIZE: Final = 2.0
"""NumberPart without a range are told apart up to 10^6 in size: on the scale that they come in."""

_SIZES_FINER: Final = 2
"""They get so many times the points: a step is then some five percent of a number."""


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """Records as they are learned from: `features: float32[n, columns]`, `labels: [n, ...]`."""

    features: NDArray[Any]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, kw_only=True)
class SumPart(ABC):
    """Sums of one kind. `weight` is its part of the precision, beside those of the others."""

    name: str
    weight: float = 1.0

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers there are."""

    @property
    def bound(self) -> float:
        """How far one record moves the encoded sums, in the norm."""
        return 1.0

    @abstractmethod
    def added(self, rows: TableRows) -> Floats:
        """What each record adds, `float64[n, width]`, from -1 to 1."""

    def encoded(self, sums: Floats) -> Floats:
        """What is given for sums: linear, and public."""
        return sums

    def decoded(self, given: Floats) -> Floats:
        """The sums, of what was given for them."""
        return given

    def whole(self) -> Floats | None:
        """The linear function of what is given that counts all records; None where there is
        none."""
        return np.ones(self.width)


class CountPart(SumPart):
    """How many records there are."""

    width = 1

    def added(self, rows: TableRows) -> Floats:
        """One each."""
        return np.ones((len(rows), 1))


@dataclass(frozen=True, kw_only=True)
class NumberPart(SumPart):
    """Where the numbers of a column stand among `points` places, and how many are missing.

    A number between two points adds to both, by how near it is: so what is linear in the sums, the
    mean, is that of the numbers themselves, and every point is that of a count that is at most one
    step away. With `size` the places are on a scale of orders of magnitude. The last of the sums
    counts gaps; it is as sure as it can be, for a record has a gap or a number.
    """

    at: int | None
    """The place of the feature; None for the label, which is in its own unit."""
    gap: int | None
    """The place of the feature that is 1 at a gap; None where nothing says it."""
    low: float
    high: float
    size: bool
    points: int

    @property
    def width(self) -> int:
        """Of the points, and of the gaps."""
        return self.points + 1

    @property
    def bound(self) -> float:
        """Of the points; a gap is given as much."""
        return prefixes.norm(self.points)

    @cached_property
    def values(self) -> Floats:
        """What the points stand for, in the unit of the column."""
        places = np.linspace(-1.0, 1.0, self.points)
        if self.size:
            scaled = places * LARGEST_SIZE * SQUASH_UNIT
            return np.asarray(np.sign(scaled) * np.expm1(np.abs(scaled)))
        return np.asarray(np.linspace(self.low, self.high, self.points))

    def places(self, rows: TableRows) -> Floats:
        """From -1 to 1."""
        if self.at is None:
            share = (np.asarray(rows.labels, np.float64) - self.low) / (self.high - self.low)
            return np.clip(np.nan_to_num(share) * 2 - 1, -1.0, 1.0)
        found = np.nan_to_num(np.asarray(rows.features[:, self.at], np.float64))
        return np.clip(found / LARGEST_SIZE if self.size else found, -1.0, 1.0)

    def absent(self, rows: TableRows) -> NDArray[np.bool_]:
        """Which have a gap."""
        if self.gap is None:
            return np.zeros(len(rows), np.bool_)
        return np.asarray(rows.features[:, self.gap] > 0.5)

    def added(self, rows: TableRows) -> Floats:
        """A number adds up to 1 at two neighbouring points, or at one."""
        found = np.zeros((len(rows), self.width))
        scaled = (self.places(rows) + 1) / 2 * (self.points - 1)
        # Of a number that was written with a few digits, where it stands and not just beside it.
        whole = np.rint(scaled)
        scaled = np.where(np.abs(scaled - whole) < 1e-3, whole, scaled)
        below = np.minimum(np.floor(scaled).astype(np.int64), self.points - 2)
        there, row = ~self.absent(rows), np.arange(len(rows))
        found[row, below] = np.where(there, 1 - (scaled - below), 0.0)
        found[row, below + 1] = np.where(there, scaled - below, 0.0)
        found[:, -1] = ~there
        return found

    def encoded(self, sums: Floats) -> Floats:
        """By the square root of the prefix sums."""
        return np.append(prefixes.root(self.points) @ sums[:-1], sums[-1] * self.bound)

    def decoded(self, given: Floats) -> Floats:
        """The inverse."""
        return np.append(prefixes.unroot(self.points) @ given[:-1], given[-1] / self.bound)

    def whole(self) -> Floats:
        """The last prefix sum, and the gaps."""
        return np.append(prefixes.root(self.points)[-1], 1 / self.bound)


@dataclass(frozen=True, kw_only=True)
class ChoicePart(SumPart):
    """How many records have each of the categories of a column.

    Of a feature code 0 stands for a gap, or a category that is not among those named. `names` are
    those of the categories, empty where they are not public.
    """

    at: int | None
    """The place of the feature; None for the label."""
    codes: int
    names: tuple[str, ...] = ()
    flag: bool = False
    """Whether the feature is a share from 0 to 1, as of yes, and no code."""
    low: float = 0.0
    """Of a share: the feature that stands for 0; that for 1 is 1."""

    @property
    def width(self) -> int:
        """One for each code."""
        return self.codes

    @property
    def first(self) -> int:
        """The code of the first category."""
        return 0 if self.at is None or self.flag else 1

    @property
    def public(self) -> bool:
        """Whether the categories are known to everybody."""
        return bool(self.names)

    def cells(self, rows: TableRows) -> NDArray[np.int64]:
        """Which of its sums each record is in, `int64[n]`."""
        found = rows.labels if self.at is None else rows.features[:, self.at]
        known = np.nan_to_num(np.asarray(found, np.float64))
        if self.flag:
            known = (known - self.low) / (1 - self.low)
        return np.clip(np.rint(known), 0, self.codes - 1).astype(np.int64)

    def added(self, rows: TableRows) -> Floats:
        """1 at its category; of a share what it is, and what is left of 1."""
        if self.flag and self.at is not None:
            known = np.nan_to_num(np.asarray(rows.features[:, self.at], np.float64))
            share = np.clip((known - self.low) / (1 - self.low), 0.0, 1.0)
            return np.column_stack([1 - share, share])
        return np.asarray(np.eye(self.codes)[self.cells(rows)])


@dataclass(frozen=True, kw_only=True)
class CrossingPart(SumPart):
    """How many records have each pair of categories of two columns."""

    one: ChoicePart
    other: ChoicePart

    first: ClassVar[int] = 0
    """Where there is a place for what is not shown, of which there is none."""

    @property
    def width(self) -> int:
        """One for each pair of codes."""
        return self.one.codes * self.other.codes

    def cells(self, rows: TableRows) -> NDArray[np.int64]:
        """Which of its sums each record is in, `int64[n]`."""
        found = self.one.cells(rows) * self.other.codes + self.other.cells(rows)
        return np.asarray(found, np.int64)

    def added(self, rows: TableRows) -> Floats:
        """1 at its pair."""
        return np.asarray(np.eye(self.width)[self.cells(rows)])


@dataclass(frozen=True, kw_only=True)
class PairPart(SumPart):
    """Of two columns of numbers, over records that have both: how many there are, the sums of the
    places, of their squares and of their products."""

    one: NumberPart
    other: NumberPart

    width = 6

    @property
    def bound(self) -> float:
        """Six numbers from -1 to 1."""
        return math.sqrt(self.width)

    def added(self, rows: TableRows) -> Floats:
        """1, x, y, x^2, y^2, x y."""
        x, y = self.one.places(rows), self.other.places(rows)
        found = np.column_stack([np.ones(len(rows)), x, y, x * x, y * y, x * y])
        found[self.one.absent(rows) | self.other.absent(rows)] = 0.0
        return np.asarray(found)

    def whole(self) -> None:
        """Records with a gap are in none of them."""
        return


@dataclass(frozen=True, kw_only=True)
class OutcomePart(SumPart):
    """What became of records over time: intervals lived through, and whether an event came next."""

    ends: tuple[float, ...]
    unit: str

    @property
    def width(self) -> int:
        """Those that were lost and those with an event, after each number of intervals."""
        return 2 * (len(self.ends) + 1)

    def added(self, rows: TableRows) -> Floats:
        """1 at its outcome."""
        lived = np.clip(rows.labels[:, 0], 0, len(self.ends))
        place = np.clip(rows.labels[:, 1], 0, 1) * (len(self.ends) + 1) + lived
        return np.asarray(np.eye(self.width)[place.astype(np.int64)])


def points_within(low: float, high: float, most: int) -> int:
    """How many points a range gets: whole numbers are points where there are not too many."""
    span = high - low
    if not (float(low).is_integer() and float(high).is_integer() and 1 <= span < most):
        return most
    return int((most - 1) // span * span) + 1


def points_of_size(most: int) -> int:
    """The same for numbers without a range; zero is a point."""
    return most * _SIZES_FINER + 1
