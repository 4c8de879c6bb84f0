"""From noisy sums to figures with intervals. All of it is arithmetic on what was released.

The noise of every number that was given is known, and what is linear in them has the noise that
follows. Counts have that alone in their intervals: they are of these records. Means, deviations,
quantiles, shares, odds and curves have in theirs what the choice of the records does as well, as if
each had been drawn by itself; both are independent, and their variances add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from scipy.special import ndtri

from fedlearn.figures.held import HeldSums, RecordTotal, agreed
from fedlearn.figures.layout import TableLayout
from fedlearn.figures.parts import (
    ChoicePart,
    CrossingPart,
    Floats,
    NumberPart,
    OutcomePart,
    PairPart,
    SumPart,
)
from fedlearn.figures.spread import NumberSpread
from fedlearn.figures.table import (
    CategoryFigures,
    ChoiceFigures,
    CorrelationFigures,
    CrossingFigures,
    Estimate,
    NumberFigures,
    SurvivalFigures,
    TableFigures,
)
from fedlearn.metrics.intervals import redrawn
from fedlearn.metrics.survival import EVENT, kaplan_meier

_LEAST: Final = 4.0
"""Records without which nothing is said of more than their number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TableSums:
    """Opened sums `float64[size]`, and the deviation of the noise on what was given of each part.

    A category that is not public is shown by its number, where its count is above the `threshold`
    of its column.
    """

    layout: TableLayout
    sums: Floats
    noise: tuple[float, ...]
    threshold: Mapping[str, float]
    quantiles: tuple[float, ...]
    confidence: float
    rng: np.random.Generator

    @cached_property
    def _alone(self) -> dict[SumPart, HeldSums]:
        """What was given of every part that has all records, by itself."""
        return {
            part: HeldSums(given=part.encoded(self.sums[at]), noise=self.noise[number], whole=whole)
            for number, part, at in self.layout.slices()
            if (whole := part.whole()) is not None
        }

    @cached_property
    def records(self) -> RecordTotal:
        """How many there are, by what all parts say."""
        return agreed([held.total for held in self._alone.values()])

    def held(self, part: SumPart) -> HeldSums:
        """What was given of a part, held to what the others say of the number of records."""
        alone = self._alone[part]
        return replace(alone, known=self.records.without(alone.total))

    @cached_property
    def _places(self) -> dict[SumPart, tuple[int, slice]]:
        return {part: (number, at) for number, part, at in self.layout.slices()}

    @cached_property
    def z(self) -> float:
        """How many deviations an interval goes to each side."""
        return float(ndtri((1 + self.confidence) / 2))

    def of(self, part: SumPart) -> tuple[Floats, float]:
        """The sums of a part by themselves, and the deviation of the noise on what was given."""
        number, at = self._places[part]
        return self.sums[at], self.noise[number]

    def figures(self) -> TableFigures:
        """All of them."""
        of = self.layout.of
        return TableFigures(
            records=self._count(self.records.value, math.sqrt(self.records.variance)),
            numbers=[self._numbers(part) for part in of(NumberPart)],
            choices=[self._choice(part) for part in of(ChoicePart)],
            crossings=[self._crossing(part) for part in of(CrossingPart)],
            correlations=[self._correlation(part) for part in of(PairPart)],
            survival=[self._survival(part) for part in of(OutcomePart)],
        )

    def _count(self, value: float, noise: float) -> Estimate:
        """Of records, which are not fewer than none."""
        low, high = value - self.z * noise, value + self.z * noise
        return Estimate(value=max(value, 0.0), low=max(low, 0.0), high=max(high, 0.0))

    def _numbers(self, part: NumberPart) -> NumberFigures:
        held = self.held(part)
        missing = None
        if part.gap is not None:
            last = np.append(np.zeros(part.points), 1 / part.bound)
            missing = self._count(held.of(last), held.deviation(last))
        return NumberSpread(part, held, self.z).figures(missing=missing, quantiles=self.quantiles)

    # --- categories ---------------------------------------------------------------------

    def _choice(self, part: ChoicePart) -> ChoiceFigures:
        least, alone = self.threshold.get(part.name), self.of(part)[0]
        names = part.names or tuple(f"#{number}" for number in range(1, part.codes))
        held = self.held(part) if part.public else self._alone[part]
        shown = [
            self._category(held, name, code)
            for code, name in enumerate(names[: part.codes - part.first], part.first)
            if least is None or alone[code] > least
        ]
        return ChoiceFigures(
            name=part.name,
            is_label=part.at is None,
            is_share=part.flag,
            categories=shown,
            missing=self._category(held, "", 0) if part.first else None,
            threshold=least,
        )

    def _category(self, held: HeldSums, name: str, code: int) -> CategoryFigures:
        at = np.eye(len(held.given))[code]
        total = max(held.of(held.whole), 1.0)
        share = min(max(held.of(at) / total, 0.0), 1.0)
        by_noise = held.deviation(at - share * held.whole) / total
        half = self.z * math.hypot(by_noise, math.sqrt(share * (1 - share) / total))
        around = Estimate(value=share, low=max(share - half, 0.0), high=min(share + half, 1.0))
        count = self._count(held.of(at), held.deviation(at))
        return CategoryFigures(name=name, count=count, share=around)

    def _crossing(self, part: CrossingPart) -> CrossingFigures:
        found, noise = self.of(part)
        one, other = part.one, part.other
        table = found.reshape(one.codes, other.codes)[one.first :, other.first :]
        odds = self._odds(table, noise) if table.shape == (2, 2) else None
        return CrossingFigures(
            one=one.name,
            other=other.name,
            rows=list(one.names),
            columns=list(other.names),
            counts=[[self._count(float(value), noise) for value in row] for row in table],
            odds_ratio=odds,
        )

    def _odds(self, table: Floats, noise: float) -> Estimate | None:
        """By the delta method on the logarithm (Woolf 1955), the noise of each count included."""
        if (table <= max(self.z * noise, 0.5)).any():
            return None
        log = math.log(table[0, 0] * table[1, 1] / (table[0, 1] * table[1, 0]))
        half = self.z * math.sqrt(float(((noise**2 + table) / table**2).sum()))
        return Estimate(value=math.exp(log), low=math.exp(log - half), high=math.exp(log + half))

    # --- numbers together ---------------------------------------------------------------

    def _correlation(self, part: PairPart) -> CorrelationFigures:
        found, noise = self.of(part)
        value = correlation(found)
        figure = None
        if value is not None and found[0] > _LEAST and abs(value) < 1:
            step = 1e-4 * max(float(found[0]), 1.0)
            moved = [correlation(found + step * one) for one in np.eye(6)]
            slope = [0.0 if one is None else (one - value) / step for one in moved]
            by_noise = noise**2 * float(np.square(slope).sum()) / (1 - value**2) ** 2
            half = self.z * math.sqrt(by_noise + 1 / max(found[0] - 3, 1.0))
            middle = math.atanh(value)
            figure = Estimate(
                value=value, low=math.tanh(middle - half), high=math.tanh(middle + half)
            )
        return CorrelationFigures(one=part.one.name, other=part.other.name, value=figure)

    # --- times --------------------------------------------------------------------------

    def _survival(self, part: OutcomePart) -> SurvivalFigures:
        found, noise = self.of(part)
        outcomes = found.reshape(2, -1)
        many = max(round(float(outcomes.sum())), 1)
        drawn, nearest = redrawn(outcomes, many, noise, self.rng)
        value = kaplan_meier(outcomes)
        around = value + kaplan_meier(drawn) - kaplan_meier(nearest)
        rest = (1 - self.confidence) / 2
        low, high = np.clip(np.nanquantile(around, (rest, 1 - rest), axis=0), 0.0, 1.0)
        events = float(outcomes[EVENT].sum())
        return SurvivalFigures(
            name=part.name,
            unit=part.unit,
            times=list(part.ends),
            surviving=[
                Estimate(value=float(v), low=float(min(a, v)), high=float(max(b, v)))
                for v, a, b in zip(value, low, high, strict=True)
            ],
            events=self._count(events, noise * math.sqrt(outcomes.shape[1])),
        )


def correlation(sums: Floats) -> float | None:
    """Of sums of 1, x, y, x^2, y^2 and x y; None where a column does not vary."""
    count, x, y, xx, yy, xy = (float(value) for value in sums)
    if count <= 0:
        return None
    of_x, of_y = xx / count - (x / count) ** 2, yy / count - (y / count) ** 2
    if of_x <= 0 or of_y <= 0:
        return None
    return max(-1.0, min(1.0, (xy / count - x * y / count**2) / math.sqrt(of_x * of_y)))
