"""Evaluation as sums, so that pooled metrics need no pooled records.

A site adds up named arrays over its test records; their names, shapes, units and
bounds are public and the same at every site (`SumLayout`, which the task states). Sums
can be added, masked and noised by whoever knows the layout alone. Metrics are computed
from them in one place, by the task, for a site and for all sites together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MOST_RECORDS: Final = 2**40
"""Of a site, or of all together: with more, sums would not be exact."""

Table = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SumSpec:
    """One array that is added up over records: `int64[shape]`, or `float64[shape]` with a unit.

    `unit`: a real number travels under masks as a whole number of these; None for counts.
    `bound`: what one record adds has at most this Euclidean norm, which is what noise on
    the array has to hide.
    `share`: where noise is added, its part of the precision beside the other arrays.
    """

    name: str
    shape: tuple[int, ...] = ()
    unit: float | None = None
    bound: float = 1.0
    share: float = 1.0

    @property
    def size(self) -> int:
        """Numbers of the array."""
        return prod(self.shape)


SumLayout = tuple[SumSpec, ...]
"""The arrays of an evaluation in their order; the number of records comes first and unsaid."""


def length_of(layout: SumLayout) -> int:
    """Integers of `Sums.counters`."""
    return 1 + sum(spec.size for spec in layout)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """What one evaluation adds up to: the number of records, and the arrays of `layout`.

    Of a private evaluation all of it is with `noise`: any number may be negative, and `count` is
    what the arrays say of it, at least zero.

    Raises:
        ValueError: the arrays are not those of the layout.
    """

    layout: SumLayout
    count: int
    arrays: Mapping[str, Table]
    noise: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of the noise on every number of an array; empty for exact sums."""
    opened: Mapping[str, Table] = field(default_factory=dict)
    """Noisy arrays before anything that cannot be is cut off: these alone add up without bias."""

    def __post_init__(self) -> None:
        found = {name: (array.shape, array.dtype.kind) for name, array in self.arrays.items()}
        if found != {spec.name: (spec.shape, _kind(spec)) for spec in self.layout}:
            raise ValueError(f"test sums of another form: {found}")

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def __add__(self, other: Sums) -> Sums:
        if self.layout != other.layout:
            raise ValueError("test sums of different forms cannot be added")
        if self.noise or other.noise:
            raise ValueError("test sums with noise are added by their task (`Task.added`)")
        return Sums(
            layout=self.layout,
            count=self.count + other.count,
            arrays={name: np.asarray(self[name] + other[name]) for name in self.arrays},
        )

    def check(self) -> None:
        """Refuse sums that no records add up to: counts below zero, or beyond any number of them.

        With noise a number may be negative. Real sums are not looked at: a loss may be infinite.

        Raises:
            ValueError: they are.
        """
        least = -MOST_RECORDS if self.noise else 0
        counts = [np.asarray(self.count), *(self[s.name] for s in self.layout if s.unit is None)]
        if self.noise:
            counts = [np.asarray(self.count), *self.arrays.values()]
        if not all(((least <= part) & (part <= MOST_RECORDS)).all() for part in counts):
            raise ValueError("test sums of no possible number of records")

    def counters(self) -> list[int]:
        """All of it as whole numbers, in the order of the layout; real sums in their units.

        Raises:
            ValueError: a sum is not finite.
        """
        return [self.count, *(n for spec in self.layout for n in _whole(spec, self[spec.name]))]

    @classmethod
    def of_counters(cls, layout: SumLayout, counters: NDArray[np.int64]) -> Sums:
        """The inverse of `counters`, for one site or for a sum over sites; more may follow."""
        arrays, at = {}, 1
        for spec in layout:
            numbers = counters[at : at + spec.size].reshape(spec.shape)
            arrays[spec.name] = np.asarray(numbers * spec.unit if spec.unit else numbers)
            at += spec.size
        return cls(layout=layout, count=int(counters[0]), arrays=arrays)


def added(parts: Sequence[Sums]) -> Sums:
    """The sums over all parts, added in their order; at least one."""
    total, *rest = parts
    for more in rest:
        total = total + more
    return total


def shares_of(layout: SumLayout) -> tuple[float, ...]:
    """The parts of all precision that the arrays of a layout get; they add up to one."""
    total = sum(spec.share for spec in layout)
    return tuple(spec.share / total for spec in layout)


def _kind(spec: SumSpec) -> str:
    return "i" if spec.unit is None else "f"


def _whole(spec: SumSpec, array: Table) -> Iterator[int]:
    if spec.unit is None:
        return map(int, array.reshape(-1).tolist())
    if not np.isfinite(array).all():
        raise ValueError(f"the summed {spec.name} is not finite")
    return (round(number / spec.unit) for number in array.reshape(-1).tolist())
