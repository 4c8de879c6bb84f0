"""What several yes-or-no answers a record are worth, label by label and together, from sums alone.

Of every label a record is found (rightly said), said wrongly, missed, or neither: `cells` are how
many records are the first three, `[labels, 3]`; the rest follows from the number of records. F1
over all answers ("micro") is a ratio of sums over records, so that second moments of what a record
adds say how sure it is, whatever its labels have to do with each other (`fedlearn.metrics.ratios`).
The mean over labels ("macro") has no such interval: that would take how labels go together, which
is not added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.metrics.by_class import ClassFigures, figures_of
from fedlearn.metrics.intervals import RESAMPLES, resampled, summarised
from fedlearn.metrics.ratios import Ratio
from fedlearn.metrics.scores import auc

Floats = NDArray[np.float64]

FOUND, WRONG, MISSED = range(3)
_TOO_FEW: Final = 5.0
"""Records of a label, in deviations of their noise, of which an F1 is still one."""


def cells_of(named: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the three cells an answer is in: `bool[n, labels]` each to `bool[n, labels, 3]`."""
    return np.stack([named & truth, named & ~truth, ~named & truth], -1)


def moments_of(cells: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`int64[n, 3]` of `bool[n, labels, 3]`: x x, x y and y y, where F1 is the sum of x over that
    of y: twice what is found, and what is true beside what is said."""
    each = cells.sum(1).astype(np.int64)
    x, y = 2 * each[:, FOUND], 2 * each[:, FOUND] + each[:, WRONG] + each[:, MISSED]
    return np.stack([x * x, x * y, y * y], -1)


def micro_f1(cells: NDArray[Any]) -> float | None:
    """F1 over all answers of `[labels, 3]`; None where no label is true or said."""
    found, wrong, missed = (float(total) for total in cells.sum(0))
    whole = 2 * found + wrong + missed
    return min(max(2 * found / whole, 0.0), 1.0) if whole > 0 else None


def micro_f1_drawn(
    cells: NDArray[Any], moments: NDArray[Any], count: int, rng: np.random.Generator
) -> Floats:
    """The same had the records been drawn anew, `float64[draws]` in [0, 1]."""
    found, wrong, missed = (float(total) for total in cells.sum(0))
    xx, xy, yy = (float(moment) for moment in moments)
    ratio = Ratio(count=count, sums=(2 * found, 2 * found + wrong + missed), products=(xx, xy, yy))
    return np.clip(ratio.drawn(rng), 0.0, 1.0)


def micro_f1_noised(cells: NDArray[Any], noise: float, rng: np.random.Generator) -> Floats:
    """The same of cells with noise, drawn anew as well: as if labels were independent of each
    other, which noise leaves no other way to say."""
    totals = cells.sum(0).astype(np.float64)
    spread = np.sqrt(np.maximum(totals, 0.0) + len(cells) * noise**2)
    found, wrong, missed = (totals + spread * rng.standard_normal((RESAMPLES, 3))).T
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = 2 * found / (2 * found + wrong + missed)
    return np.clip(np.where(np.isfinite(drawn), drawn, np.nan), 0.0, 1.0)


def macro_f1(cells: NDArray[Any], noise: float = 0.0) -> float | None:
    """The mean of F1 over the labels that are true or said of a record.

    None where there is no such label; with noise, unless every label has records enough that it is
    not the noise that is averaged.
    """
    found, wrong, missed = cells.astype(np.float64).T
    whole = 2 * found + wrong + missed
    if noise and (found + missed < _TOO_FEW * noise).any():
        return None
    there = whole > 0
    each = np.clip(2 * found[there] / whole[there], 0.0, 1.0)
    return float(each.mean()) if there.any() else None


def macro_auc(scores: NDArray[np.int64]) -> float | None:
    """The mean of AUC over the labels that some records have and others lack."""
    each = auc(scores)
    known = each[~np.isnan(each)]
    return float(known.mean()) if len(known) else None


def best_constant(cells: NDArray[Any], count: int) -> float | None:
    """The largest F1 over all answers of saying the same labels of all `count` records.

    Of so many labels the commonest are best, so that only their number is to be tried.
    """
    records = np.sort(np.maximum(cells[:, FOUND] + cells[:, MISSED], 0.0))[::-1]
    if not records.sum():
        return None
    number = np.arange(1, len(records) + 1)
    return float((2 * records.cumsum() / (number * count + records.sum())).max())


def label_figures(
    names: Sequence[str],
    cells: NDArray[Any],
    count: int,
    noise: float,
    scores: NDArray[np.int64] | None,
    rng: np.random.Generator,
    fewest: int = 1,
) -> dict[str, ClassFigures]:
    """Every label by itself: records are independent of each other, so that its intervals are
    those of a table of four cells. A share of fewer than `fewest` records is null."""
    figures = {}
    for i, name in enumerate(names):
        found, wrong, missed = cells[i].astype(np.float64)
        table = np.array([found, missed, wrong, count - found - missed - wrong])
        spread = noise * np.array([1.0, 1.0, 1.0, np.sqrt(3.0)])
        area = None
        if scores is not None and scores[i].any(1).all() and found + missed >= fewest:
            used = scores[i][:, scores[i].any(0)]
            area = summarised(float(auc(scores[i])), auc(resampled(used, rng)))
        figures[name] = figures_of(table, spread, rng, fewest, area)
    return figures
