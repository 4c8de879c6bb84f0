"""Histograms of the scores of yes and of no: how well they rank, and what they are worth.

A score is the predicted probability of yes; evaluation counts it in `SCORE_BINS` equal
bins, for the records that are no and for those that are yes: `int64[2, SCORE_BINS]`.
Nothing more leaves a site for what is computed here.

AUC counts records of both kinds in one bin one half, so its error is at most half the
share of (yes, no) pairs that share a bin.

For calibration, records are put together by their scores into groups of about equal size
(Nguyen and O'Connor 2015), none of them small; in each the mean score is compared with
the share of yes, and the expected calibration error (Naeini, Cooper and Hauskrecht 2015)
is the mean of the differences, weighted by records. Putting a model right that is not is
not done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.metrics.intervals import CONFIDENCE, RESAMPLES

SCORE_BINS: Final = 512

NOISED_BINS: Final = 16
"""Where noise is added to every bin; an even number, so that one half is between two."""

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
    """Expected and observed shares of yes (the second of two classes), in the order of the scores.

    `by_chance` is the error that right probabilities stay below in 95 of 100 test sets
    with these scores: few records never fall as expected.
    """

    error: float
    by_chance: float
    groups: list[ScoreGroup]


def histogram(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scores `float64[n]` in [0, 1], NaN as 0, of records that are `truth: int64[n]` (0 or 1)."""
    counts = np.zeros((2, SCORE_BINS), np.int64)
    np.add.at(counts, (truth, bins_of(scores, SCORE_BINS)), 1)
    return counts


def bins_of(scores: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """The bin, of so many, that each score is in: `int64[n]`."""
    score = np.clip(np.nan_to_num(scores), 0.0, 1.0)
    return np.minimum((score * bins).astype(np.int64), bins - 1)


def auc(scores: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC of histograms `[..., 2, bins]` as `float64[...]`, in [0, 1]; NaN without both kinds."""
    return np.asarray(np.clip(area(scores), 0.0, 1.0))


def area(scores: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """The same, which noise on the bins may have led out of its range."""
    negatives = scores[..., 0, :].astype(np.float64)
    positives = scores[..., 1, :].astype(np.float64)
    below = np.cumsum(negatives, -1) - negatives
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (positives * (below + negatives / 2)).sum(-1) / (
            negatives.sum(-1) * positives.sum(-1)
        )
    return found


def known_area(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC of noisy histograms; NaN where noise left one of the classes no record."""
    known = (scores.sum(-1) > 0).all(-1)
    return np.where(known, area(np.where(known[..., None, None], scores, 1.0)), np.nan)


def halves(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers below and above one half: `[..., 2, bins]` to `[..., 2, 2]`."""
    return np.asarray(scores.reshape(*scores.shape[:-1], 2, -1).sum(-1))


def fitted(scores: NDArray[np.float64], cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bins whose halves add up to `cells`: the nearest to those that were found."""
    half = scores.shape[-1] // 2
    missing = (cells - halves(scores)) / half
    return np.asarray(scores + np.repeat(missing, half, axis=-1))


def without_negatives(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The bins with as many records in every half, which what noise has added would exceed."""
    half, kept = scores.shape[-1] // 2, np.maximum(scores, 0.0)
    wanted, there = np.maximum(halves(scores), 0.0), halves(kept)
    scale = np.divide(wanted, there, out=np.zeros_like(there), where=there > 0)
    return np.asarray(kept * np.repeat(scale, half, axis=-1))


def calibration(scores: NDArray[np.int64], rng: np.random.Generator) -> Calibration | None:
    """The calibration that a histogram shows; None without at least `FEWEST` records.

    **Guarantees:** every group has at least `SMALLEST` records, and there are at most
    `MOST`. A score counts as the middle of its bin, so `predicted` and `error` are within
    half a bin (1/1024) of those of the scores themselves.
    """
    records, positives = scores.sum(0), scores[1]
    total = int(records.sum())
    if total < FEWEST:
        return None
    used = np.flatnonzero(records)
    records, positives = records[used], positives[used]
    score = (used + 0.5) / scores.shape[1]
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
