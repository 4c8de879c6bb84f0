"""What counts of times and events say: who outlives, who goes first, and how sure that is.

Time is cut into `K` intervals. A record lives through some of them and then has its event in the
next one, or is lost from sight (it is censored): `outcomes[0, k]` counts records that were lost
after `k` whole intervals, `outcomes[1, k]` those with an event in interval `k`, both `[2, K + 1]`.
`ranks[2, K + 1, bins]` counts the same by the risk that a model gave them.

- **Survival** is the product-limit estimate (Kaplan and Meier 1958).
- **Concordance** is Harrell's C (1982): of all pairs in which it is known who went first, the
  share in which that one had the higher risk, ties counting one half. Its spread comes from the
  influence of each record on the two counts of pairs, as that of every ratio of U statistics
  does (Sen 1960).
- **Brier's score** at a time is the mean square of what was said about being alive then, each
  record weighed by how probable it was not to be lost before (Graf, Schmoor, Sauerbrei and
  Schumacher 1999).

Pairs are of all records that were added up, also of different sites, and no record leaves its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOST, EVENT = range(2)
"""Rows of `outcomes` and `ranks`."""

FEWEST: Final = 25
"""Test records of a site whose curve is shown: a step of it says nothing of a single one."""

_HALF: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class SurvivalCurve:
    """Who lives through each interval, as it was and as a model said."""

    records: int
    events: int
    observed: list[float]
    """By Kaplan and Meier."""
    predicted: list[float]
    """The mean over the records."""


@dataclass(frozen=True, kw_only=True)
class SurvivalCurves:
    """Of all test records, and of the sites that have `FEWEST` or more."""

    times: list[float]
    """The ends of the intervals..."""
    unit: str
    """... in this."""
    all_sites: SurvivalCurve
    low: list[float]
    """The interval of `observed` at each of the times, for 95 percent."""
    high: list[float]
    per_site: dict[str, SurvivalCurve]


def curve(outcomes: NDArray[np.int64] | Floats, predicted: Floats, records: int) -> SurvivalCurve:
    """Of counts `[2, K + 1]`, which may have noise, and the sum of what was said."""
    return SurvivalCurve(
        records=records,
        events=max(round(float(outcomes[EVENT].sum())), 0),
        observed=kaplan_meier(outcomes).tolist(),
        predicted=np.clip(predicted / max(records, 1), 0.0, 1.0).tolist(),
    )


def kaplan_meier(outcomes: NDArray[np.int64] | Floats) -> Floats:
    """The share that lives through each interval, `[..., 2, K + 1]` to `float64[..., K]`.

    Where nobody is left, the last share is repeated. With noise on the counts shares are still
    from 0 to 1, and never rise.
    """
    return _surviving(outcomes[..., EVENT, :-1], _at_risk(outcomes))


def in_sight(outcomes: NDArray[np.int64] | Floats) -> Floats:
    """The chance not to be lost before the end of each interval: `float64[..., K]`.

    Of an event in an interval it is known that the record was in sight before.
    """
    there = np.maximum(outcomes, 0.0).sum(-2)
    still = np.flip(np.cumsum(np.flip(there, -1), -1), -1)[..., :-1]
    return _surviving(outcomes[..., LOST, :-1], still)


def _at_risk(outcomes: NDArray[np.int64] | Floats) -> Floats:
    """How many live at the beginning of each interval and are seen to its end, or to an event."""
    there = np.maximum(outcomes, 0.0)
    later = np.flip(np.cumsum(np.flip(there.sum(-2), -1), -1), -1)[..., 1:]
    return np.asarray(later + there[..., EVENT, :-1])


def _surviving(gone: NDArray[np.int64] | Floats, of: Floats) -> Floats:
    share = np.divide(np.maximum(gone, 0.0), of, out=np.zeros(of.shape), where=of > 0)
    return np.asarray(np.cumprod(1 - np.minimum(share, 1.0), -1))


def concordance(ranks: NDArray[np.int64] | Floats) -> Floats:
    """Harrell's C of `[..., 2, K + 1, bins]`: `float64[...]`; NaN where no pair can be told."""
    events = ranks[..., EVENT, :-1, :].astype(np.float64)
    later = _later(ranks)
    below = np.cumsum(later, -1) - _HALF * later
    right = (events * below).sum((-1, -2))
    pairs = (events * later.sum(-1, keepdims=True)).sum((-1, -2))
    return np.asarray(np.divide(right, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0))


def _later(ranks: NDArray[np.int64] | Floats) -> Floats:
    """Records that are known to outlive an event in each interval: `[..., K, bins]`."""
    there = ranks.sum(-3, dtype=np.float64)
    return np.asarray(np.flip(np.cumsum(np.flip(there, -2), -2), -2)[..., 1:, :])


def spread_of_concordance(ranks: NDArray[np.int64]) -> float | None:
    """The standard deviation of Harrell's C over test sets of as many records; None without one."""
    value = float(concordance(ranks))
    if np.isnan(value):
        return None
    events = ranks[EVENT].astype(np.float64)
    later = np.concatenate([_later(ranks), np.zeros((1, ranks.shape[-1]))])
    earlier = np.cumsum(events, 0) - events
    # As the one that goes first, and as the one that outlives, by interval and bin.
    first_right = np.cumsum(later, -1) - _HALF * later
    last_right = np.flip(np.cumsum(np.flip(earlier, -1), -1), -1) - _HALF * earlier
    first = first_right - value * later.sum(-1, keepdims=True)
    last = last_right - value * earlier.sum(-1, keepdims=True)
    influence = np.stack([last, last + first])
    pairs = float((events * later.sum(-1, keepdims=True)).sum())
    return sqrt(float((ranks * influence**2).sum())) / pairs


@dataclass(frozen=True, kw_only=True)
class Brier:
    """Brier's score, integrated over the intervals in which somebody is in sight."""

    model: float
    uninformed: float
    """Of one who says to everybody what `kaplan_meier` says."""


def brier(squares: Floats, outcomes: NDArray[np.int64], widths: Floats) -> Brier | None:
    """Of summed squares `float64[K + 1, K]`; None without a record.

    `squares[k, j]` sums, over records with an event in interval `k`, the squared chance that they
    were given to live through interval `j`; `squares[K, j]`, over records that are known to live
    through `j`, that of the opposite. `widths: float64[K]` weigh the intervals.
    """
    seen, total = in_sight(outcomes), float(outcomes.sum())
    used = (seen > 0) & (widths > 0)
    if not total or not used.any():
        return None
    intervals = len(seen)
    weight = np.divide(1.0, seen, out=np.zeros(intervals), where=seen > 0)
    gone = np.tril(np.ones((intervals, intervals)))  # [j, k]: an event in k is before the end of j
    outlived = lived_through(outcomes)
    say = kaplan_meier(outcomes)
    model = gone * squares[:-1].T @ weight + squares[-1] * weight
    events = outcomes[EVENT, :-1] * weight
    everybody = say**2 * (gone @ events) + (1 - say) ** 2 * outlived * weight
    share = widths * used / (widths * used).sum()
    return Brier(model=float(share @ model) / total, uninformed=float(share @ everybody) / total)


def lived_through(outcomes: NDArray[np.int64] | Floats) -> Floats:
    """Records that are known to live through each interval: `float64[K]`."""
    there = outcomes.sum(0, dtype=np.float64)
    return np.asarray(np.flip(np.cumsum(np.flip(there)))[1:])
