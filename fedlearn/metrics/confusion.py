"""What confusion matrices say, `[..., true class, predicted class]`, exact ones and noisy ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.metrics.intervals import spread


def counted_metrics(
    confusion: NDArray[np.int64] | NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """Accuracy, balanced accuracy and macro-F1 of confusion matrices.

    `confusion` is `int64[..., classes, classes]`, each metric `float64[...]`; a
    matrix without records has NaN. So has one whose records are all of one class, but for
    accuracy: to say that class always is then perfect, and nothing was told apart.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    truth, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Noise may have taken cells below zero; of exact tables all shares are in range.
        recall, f1 = _share(hits, truth), _share(2 * hits, truth + predicted)
        several = (truth > 0).sum(-1) > 1
        return {
            "accuracy": _share(hits.sum(-1), truth.sum(-1)),
            "balanced_accuracy": np.where(several, _mean(recall, truth > 0), np.nan),
            "macro_f1": np.where(several, _mean(f1, (truth + predicted) > 0), np.nan),
        }


def names_one_class_only(found: Mapping[str, float], classes: int) -> bool:
    """Whether `metrics` are those of a model that puts every record into the same class.

    Then one recall is 1 and all others are 0, and one F1 is `2 a / (1 + a)` of the
    accuracy. False where a class has no test record: what occurs is not known here; and where
    one of the three is missing, or is no share, as a file of somebody else's may have it.
    """
    shares = [found.get(name, -1.0) for name in ("accuracy", "balanced_accuracy", "macro_f1")]
    if classes < 2 or not all(0 <= share <= 1 for share in shares):
        return False
    accuracy, balanced, macro_f1 = shares
    alike = isclose(balanced, 1 / classes)
    return alike and isclose(macro_f1, 2 * accuracy / (1 + accuracy) / classes)


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.clip(part / whole, 0.0, 1.0))


def right(confusion: NDArray[np.float64]) -> Any:
    """The share that is right, wherever noise has led it; NaN where noise left no record."""
    total = confusion.sum((-2, -1))
    hits = np.trace(confusion, axis1=-2, axis2=-1)
    return np.where(total > 0, hits / np.where(total > 0, total, 1.0), np.nan)


def _mean(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Means over the last axis, of those that count."""
    total: NDArray[np.float64] = np.where(where, values, 0.0).sum(-1) / where.sum(-1)
    return total


def differences(tables: Sequence[NDArray[Any]]) -> dict[str, float]:
    """How much decisions differ between groups with a table of two classes each, at least two.

    As `fedlearn.tasks.classification.DECISIONS`; a rate that a group does not have is left out.
    """
    # Noise may have made cells negative; of exact tables nothing changes.
    stack = np.maximum(np.stack(tables).astype(np.float64), 0.0)
    with np.errstate(invalid="ignore"):
        chosen = stack[:, :, 1].sum(1) / stack.sum((1, 2))
        rates = stack[:, :, 1] / stack.sum(2)  # wrongly (true class 0), rightly (true class 1)
    odds = [spread(rates[:, truth]) for truth in (0, 1)]
    found = {"demographic_parity_difference": spread(chosen)}
    if known := [one for one in odds if one is not None]:
        found["equalized_odds_difference"] = max(known)
    return {name: value for name, value in found.items() if value is not None}
