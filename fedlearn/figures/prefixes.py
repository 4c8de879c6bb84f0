"""How many records stand at or below each of `m` points, with as little noise as is known.

What is released are not the counts `x: [m]` at the points but `y = R x` with noise of one
deviation on every number, and from it `A R^-1 y`, where `A` adds up: the prefix sums. One record
moves `y` by a column of `R`, and a prefix sum has the noise of a row of `A R^-1`. Both are shortest
together, up to a constant, where `R` is the square root of `A`: lower triangular, with the
coefficients of `(1 - z)^(-1/2)`, which are `binom(2k, k) / 4^k`. The noise of a prefix sum is then
at most `norm(m)^2` times that of a single count, 2.83 times for 256 points; a binary tree made
consistent by least squares (Hay, Rastogi, Miklau and Suciu 2010) has 3.96, or 3.11 against 2.66
on average (docs/statistics.md; a test holds one against the other).

Source: Fichtenberger, Henzinger and Upadhyay 2023, "Constant matters"; Henzinger, Upadhyay and
Upadhyay 2023, "Almost tight error bounds on differentially private continual counting", theorem 1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@lru_cache(maxsize=32)
def root(points: int) -> Floats:
    """The square root of the matrix that adds up, `float64[m, m]`; do not write to it."""
    return _toeplitz(_series(points, 0.5))


@lru_cache(maxsize=32)
def unroot(points: int) -> Floats:
    """The inverse of `root`, whose coefficients are those of `(1 - z)^(1/2)`."""
    return _toeplitz(_series(points, -0.5))


def norm(points: int) -> float:
    """The length of the longest column of `root`, which is the first."""
    return float(np.linalg.norm(_series(points, 0.5)))


def _series(points: int, power: float) -> Floats:
    """The first coefficients of `(1 - z)^-power`."""
    k = np.arange(1, points)
    return np.concatenate([[1.0], np.cumprod((k - 1 + power) / k)])


def _toeplitz(column: Floats) -> Floats:
    lag = np.subtract.outer(np.arange(len(column)), np.arange(len(column)))
    found = np.where(lag >= 0, column[np.maximum(lag, 0)], 0.0)
    found.setflags(write=False)
    return found
