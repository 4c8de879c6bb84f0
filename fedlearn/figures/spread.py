"""What noisy prefix sums say of a column of numbers: mean, deviation, quantiles, histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from fedlearn.figures import prefixes
from fedlearn.figures.held import HeldSums
from fedlearn.figures.parts import Floats, NumberPart
from fedlearn.figures.table import Estimate, NumberFigures

BINS: Final = 16
MOST_EDGES: Final = 32
_DEVIATIONS: Final = 4.0
"""A bin between two edges holds so many times the noise of a prefix sum, at least."""

_TAILS: Final = 0.01
"""What lies beyond a range that is found, to each side; it is widened to a round number."""


@dataclass(frozen=True, eq=False)
class NumberSpread:
    """What was given for a column of numbers; `z` deviations go into an interval."""

    part: NumberPart
    held: HeldSums
    z: float

    @cached_property
    def counts(self) -> Floats:
        """How many records stand at each point."""
        return self.part.decoded(self.held.values)[:-1]

    @cached_property
    def below(self) -> Floats:
        """How many stand at or below each point, as it comes out of the noise."""
        return np.asarray(np.cumsum(self.counts))

    @property
    def present(self) -> float:
        """How many have a number."""
        return float(self.below[-1])

    @cached_property
    def _prefixes(self) -> Floats:
        """The linear functions of what was given that are the prefix sums; gaps are in none."""
        rows = prefixes.root(self.part.points)
        return np.column_stack([rows, np.zeros(len(rows))])

    @cached_property
    def _of_prefixes(self) -> Floats:
        """The deviation of a prefix sum."""
        return self.held.deviations(self._prefixes)

    @cached_property
    def known(self) -> bool:
        """Whether there are records with a number at all, as far as noise lets it be seen."""
        return self.present > max(self.z * float(self._of_prefixes[-1]), 1.0)

    @cached_property
    def rising(self) -> Floats:
        """The nearest sums that rise from 0 to all records (isotonic regression)."""
        return np.clip(isotonic(self.below), 0.0, max(self.present, 0.0))

    def linear(self, weights: Floats) -> float:
        """The deviation that the noise gives the sum of the counts times weights."""
        of_given = prefixes.unroot(self.part.points).T @ weights
        return self.held.deviation(np.append(of_given, 0.0))

    # --- moments ------------------------------------------------------------------------

    def mean(self) -> Estimate | None:
        """Of numbers in a range."""
        if not self.known or self.part.size:
            return None
        values, part = self.part.values, self.part
        mean = float(values @ self.counts) / self.present
        by_noise = self.linear((values - mean) / self.present)
        half = self.z * math.hypot(by_noise, self._deviation(mean) / math.sqrt(self.present))
        value, low, high = np.clip([mean, mean - half, mean + half], part.low, part.high)
        return Estimate(value=float(value), low=float(low), high=float(high))

    def sd(self) -> Estimate | None:
        """The standard deviation; None where noise leaves nothing of it."""
        if not self.known or self.part.size:
            return None
        values = self.part.values
        mean = float(values @ self.counts) / self.present
        sd = self._deviation(mean)
        if sd <= 0:
            return None
        square = (values - mean) ** 2
        by_noise = self.linear((square - sd**2) / (2 * sd * self.present))
        fourth = max(float(square**2 @ self.counts) / self.present, sd**4)
        by_choice = math.sqrt((fourth - sd**4) / (4 * sd**2 * self.present))
        half = self.z * math.hypot(by_noise, by_choice)
        return Estimate(value=sd, low=max(sd - half, 0.0), high=sd + half)

    def _deviation(self, mean: float) -> float:
        square = (self.part.values - mean) ** 2
        return math.sqrt(max(float(square @ self.counts) / self.present, 0.0))

    # --- quantiles ----------------------------------------------------------------------

    def quantile(self, share: float) -> Estimate | None:
        """The lowest point at or below which at least this share stands, and between which points
        it is: those at which neither fewer nor more can be refuted, and one step further."""
        if not self.known:
            return None
        low, at, high = self._places(share)
        values = self.part.values
        return Estimate(value=float(values[at]), low=float(values[low]), high=float(values[high]))

    def _places(self, share: float) -> tuple[int, int, int]:
        last = self.part.points - 1
        at = self._at(share)
        excess = self.below - share * self.present
        by_choice = self.present * share * (1 - share)
        half = self.z * np.sqrt(self._of_excess(share) ** 2 + by_choice)
        enough = np.flatnonzero(excess + half >= 0)
        few = np.flatnonzero(excess - half <= 0)
        low = int(enough[0]) if enough.size else last
        high = int(few[-1]) + 1 if few.size else 0
        return max(min(low, at) - 1, 0), at, min(max(high, at) + 1, last)

    def _of_excess(self, share: float) -> Floats:
        """The deviation that noise gives a prefix sum less a share of all."""
        return self.held.deviations(self._prefixes - share * self._prefixes[-1])

    def _at(self, share: float) -> int:
        found = int(np.searchsorted(self.rising, share * self.present - 1e-9))
        return min(found, self.part.points - 1)

    def unsure(self, shares: Sequence[float]) -> bool:
        """Whether an interval is half of all points, or nothing is known."""
        if not self.known:
            return True
        found = [self._places(share) for share in shares]
        return any(high - low >= self.part.points / 2 for low, _, high in found)

    # --- the shape ----------------------------------------------------------------------

    def range(self) -> tuple[float, float]:
        """The public one; or one that holds nearly all records, in round numbers."""
        if not self.part.size:
            return self.part.low, self.part.high
        low, high = (float(self.part.values[self._at(q)]) for q in (_TAILS, 1 - _TAILS))
        return (0.0 if 0 <= low < high / 4 else -_round_up(-low)), _round_up(high)

    def histogram(self) -> tuple[list[float], list[float]]:
        """The ends of bins, and how many records are in each."""
        if not self.known:
            return [], []
        low, high = self.range()
        ends = np.linspace(low, high, BINS + 1)
        below = np.interp(ends, self.part.values, self.rising)
        below[0], below[-1] = 0.0, self.present
        return ends.tolist(), np.diff(below).tolist()

    def edges(self) -> list[float]:
        """Points between which there are about as many records each."""
        if not self.known:
            return []
        noise = float(self._of_prefixes.max())
        most = self.present / (_DEVIATIONS * noise) if noise else MOST_EDGES + 1
        bins = max(1, min(MOST_EDGES + 1, int(most)))
        found = {self._at(number / bins) for number in range(1, bins)}
        return [float(self.part.values[at]) for at in sorted(found)]

    def figures(self, *, missing: Estimate | None, quantiles: Sequence[float]) -> NumberFigures:
        """All of it."""
        part, noise = self.part, float(self._of_prefixes[-1])
        low, high = self.range() if self.known else (part.low, part.high)
        step = None if part.size else (part.high - part.low) / (part.points - 1)
        half = self.z * noise
        found = {f"{share:g}": self.quantile(share) for share in quantiles}
        bins, counts = self.histogram()
        return NumberFigures(
            name=part.name,
            is_label=part.at is None,
            low=None if math.isnan(low) else low,
            high=None if math.isnan(high) else high,
            step=step,
            present=Estimate(
                value=max(self.present, 0.0),
                low=max(self.present - half, 0.0),
                high=max(self.present + half, 0.0),
            ),
            missing=missing,
            mean=self.mean(),
            sd=self.sd(),
            quantiles={name: one for name, one in found.items() if one is not None},
            unsure=self.unsure(quantiles),
            bins=bins,
            counts=counts,
            edges=self.edges(),
        )


def isotonic(values: Floats) -> Floats:
    """The rising values nearest to these, in the sum of squares (pool adjacent violators)."""
    means, sizes = list[float](), list[int]()
    for value in values.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mean, size = means.pop(), sizes.pop()
            whole = sizes[-1] + size
            means[-1] = (means[-1] * sizes[-1] + mean * size) / whole
            sizes[-1] = whole
    return np.repeat(np.array(means), np.array(sizes, np.int64))


def _round_up(value: float) -> float:
    """The next number away from zero with one digit."""
    if value == 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(abs(value)))
    return math.copysign(math.ceil(abs(value) / unit - 1e-9) * unit, value)
