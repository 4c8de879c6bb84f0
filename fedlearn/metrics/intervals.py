"""How sure a metric is, from test sums alone: no record leaves a site for it.

Drawing n test records with replacement is drawing n cells of a table that counts
them (a confusion matrix, bins of scores) from a multinomial law. So the bootstrap of
records (Efron 1979) needs the sums that evaluation has already, and an interval
releases nothing new. Intervals are about the sample of test records; how much
another training run would differ is what several seeds show.

Not done here: the interval of a loss, which needs more than its sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A metric and its interval; without one where the records say nothing about its spread."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far apart the best and the worst of several groups are in the leading metric.

    `by_chance` is the gap that groups of these sizes stay below in 95 of 100 cases
    when the model does equally well in all of them: the larger of several small
    groups always looks better than the others.
    """

    value: float
    by_chance: float
    best: str
    worst: str


def measured(
    found: Mapping[str, float], drawn: Mapping[str, NDArray[np.float64]]
) -> dict[str, Measured]:
    """Metrics with percentile intervals of their resamples `float64[draws]`; the loss is left out.

    Resamples in which a metric does not exist (NaN) are left out. The interval is null
    where all resamples are equal: nine right of nine do not prove that the tenth will be.
    """
    return {
        name: summarised(value, drawn.get(name, np.empty(0)))
        for name, value in found.items()
        if name != "loss"
    }


def resampled(counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """`RESAMPLES` tables of as many records, drawn with replacement from those of `counts`."""
    flat = counts.reshape(-1)
    draws = rng.multinomial(flat.sum(), flat / flat.sum(), size=RESAMPLES)
    return np.asarray(draws).reshape(RESAMPLES, *counts.shape)


def redrawn(
    table: NDArray[np.float64],
    records: int,
    noise: float | NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tables of so many records and noise that were drawn anew, and the table they came from.

    `noise` is the standard deviation of every cell, or of each.
    """
    nearest = np.maximum(table, 0.0)
    if not nearest.any():
        return np.full((1, *table.shape), np.nan), nearest
    chances = nearest / nearest.sum()
    drawn = rng.multinomial(records, chances.reshape(-1), size=RESAMPLES)
    tables = drawn.reshape(-1, *table.shape).astype(np.float64)
    return tables + noise * rng.standard_normal(tables.shape), chances * records


def summarised(value: float, drawn: NDArray[np.float64]) -> Measured:
    """A number with the percentile interval of its resamples, as `measured`."""
    known = drawn[~np.isnan(drawn)]
    if not known.size or known.min() == known.max():
        return Measured(value=value, low=None, high=None)
    rest = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, (rest, 1 - rest))
    return Measured(value=value, low=float(low), high=float(high))


def gap_of_shares(
    shares: Mapping[str, tuple[int, int]],
    rng: np.random.Generator,
    noise: Mapping[str, float] | None = None,
) -> Gap | None:
    """The gap between groups with `(right, all)` records; None with fewer than two groups.

    `noise` is the standard deviation of what was added to the numbers that are right.
    """
    known = {name: of for name, of in shares.items() if of[1]}
    if len(known) < 2:
        return None
    right, sizes = np.array([*known.values()]).T
    found = right / sizes
    alike = rng.binomial(sizes, right.sum() / sizes.sum(), (RESAMPLES, len(sizes))) / sizes
    names = list(known)
    added = np.array([(noise or {}).get(name, 0.0) for name in names])
    if added.any():
        alike = alike + added / sizes * rng.standard_normal(alike.shape)
    return Gap(
        value=float(np.ptp(found)),
        by_chance=float(np.quantile(np.ptp(alike, axis=1), CONFIDENCE)),
        best=names[int(found.argmax())],
        worst=names[int(found.argmin())],
    )


def spread(rates: NDArray[np.float64]) -> float | None:
    """The largest difference between rates, NaN left out; None without two of them."""
    known = rates[~np.isnan(rates)]
    return float(np.ptp(known)) if len(known) > 1 else None


def normal_draws(value: float, deviation: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """`float64[RESAMPLES]` draws around a mean of many records, with its standard deviation."""
    return np.asarray(value + deviation * rng.standard_normal(RESAMPLES))


def gap_of_means(
    means: Mapping[str, float], deviations: Mapping[str, float], rng: np.random.Generator
) -> Gap | None:
    """The gap between groups in a mean of which less is better, such as that of errors; None with
    fewer than two groups. `deviations` are the standard deviations of the means."""
    if len(means) < 2:
        return None
    names, found = list(means), np.array([*means.values()])
    spreads = np.array([deviations[name] for name in names])
    alike = spreads * rng.standard_normal((RESAMPLES, len(names)))
    return Gap(
        value=float(np.ptp(found)),
        by_chance=float(np.quantile(np.ptp(alike, axis=1), CONFIDENCE)),
        best=names[int(found.argmin())],
        worst=names[int(found.argmax())],
    )
