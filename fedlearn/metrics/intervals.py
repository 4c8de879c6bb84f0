"""How sure a metric is, from test sums alone: no record leaves a site for it.

Drawing n test records with replacement is drawing n cells of their confusion
matrix, or n bins of their scores, from a multinomial law. So the bootstrap of
records (Efron 1979) needs the sums that evaluation has already, and an interval
releases nothing new. Intervals are about the sample of test records; how much
another training run would differ is what several seeds show.

Not done here: the interval of a loss, which needs more than its sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.metrics.sums import EvaluationSums, auc, counted_metrics, metrics

RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A metric and its interval; without one where the records say nothing about its spread."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far apart the best and the worst of several groups are in accuracy.

    `by_chance` is the gap that groups of these sizes stay below in 95 of 100 cases
    when the model does equally well in all of them: the larger of several small
    groups always looks better than the others.
    """

    value: float
    by_chance: float
    best: str
    worst: str


def measured(sums: EvaluationSums, rng: np.random.Generator) -> dict[str, Measured]:
    """All metrics of `sums` but the loss, with percentile intervals of `RESAMPLES` resamples.

    Resamples in which a metric does not exist (one class is absent) are left out.
    The interval is null where all resamples are equal: nine right of nine do not
    prove that the tenth will be.
    """
    drawn = _drawn(sums, rng) if sums.count else {}
    return {
        name: _measured(value, drawn.get(name, np.empty(0)))
        for name, value in metrics(sums).items()
        if name != "loss"
    }


def _drawn(sums: EvaluationSums, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    resampled = dict(counted_metrics(_resample(sums.confusion, rng)))
    if sums.scores.size:
        used = sums.scores.any(axis=0)  # empty bins take no part, and most are empty
        resampled["auc"] = auc(_resample(sums.scores[:, used], rng))
    return resampled


def _resample(table: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """`RESAMPLES` tables of as many records, drawn with replacement from those of `table`."""
    flat = table.reshape(-1)
    draws = rng.multinomial(flat.sum(), flat / flat.sum(), size=RESAMPLES)
    return np.asarray(draws).reshape(RESAMPLES, *table.shape)


def _measured(value: float, drawn: NDArray[np.float64]) -> Measured:
    known = drawn[~np.isnan(drawn)]
    if not known.size or known.min() == known.max():
        return Measured(value=value, low=None, high=None)
    rest = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, (rest, 1 - rest))
    return Measured(value=value, low=float(low), high=float(high))


def accuracy_gap(groups: Mapping[str, EvaluationSums], rng: np.random.Generator) -> Gap | None:
    """The gap between the groups that have records; None with fewer than two."""
    tested = {name: sums for name, sums in groups.items() if sums.count}
    if len(tested) < 2:
        return None
    right = np.array([np.trace(sums.confusion) for sums in tested.values()])
    sizes = np.array([sums.count for sums in tested.values()])
    shares = right / sizes
    alike = rng.binomial(sizes, right.sum() / sizes.sum(), (RESAMPLES, len(sizes))) / sizes
    names = list(tested)
    return Gap(
        value=float(np.ptp(shares)),
        by_chance=float(np.quantile(np.ptp(alike, axis=1), CONFIDENCE)),
        best=names[int(shares.argmax())],
        worst=names[int(shares.argmin())],
    )


def decision_gaps(groups: Mapping[str, EvaluationSums]) -> dict[str, float]:
    """How much the decisions of a classifier of two classes differ between groups.

    `demographic_parity_difference`: largest difference in how often the second
    class is predicted. `equalized_odds_difference`: largest difference in how
    often it is predicted rightly, or wrongly, whichever is larger (Hardt, Price
    and Srebro 2016). A rate that a group does not have is left out; without two
    groups, or with other than two classes, there is nothing.
    """
    tables = [sums.confusion for sums in groups.values() if sums.count]
    if len(tables) < 2 or tables[0].shape != (2, 2):
        return {}
    stack = np.stack(tables).astype(np.float64)
    with np.errstate(invalid="ignore"):
        chosen = stack[:, :, 1].sum(1) / stack.sum((1, 2))
        rates = stack[:, :, 1] / stack.sum(2)  # wrongly (true class 0), rightly (true class 1)
    odds = [_spread(rates[:, truth]) for truth in (0, 1)]
    found = {"demographic_parity_difference": _spread(chosen)}
    known = [spread for spread in odds if spread is not None]
    if known:
        found["equalized_odds_difference"] = max(known)
    return {name: value for name, value in found.items() if value is not None}


def _spread(rates: NDArray[np.float64]) -> float | None:
    known = rates[~np.isnan(rates)]
    return float(np.ptp(known)) if len(known) > 1 else None
