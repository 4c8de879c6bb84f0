"""A classifier class by class, and at thresholds other than one half.

All of it comes from the sums that evaluation adds up anyway (the confusion matrix, and of two
classes the histogram of scores), so that no site is asked anything more and whoever reads a result
chooses a threshold for free. Intervals are as in `fedlearn.metrics.intervals`.

A score counts as anywhere in its bin: where a threshold would cut a bin in two, its records are
taken in random order, and what is given is the mean over such orders (McSherry and Najork 2008).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.metrics.intervals import Measured, redrawn, summarised
from fedlearn.metrics.scores import without_negatives
from fedlearn.metrics.sums import Sums

ALARMS: Final = (0.001, 0.01, 0.05, 0.1)
"""Shares of all records that somebody has the time to look at."""
COSTS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""How many false alarms a missed record of the second class is worth."""
FEWEST: Final = 10
"""Records of every class, at the least, that counts are given of, at a site or of all together."""
MOST: Final = 40
"""Of more classes there is neither a matrix nor a table by site: nobody reads so many numbers."""
_PLACES: Final = 64
_NEAR: Final = 0.2

Cells = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class against all others; a share that nobody can know is null."""

    records: int
    """That are of the class; of sums with noise, about."""
    named: int
    """That the model says are of it."""
    recall: Measured | None
    """The share of `records` that the model finds."""
    precision: Measured | None
    """The share of `named` that are of the class."""
    f1: Measured | None
    """The harmonic mean of both."""
    auc: Measured | None = None
    """Of several labels a record: the chance that one with it is ranked above one without."""


@dataclass(frozen=True, kw_only=True)
class AlarmFigures:
    """The records with the highest scores, `rate` of all of them: whose are they?"""

    rate: float
    threshold: float
    """The score at which that many records are named, to within a bin."""
    recall: Measured
    precision: Measured


@dataclass(frozen=True, kw_only=True)
class CostFigures:
    """Deciding at the threshold that right probabilities make cheapest: it looks at no record.

    Where a missed record of the second class costs as much as `ratio` false alarms, that is
    `1 / (1 + ratio)`. Costs are false alarms per 1,000 records.
    """

    ratio: float
    threshold: float
    cost: float
    at_half: float
    """At one half, where the model's own answer changes."""
    without: float
    """Without a model: always or never, whichever is cheaper."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place on the curve: naming all records whose score is at least `threshold`."""

    threshold: float
    alarms: float
    """The share of all records that are named."""
    recall: float
    precision: float


@dataclass(frozen=True, kw_only=True)
class ByClass:
    """What a model is worth by class; the lists are empty with other than two classes."""

    confusion: list[list[int]]
    """`[true class][predicted class]`, in the order of `classes`; with noise, about. Empty, as
    `per_site`, of more than `MOST` classes, and where one has fewer than `FEWEST` records."""
    classes: dict[str, ClassFigures]
    per_site: dict[str, dict[str, ClassFigures]] = field(default_factory=dict)
    """Of sites with at least `FEWEST` records of every class: a cell of fewer is about people."""
    alarms: list[AlarmFigures] = field(default_factory=list)
    costs: list[CostFigures] = field(default_factory=list)
    curve: list[Place] = field(default_factory=list)
    """From the highest threshold to the lowest."""
    average_precision: Measured | None = None
    """The mean of precision over recall, in steps; guessing gets the share of the class."""


def class_figures(
    names: Sequence[str],
    confusion: NDArray[Any],
    noise: float,
    rng: np.random.Generator,
    fewest: int = 1,
) -> dict[str, ClassFigures]:
    """Every class of a matrix `[true, predicted]` whose cells have noise of this deviation.

    A share of fewer than `fewest` records is null, and precision where there is no other class.
    """
    table = confusion.astype(np.float64)
    return {name: figures_of(*_against_rest(table, i, noise), rng, fewest) for i, name in
            enumerate(names)}  # fmt: skip


def _against_rest(table: Cells, i: int, noise: float) -> tuple[Cells, Cells]:
    """Records that are found, missed, wrongly named and neither, and the noise on each."""
    found, missed = table[i, i], table[i].sum() - table[i, i]
    wrongly = table[:, i].sum() - found
    others = len(table) - 1
    cells = np.array([found, missed, wrongly, table.sum() - found - missed - wrongly])
    return cells, noise * np.sqrt([1.0, others, others, float(others**2)])


def figures_of(
    cells: Cells,
    noise: Cells,
    rng: np.random.Generator,
    fewest: int,
    area: Measured | None = None,
) -> ClassFigures:
    """One class against the rest: how many are found, missed, wrongly named and neither,
    `float64[4]`, with the deviation of the noise on each; `area` is its AUC, where known."""
    kept = np.maximum(cells, 0.0)
    drawn, nearest = redrawn(cells, max(0, round(float(kept.sum()))), noise, rng)
    value, around, moved = _shares(kept), _shares(nearest), _shares(np.maximum(drawn, 0.0))
    records, named = (round(float(kept[0] + kept[i])) for i in (1, 2))
    none = round(float(kept[2] + kept[3])) == 0
    known = {
        "recall": records >= fewest,
        "precision": named >= fewest and not none,
        "f1": min(records, named) >= fewest and not none,
    }
    sure = [name for name in known if known[name] and not np.isnan(value[name])]
    drawn_anew = {n: np.clip(value[n] + moved[n] - around[n], 0.0, 1.0) for n in sure}
    shares = {name: summarised(float(value[name]), drawn_anew[name]) for name in sure}
    return ClassFigures(
        records=records,
        named=named,
        recall=shares.get("recall"),
        precision=shares.get("precision"),
        f1=shares.get("f1"),
        auc=area,
    )


def _shares(cells: Cells) -> dict[str, Cells]:
    found, missed, wrongly = (cells[..., i] for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "recall": found / (found + missed),
            "precision": found / (found + wrongly),
            "f1": 2 * found / (2 * found + missed + wrongly),
        }


@dataclass(frozen=True)
class Scores:
    """Histograms of scores `[2, bins]` of the first class and the second, and redrawn ones."""

    cells: Cells
    drawn: Cells
    """`[draws, 2, bins]`."""
    around: Cells
    """What those were drawn from."""

    @classmethod
    def of(cls, sums: Sums, rng: np.random.Generator) -> Scores | None:
        """None unless both classes have records."""
        noise = sums.noise.get("scores", 0.0)
        cells = np.asarray(sums["scores"], np.float64)
        cells = without_negatives(cells) if noise else cells
        if not (cells.sum(1) >= 1).all():
            return None
        drawn, around = redrawn(cells, round(float(cells.sum())), noise, rng)
        return cls(cells, np.maximum(drawn, 0.0), around)

    @property
    def bins(self) -> int:
        """How many there are."""
        return int(self.cells.shape[-1])

    def alarms(self, rates: Sequence[float]) -> Iterator[AlarmFigures]:
        """The figures at these rates, but where one bin holds more than half of the records that
        would be named beyond it: who is among them would be chance."""
        total = self.cells.sum(0)[::-1]
        above = np.cumsum(total)
        for rate in rates:
            quota = rate * above[-1]
            place = int(np.searchsorted(above, quota - 1e-9))
            by_chance = quota - (above[place] - total[place])
            if quota / 2 < by_chance < total[place] - 1e-9:
                continue
            yield AlarmFigures(
                rate=rate,
                threshold=(self.bins - 1 - place) / self.bins,
                recall=self._measured(lambda cells, at=rate: _found(cells, at)[0]),
                precision=self._measured(lambda cells, at=rate: _found(cells, at)[1]),
            )

    def costs(self, ratios: Sequence[float]) -> Iterator[CostFigures]:
        """The figures for these ratios, but where no edge of a bin is near the threshold."""
        total, (negatives, positives) = self.cells.sum(), self.cells.sum(1)
        for ratio in ratios:
            threshold = 1 / (1 + ratio)
            edge = max(1, round(threshold * self.bins))
            if abs(edge / self.bins - threshold) <= _NEAR * threshold:
                yield CostFigures(
                    ratio=ratio,
                    threshold=edge / self.bins,
                    cost=1000 * self._cost(edge, ratio) / total,
                    at_half=1000 * self._cost(self.bins // 2, ratio) / total,
                    without=1000 * min(float(negatives), ratio * float(positives)) / total,
                )

    def _cost(self, edge: int, ratio: float) -> float:
        return float(self.cells[0, edge:].sum() + ratio * self.cells[1, :edge].sum())

    def curve(self) -> list[Place]:
        """Places at the lower edges of bins that hold records, at most `_PLACES` of them."""
        edges = np.flatnonzero(self.cells.sum(0))[::-1]
        named, found = self.cells.sum(0)[::-1].cumsum(), self.cells[1, ::-1].cumsum()
        where = self.bins - 1 - edges
        steps = np.unique(np.linspace(0, len(edges) - 1, _PLACES).round().astype(int))
        return [
            Place(
                threshold=float(edges[i]) / self.bins,
                alarms=float(named[where[i]] / named[-1]),
                recall=float(found[where[i]] / found[-1]),
                precision=float(found[where[i]] / named[where[i]]),
            )
            for i in steps
        ]

    def average_precision(self) -> Measured:
        """As scikit-learn's `average_precision_score`, of scores that are bins."""
        return self._measured(_average_precision)

    def _measured(self, share: Any) -> Measured:
        value = float(share(self.cells))
        moved = value + share(self.drawn) - float(share(self.around))
        return summarised(value, np.clip(moved, 0.0, 1.0))


def _found(cells: Cells, rate: float) -> tuple[Cells, Cells]:
    """Recall and precision of the highest `rate` of all records: of `[..., 2, bins]`."""
    down = cells[..., ::-1]
    total = down.sum(-2)
    quota = rate * total.sum(-1)
    before = total.cumsum(-1) - total
    with np.errstate(invalid="ignore", divide="ignore"):
        taken = np.clip((quota[..., None] - before) / np.where(total > 0, total, 1.0), 0.0, 1.0)
        found = (down[..., 1, :] * taken).sum(-1)
        return found / down[..., 1, :].sum(-1), found / quota


def _average_precision(cells: Cells) -> Cells:
    down = cells[..., ::-1]
    named, found = down.sum(-2).cumsum(-1), down[..., 1, :].cumsum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(named > 0, found / np.where(named > 0, named, 1.0), 0.0)
        return np.asarray((precision * down[..., 1, :]).sum(-1) / found[..., -1])
