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

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose

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
    of_counts = counted_metrics(sums.confusion).items()
    found = {"loss": sums.loss / sums.count} | {name: float(value) for name, value in of_counts}
    if sums.scores.shape[1] and sums.scores.sum(1).all():
        found["auc"] = float(auc(sums.scores))
    return found


def counted_metrics(confusion: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Accuracy, balanced accuracy and macro-F1 of confusion matrices.

    `confusion` is `int64[..., classes, classes]`, each metric `float64[...]`; a
    matrix without records has NaN.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    truth, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, f1 = hits / truth, 2 * hits / (truth + predicted)
        return {
            "accuracy": hits.sum(-1) / truth.sum(-1),
            "balanced_accuracy": _mean(recall, truth > 0),
            "macro_f1": _mean(f1, (truth + predicted) > 0),
        }


def names_one_class_only(found: Mapping[str, float], classes: int) -> bool:
    """Whether `metrics` are those of a model that puts every record into the same class.

    Then one recall is 1 and all others are 0, and one F1 is `2 a / (1 + a)` of the
    accuracy. False where a class has no test record: what occurs is not known here.
    """
    if not found or classes < 2:
        return False
    accuracy = found["accuracy"]
    alike = isclose(found["balanced_accuracy"], 1 / classes)
    return alike and isclose(found["macro_f1"], 2 * accuracy / (1 + accuracy) / classes)


def _mean(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Means over the last axis, of those that count."""
    total: NDArray[np.float64] = np.where(where, values, 0.0).sum(-1) / where.sum(-1)
    return total


def auc(scores: NDArray[np.int64]) -> NDArray[np.float64]:
    """AUC of score histograms `int64[..., 2, bins]` as `float64[...]`; NaN without both classes."""
    negatives = scores[..., 0, :].astype(np.float64)
    positives = scores[..., 1, :].astype(np.float64)
    below = np.cumsum(negatives, -1) - negatives
    with np.errstate(invalid="ignore"):
        area: NDArray[np.float64] = (positives * (below + negatives / 2)).sum(-1) / (
            negatives.sum(-1) * positives.sum(-1)
        )
    return area
