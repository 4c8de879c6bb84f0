"""Evaluation as sums, so that pooled metrics need no pooled records.

Every site reports counts that can be added (and later masked): the number of
records, the summed loss, a confusion matrix, and for two classes a histogram
of scores per class. Metrics are computed from a sum in one place, for a site,
for all sites together, and for the worst site.

AUC comes from `SCORE_BINS` equal bins of the predicted probability; records of
both classes in one bin count one half, so its error is at most half the share
of (positive, negative) pairs that share a bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCORE_BINS = 512


@dataclass(frozen=True, kw_only=True)
class EvaluationSums:
    """What one evaluation adds up to.

    `confusion` is `int64[classes, classes]` with the true class in the row;
    `scores` is `int64[2, SCORE_BINS]` (negatives, positives) for two classes
    and `int64[2, 0]` otherwise; `loss` is the summed cross-entropy in nats.
    """

    count: int
    loss: float
    confusion: NDArray[np.int64]
    scores: NDArray[np.int64]

    def __add__(self, other: EvaluationSums) -> EvaluationSums:
        return EvaluationSums(
            count=self.count + other.count,
            loss=self.loss + other.loss,
            confusion=self.confusion + other.confusion,
            scores=self.scores + other.scores,
        )


def score_bins(classes: int) -> int:
    """How many bins a histogram of scores has: scores are kept for two classes only."""
    return SCORE_BINS if classes == 2 else 0


def evaluation_sums(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> EvaluationSums:
    """The sums for `probabilities` (`float64[n, classes]`) against `labels` (`int64[n]`).

    The predicted class is the most probable one, the first of equals. A
    probability of zero for the true class counts as the smallest positive
    float64, so that a loss is large but finite; NaN propagates into the loss.
    """
    classes = probabilities.shape[1]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
    true = probabilities[np.arange(len(labels)), labels]
    loss = float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).sum())
    scores = np.zeros((2, score_bins(classes)), np.int64)
    if classes == 2:
        score = np.nan_to_num(probabilities[:, 1])
        bins = np.minimum((score * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
        np.add.at(scores, (labels, bins), 1)
    return EvaluationSums(count=len(labels), loss=loss, confusion=confusion, scores=scores)


def metrics(sums: EvaluationSums) -> dict[str, float]:
    """Loss, accuracy, balanced accuracy, macro-F1 and, for two classes, AUC.

    A metric that does not exist is left out: everything but nothing for zero
    records, and AUC where one class is absent. Balanced accuracy and macro-F1
    are means over the classes that occur (macro-F1: as truth or prediction).
    """
    if not sums.count:
        return {}
    hits = np.diag(sums.confusion).astype(np.float64)
    truth, predicted = sums.confusion.sum(1), sums.confusion.sum(0)
    occurs, appears = truth > 0, (truth + predicted) > 0
    found = {
        "loss": sums.loss / sums.count,
        "accuracy": float(hits.sum() / sums.count),
        "balanced_accuracy": float((hits[occurs] / truth[occurs]).mean()),
        "macro_f1": float((2 * hits[appears] / (truth + predicted)[appears]).mean()),
    }
    if sums.scores.shape[1] and occurs.all():
        found["auc"] = _auc(sums.scores)
    return found


def _auc(scores: NDArray[np.int64]) -> float:
    negatives, positives = scores.astype(np.float64)
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (negatives.sum() * positives.sum()))
