"""Sums with noise that are held to what is known of their total.

Every record is in every column once: under one category, at a point, or among the gaps. So each
column says how many records there are, and is surer of all else once it is held to what the others
say of that. With noise that is independent and of one deviation on every number given, `y`, and a
total `u . y` that is known to be `total` with some `variance`, the least squares solution moves `y`
along `u` alone, and takes from the variance of every linear function what `u` has of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedlearn.figures.parts import Floats


@dataclass(frozen=True, kw_only=True)
class RecordTotal:
    """How many records there are, as far as it is known: infinite variance where it is not."""

    value: float = 0.0
    variance: float = math.inf

    def without(self, own: RecordTotal) -> RecordTotal:
        """What all others say, where this is what all say together."""
        if own.variance == 0 or self.variance == 0:
            return RecordTotal(value=self.value, variance=0.0)
        left = 1 / self.variance - 1 / own.variance
        if left <= 1e-12 / self.variance:
            return RecordTotal()
        value = (self.value / self.variance - own.value / own.variance) / left
        return RecordTotal(value=value, variance=1 / left)


def agreed(totals: list[RecordTotal]) -> RecordTotal:
    """What independent totals say together, each by its precision."""
    exact = [one for one in totals if one.variance == 0]
    if exact:
        return exact[0]
    precision = sum(1 / one.variance for one in totals)
    value = sum(one.value / one.variance for one in totals) / precision
    return RecordTotal(value=value, variance=1 / precision)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldSums:
    """Numbers as they were `given`, with noise of one deviation; `whole` is the linear function of
    them that counts all records, and `known` what is known of that besides."""

    given: Floats
    noise: float
    whole: Floats
    known: RecordTotal = RecordTotal()

    @property
    def total(self) -> RecordTotal:
        """What these numbers say by themselves."""
        length = float(self.whole @ self.whole)
        return RecordTotal(value=float(self.whole @ self.given), variance=self.noise**2 * length)

    @cached_property
    def _taken(self) -> float:
        """What the total takes, over the square of its length along `whole`."""
        if self.noise == 0 or math.isinf(self.known.variance):
            return 0.0
        return 1 / (float(self.whole @ self.whole) + self.known.variance / self.noise**2)

    @cached_property
    def values(self) -> Floats:
        """The numbers, held to the total."""
        excess = self.known.value - self.total.value
        return np.asarray(self.given + self.whole * self._taken * excess)

    def of(self, function: Floats) -> float:
        """A linear function of them."""
        return float(function @ self.values)

    def deviations(self, functions: Floats) -> Floats:
        """Of linear functions `float64[k, n]`, or of one: what noise makes of each."""
        functions = np.atleast_2d(functions)
        square = np.square(functions).sum(1) - self._taken * np.square(functions @ self.whole)
        return np.asarray(self.noise * np.sqrt(np.maximum(square, 0.0)))

    def deviation(self, function: Floats) -> float:
        """Of one."""
        return float(self.deviations(function)[0])
