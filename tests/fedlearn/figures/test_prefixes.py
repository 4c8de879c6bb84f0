"""The matrix that quantiles are released by: what it is, and that it beats a tree."""

from __future__ import annotations

import numpy as np
import pytest

from fedlearn.figures import prefixes

POINTS = 128


def tree(points: int, arity: int) -> np.ndarray:
    """The counts of a hierarchical histogram, without its root: `float64[nodes, points]`."""
    rows, size = [], 1
    while size < points:
        rows += [np.repeat(at == np.arange(points // size), size) for at in range(points // size)]
        size *= arity
    return np.array(rows, np.float64)


def error(strategy: np.ndarray) -> np.ndarray:
    """The noise of each prefix sum by least squares, over that of a single count."""
    adds_up = np.tril(np.ones((strategy.shape[1], strategy.shape[1])))
    longest = np.linalg.norm(strategy, axis=0).max()
    return np.asarray(longest * np.linalg.norm(adds_up @ np.linalg.pinv(strategy), axis=1))


@pytest.mark.parametrize("points", [16, 100])
def test_root__times_itself_adds_up(points: int) -> None:
    root = prefixes.root(points)
    assert np.allclose(root @ root, np.tril(np.ones((points, points))))
    assert np.allclose(root @ prefixes.unroot(points), np.eye(points))
    assert prefixes.norm(points) == pytest.approx(np.linalg.norm(root, axis=0).max())


def test_root__has_less_noise_than_consistent_trees_on_average_and_at_worst() -> None:
    own = error(np.array(prefixes.root(POINTS)))
    assert own.max() == pytest.approx(prefixes.norm(POINTS) ** 2)
    for arity in (2, 4, 8, 16):
        other = error(tree(POINTS, arity))
        assert own.mean() < other.mean(), arity
        assert own.max() < other.max(), arity
