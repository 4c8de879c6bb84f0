"""What somebody's records add up to, and how those of a class differ from all others in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedlearn.screening.choice import most_variance
from fedlearn.screening.sums import Floats, ScreeningLayout


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteSums:
    """Sums of somebody's records, `float64[classes, width]`, each with noise of this deviation."""

    layout: ScreeningLayout
    sums: Floats
    noise: float = 0.0

    @cached_property
    def whole(self) -> Floats:
        """Over all classes."""
        return np.asarray(self.sums.sum(0))

    @property
    def records(self) -> float:
        """How many there are."""
        return float(self.whole[0])

    @property
    def variance(self) -> float:
        """Of a number of `whole`."""
        return self.noise**2 * len(self.sums)


@dataclass(frozen=True, eq=False)
class Contrast:
    """How records of a class differ from all others, which have `among` classes.

    There are `inside` and `outside`, and `parts` are the sums of both.
    """

    inside: float
    outside: float
    parts: tuple[Floats, Floats]
    noise: float
    among: int

    @classmethod
    def of(cls, table: SiteSums, at: int) -> Contrast:
        """That of the class with this number."""
        within, beside = table.sums[at], table.whole - table.sums[at]
        return cls(
            *(float(within[0]), float(beside[0])), (within[1:], beside[1:]),
            table.noise, len(table.sums) - 1,
        )  # fmt: skip

    @cached_property
    def values(self) -> Floats:
        """The difference of means, `float64[width - 1]`, times both numbers of records."""
        within, beside = self.parts
        return np.asarray(self.outside * within - self.inside * beside)

    def along(self, other: Contrast) -> float:
        """The inner product."""
        return float(self.values @ other.values)

    def variance(self, other: Contrast) -> float:
        """Of `along`, by the noise of both sides."""
        both = self._spread * other._spread * self.values.size
        return self._moved(other.values) + other._moved(self.values) + both

    @property
    def _spread(self) -> float:
        """Variance of one of the `values`, but for the noise of the numbers of records."""
        return self.noise**2 * (self.outside**2 + self.among * self.inside**2)

    def _moved(self, along: Floats) -> float:
        """Variance of `values` along a vector, by the noise of this side."""
        within, beside = (float(part @ along) for part in self.parts)
        of_numbers = self.noise**2 * (beside**2 + self.among * within**2)
        return self._spread * float(along @ along) + of_numbers

    def of_choice(self, along: Contrast, table: SiteSums) -> tuple[float, int]:
        """The variance (`most_variance`) that the choice of the records behind this side, of this
        table, gives the difference of means along the other; and its degrees of freedom.

        Neither part varies less than all records together, as at home.
        """
        layout, weights, counts = table.layout, along.values, (self.inside, self.outside)
        least = most_variance(layout, table.whole[1:], table.records, weights)
        found = 0.0
        for part, count in zip(self.parts, counts, strict=True):
            found += max(least, most_variance(layout, part, count, weights)) / count
        return found, max(1, int(min(counts)) - 1)
