"""What draws say of sampling: who took part, and how often, as counts that should be binomial.

Pure, as `fedlearn.auditing.noise_laws`. Counts are turned into standard normals by their
distribution function and a coin of the audit's own, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betainc, ndtri

from fedlearn.auditing.chance import (
    Floats,
    Found,
    chance_check,
    exact_check,
    largest,
    of_normal,
    variance,
)
from fedlearn.auditing.findings import Check

Integers = NDArray[np.int64]

_MOST_RECORDS: Final = 128
"""Records that are compared with one another, two by two."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """How often records took part, as the sum that was made of them says.

    `single: int64[draws, records]`: in draws of one step each. `several: int64[rounds, records]`:
    in rounds of `steps` steps each.
    """

    single: Integers
    several: Integers
    steps: int

    @property
    def records(self) -> int:
        """How many records there were."""
        return int(self.single.shape[1])


def draw_checks(draws: Draws, rate: float, coins: np.random.Generator) -> list[Check]:
    """Whether every record took part by its own coin of chance `rate`, once at most in a step.

    `coins` are the audit's own.
    """
    most = int(draws.single.max(initial=0)), int(draws.several.max(initial=0))
    never_twice = most[0] <= 1 and most[1] <= draws.steps and int(draws.single.min(initial=0)) >= 0
    if rate >= 1:
        all_in = bool((draws.single == 1).all() and (draws.several == draws.steps).all())
        return [exact_check("draws", all_in, "a record that should always take part")]
    once = exact_check("draws", never_twice, "a record that took part twice in a step")
    if not never_twice:
        return [once]

    def normals(counts: Integers, trials: int, chance: float) -> Floats:
        return _normals(counts, trials, chance, coins)

    return [
        once,
        chance_check("draws_of_records", _of_records(draws, rate, normals)),
        chance_check("draws_of_steps", _of_steps(draws, rate, normals)),
    ]


_Normals = Callable[[Integers, int, float], Floats]


def _of_records(draws: Draws, rate: float, normals: _Normals) -> Iterator[Found]:
    """How often each of them took part, over single steps and over those of a round."""
    rounds = len(draws.several)
    for counts, trials, what in (
        (draws.single.sum(0), len(draws.single), "single steps"),
        (draws.several.sum(0), rounds * draws.steps, "the steps of rounds"),
        (draws.several.ravel(), draws.steps, "the steps of one round"),
    ):
        found = normals(counts, trials, rate)
        where = f"how often a record took part in {what}"
        yield Found(chance=variance(found), where=where)
        yield Found(chance=largest(found), where=where)


def _of_steps(draws: Draws, rate: float, normals: _Normals) -> Iterator[Found]:
    """How many took part in a step, and in all; who took part together, and who again."""
    single, records = draws.single, draws.records
    sizes = normals(single.sum(1), records, rate)
    yield Found(chance=variance(sizes), where="how many records took part in a step")
    for counts, what in ((single, "single steps"), (draws.several, "the steps of rounds")):
        trials = counts.size * (1 if counts is single else draws.steps)
        total = normals(np.array([counts.sum()]), trials, rate)
        where = f"how many records took part in all {what}"
        yield Found(chance=of_normal(float(total[0])), where=where)
    turns = single[: len(single) // 2 * 2]
    neighbours = single[:, : records // 2 * 2], single[:, 1 : 1 + (records - 1) // 2 * 2]
    for one, other, where in (
        (turns[::2], turns[1::2], "who took part twice running"),
        *((beside[:, ::2], beside[:, 1::2], "who took part together") for beside in neighbours),
    ):
        total = normals(np.array([int((one & other).sum())]), one.size, rate**2)
        yield Found(chance=of_normal(float(total[0])), where=where)
    few = single[:, :_MOST_RECORDS]
    for values, where in (
        (single, "who took part in two steps"),
        (few.T, "two records that took part together"),
    ):
        yield Found(chance=largest(_agreement(values, rate, normals)), where=where)


def _agreement(values: Integers, rate: float, normals: _Normals) -> Floats:
    """How often two rows agree, of all pairs of rows."""
    both = values @ values.T
    ones = values.sum(1)
    agreed = values.shape[1] - ones[:, None] - ones[None, :] + 2 * both
    pairs = np.triu_indices(len(values), 1)
    return normals(agreed[pairs], values.shape[1], rate**2 + (1 - rate) ** 2)


def _normals(counts: Integers, trials: int, rate: float, coins: np.random.Generator) -> Floats:
    """Binomial counts as standard normals, exactly: a coin chooses within the step of the law."""
    coin, more = coins.random(counts.shape), _at_least(counts + 1, trials, rate)
    below, inside = bdtr(counts - 1.0, trials, rate), bdtr(counts, trials, rate)
    lower = np.where(counts > 0, below, 0.0)
    lower = lower + coin * (inside - lower)
    # From above as well: near one no float lies between.
    upper = more + (1 - coin) * (_at_least(counts, trials, rate) - more)
    from_below, from_above = (ndtri(np.clip(side, 1e-300, 1.0)) for side in (lower, upper))
    return np.asarray(np.where(lower < 0.5, from_below, -from_above))


def _at_least(counts: Integers, trials: int, rate: float) -> Floats:
    """The chance of so many or more."""
    inside = betainc(np.maximum(counts, 1), np.maximum(trials - counts + 1, 1), rate)
    return np.asarray(np.where(counts <= 0, 1.0, np.where(counts > trials, 0.0, inside)))
