"""How far chance takes the records that a site happens to have: mathematics alone.

At home it is told from the records. Of what a site has given, sums with noise, nobody knows how its
records vary: there it is the most that values can which stand where they may, with these sums, in
each column and where columns go together two by two.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.screening.sums import Floats, ScreeningLayout

Rows = tuple[NDArray[np.floating], NDArray[np.int64]]
"""Records: their features `float[n, columns]` and labels `int64[n]`."""

_RATES: Final = np.geomspace(1e-4, 1e2, 400)
"""Each gives a bound by itself; the best of them is taken."""


# --- of records ------------------------------------------------------------------------------


def of_mean(places: Floats) -> float:
    """The variance that the choice of records gives their mean; of a single one it is not known."""
    return math.inf if len(places) < 2 else float(np.var(places, ddof=1)) / len(places)


def of_difference(layout: ScreeningLayout, rows: Rows, at: int, along: Floats) -> tuple[float, int]:
    """The variance that the choice of records gives the difference between the means of class `at`
    and of all others `along` a vector, and its degrees of freedom (Welch 1947, by the smaller part
    alone).

    Neither part varies less than all records together: a few that are alike say nothing of that.
    """
    features, labels = rows
    score = layout.added(features)[:, 1:] @ along
    parts, least = (score[labels == at], score[labels != at]), float(np.var(score, ddof=1))
    found = sum(max(float(np.var(one, ddof=1)), least) / len(one) for one in parts)
    return found, min(map(len, parts)) - 1


# --- of sums ---------------------------------------------------------------------------------


def log_chance(excess: float, mean: float, records: float, noise: float) -> float:
    """The logarithm of the chance, at most, that so many values from -1 to 1, each of this mean,
    add up to `excess` more than that, where Gaussian noise of this deviation is in the sum.

    For every rate r it is no more than `log E exp(r sum) - r excess`, and no value from -1 to 1 has
    larger moments of that kind than a coin of the same mean.

    Source: Hoeffding 1963, theorem 1 and inequality (4.1).
    """
    up = (1.0 + min(max(mean, -1.0), 1.0)) / 2.0
    with np.errstate(divide="ignore"):
        heads, tails = np.log(up), np.log1p(-up)
    coin = np.logaddexp(heads + _RATES * 2 * (1 - up), tails - _RATES * 2 * up)
    moments = max(records, 0.0) * coin + (_RATES * noise) ** 2 / 2
    return min(0.0, float(np.min(moments - _RATES * excess)))


def most_variance(layout: ScreeningLayout, sums: Floats, records: float, along: Floats) -> float:
    """The variance, at most, of the scores of so many records with these sums: where each stands,
    `float64[width - 1]`, times `along`.

    Of one category or another it is known from their means, of a value from -1 to 1 it is no more
    than one less the square of its mean. Columns may go together two by two, as closely as can be;
    were all of them one and the same it would be as many times that as there are columns, which
    no table is like that anybody trains on (of heart's thirteen it is four fifths of this).

    Source: Bhatia and Davis 2000, theorem 1; (a + b)^2 <= 2 a^2 + 2 b^2.
    """
    found = 0.0
    for _, column, part in layout.parts:
        at = slice(part.start - 1, part.stop - 1)
        mean, weights = sums[at] / records, along[at]
        if column.width == 1:
            found += float(weights[0] ** 2 * (1.0 - min(abs(float(mean[0])), 1.0) ** 2))
        else:
            shares = np.clip(mean, 0.0, 1.0)
            shares = shares / max(float(shares.sum()), 1e-12)
            found += max(float(shares @ weights**2 - (shares @ weights) ** 2), 0.0)
    return 2.0 * found if len(layout.columns) > 1 else found
