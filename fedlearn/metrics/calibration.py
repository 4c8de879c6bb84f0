"""How far the probabilities of a classifier of two classes can be taken at their word.

Computed from the histogram of scores that evaluation adds up anyway
(`fedlearn.metrics`): nothing more leaves a site for it. Records are put together by
their scores into groups of about equal size (Nguyen and O'Connor 2015), none of them
small; in each the mean score is compared with the share of the second class, and the
expected calibration error (Naeini, Cooper and Hauskrecht 2015) is the mean of the
differences, weighted by records.

Not done: more than two classes, whose scores evaluation does not add up, and putting
a model right that is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.metrics.intervals import CONFIDENCE, RESAMPLES
from fedlearn.metrics.sums import EvaluationSums

SMALLEST: Final = 25
"""Records of a group, at the least: its share says nothing of a single one."""
MOST: Final = 16
"""Groups, at the most."""
FEWEST: Final = 4 * SMALLEST
"""With fewer test records than this nothing is said."""

_Z: Final = 1.959963984540054
"""The 97.5 percent quantile of a normal law: intervals are for 95 percent."""


@dataclass(frozen=True, kw_only=True)
class ScoreGroup:
    """Test records with similar scores: what the model expected of them, and what they were.

    `low` and `high` are the interval of `observed` (Wilson 1927), for 95 percent.
    """

    count: int
    predicted: float
    """Mean probability of the second class."""
    observed: float
    """Its share."""
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Expected and observed shares of the second class, in the order of the scores.

    `by_chance` is the error that right probabilities stay below in 95 of 100 test sets
    with these scores: few records never fall as expected.
    """

    error: float
    by_chance: float
    groups: list[ScoreGroup]


def calibration(sums: EvaluationSums, rng: np.random.Generator) -> Calibration | None:
    """The calibration that the scores of `sums` show; None without at least `FEWEST` of them.

    **Guarantees:** every group has at least `SMALLEST` records, and there are at most
    `MOST`. A score counts as the middle of its bin, so `predicted` and `error` are within
    half a bin (1/1024) of those of the scores themselves.
    """
    records, positives = sums.scores.sum(0), sums.scores[1]
    total = int(records.sum())
    if total < FEWEST:
        return None
    used = np.flatnonzero(records)
    records, positives = records[used], positives[used]
    score = (used + 0.5) / sums.scores.shape[1]
    starts = _starts(records, max(SMALLEST, -(-total // MOST)))
    count = np.add.reduceat(records, starts)
    expected = np.add.reduceat(records * score, starts)
    found = np.add.reduceat(positives, starts)
    drawn = np.add.reduceat(rng.binomial(records, score, (RESAMPLES, len(used))), starts, axis=1)
    errors = np.abs(drawn - expected).sum(1) / total
    return Calibration(
        error=float(np.abs(found - expected).sum() / total),
        by_chance=float(np.quantile(errors, CONFIDENCE)),
        groups=[_group(*cells) for cells in zip(count, expected, found, strict=True)],
    )


def _starts(records: NDArray[np.int64], size: int) -> NDArray[np.intp]:
    """Where groups of at least `size` records begin; what is left over joins the last."""
    starts, held = [0], 0
    for place, more in enumerate(records):
        if held >= size:
            starts.append(place)
            held = 0
        held += int(more)
    if held < size and len(starts) > 1:
        starts.pop()
    return np.asarray(starts, np.intp)


def _group(count: np.int64, expected: np.float64, found: np.int64) -> ScoreGroup:
    n, share = int(count), float(found / count)
    middle, root = share + _Z**2 / (2 * n), np.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2)
    low, high = ((middle + sign * _Z * root) / (1 + _Z**2 / n) for sign in (-1, 1))
    return ScoreGroup(
        count=n,
        predicted=float(expected / count),
        observed=share,
        low=min(share, max(0.0, float(low))),
        high=max(share, min(1.0, float(high))),
    )
