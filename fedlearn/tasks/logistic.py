"""Logistic regression on rows at hand, of classes or of hazards: a yardstick, and no part of a run.

As scikit-learn's `LogisticRegression` with its defaults (a squared penalty of one half on the
weights and none on the constants, beside the summed loss), by L-BFGS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ITERATIONS: Final = 200


def fitted(features: Any, targets: NDArray[np.int64], classes: int) -> Callable[[Any], Floats]:
    """The probabilities of each class, `[n, width]` to `float64[n, classes]`, after fitting.

    Args:
        features: `float64[n, width]`, an array or a sparse matrix of SciPy's.
        targets: `int64[n]`, places of classes.
        classes: how many there are; some may not occur.
    """
    from scipy.optimize import minimize

    n, width = features.shape
    wanted = np.eye(classes)[targets]

    def loss(vector: Floats) -> tuple[float, Floats]:
        weights, constants = _parts(vector, width, classes)
        answers = probabilities(features @ weights + constants)
        true = np.maximum((answers * wanted).sum(1), np.finfo(np.float64).tiny)
        off = answers - wanted
        gradient = np.concatenate([(features.T @ off + weights).reshape(-1), off.sum(0)])
        return float(-np.log(true).sum() + (weights**2).sum() / 2) / n, gradient / n

    start = np.zeros((width + 1) * classes)
    most = {"maxiter": _ITERATIONS}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=most)
    weights, constants = _parts(found.x, width, classes)
    return lambda rows: probabilities(rows @ weights + constants)


def fitted_labels(features: Any, targets: NDArray[np.int64]) -> Callable[[Any], Floats]:
    """The probabilities of each label, `[n, width]` to `float64[n, labels]`, after fitting.

    Args:
        features: `float64[n, width]`, an array or a sparse matrix of SciPy's.
        targets: `int64[n, labels]`, 1 where a row has one; each label is a regression of its own.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    (n, width), number = features.shape, targets.shape[1]

    def loss(vector: Floats) -> tuple[float, Floats]:
        weights, constants = _parts(vector, width, number)
        logits = features @ weights + constants
        off = expit(logits) - targets
        nats = np.logaddexp(0.0, logits) - targets * logits
        gradient = np.concatenate([(features.T @ off + weights).reshape(-1), off.sum(0)])
        return float(nats.sum() + (weights**2).sum() / 2) / n, gradient / n

    start = np.zeros((width + 1) * number)
    most = {"maxiter": _ITERATIONS}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=most)
    weights, constants = _parts(found.x, width, number)
    return lambda rows: np.asarray(expit(rows @ weights + constants))


def fitted_hazards(
    features: Any, outcomes: NDArray[np.int64], basis: Floats, offset: float
) -> Callable[[Any], Floats]:
    """The hazards of intervals, `[n, width]` to `float64[n, intervals]`, after fitting.

    Args:
        features: `float64[n, width]`, an array or a sparse matrix of SciPy's.
        outcomes: `int64[n, 2]`, intervals lived through, and 1 for an event in the next.
        basis: `float64[intervals, terms]`: logits are `offset` and a row's terms times these.
        offset: of every logit.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    n, width = features.shape
    at, terms = np.arange(len(basis))[None], basis.shape[1]
    events = (at == outcomes[:, :1]) & (outcomes[:, 1:] == 1)
    at_risk = (at < outcomes[:, :1]) | events

    def logits(vector: Floats, rows: Any) -> Floats:
        weights, constants = _parts(vector, width, terms)
        return np.asarray((rows @ weights + constants) @ basis.T + offset)

    def loss(vector: Floats) -> tuple[float, Floats]:
        weights, _ = _parts(vector, width, terms)
        found = logits(vector, features)
        nats = at_risk * np.logaddexp(0.0, found) - events * found
        off = (at_risk * expit(found) - events) @ basis
        gradient = np.concatenate([(features.T @ off + weights).reshape(-1), off.sum(0)])
        return float(nats.sum() + (weights**2).sum() / 2) / n, gradient / n

    most = {"maxiter": _ITERATIONS}
    start = np.zeros((width + 1) * terms)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=most)
    return lambda rows: np.asarray(expit(logits(found.x, rows)))


def _parts(vector: Floats, width: int, classes: int) -> tuple[Floats, Floats]:
    return vector[: width * classes].reshape(width, classes), vector[width * classes :]


def probabilities(logits: Floats) -> Floats:
    """Rows that sum to 1."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))
