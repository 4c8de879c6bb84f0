"""What the rounds of a run gave, as curves and a table: figures of its result, and no others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fedlearn.loopback.look import through
from fedlearn.results.result import ResultFile, RoundResult

EPSILON: Final = "epsilon, largest of a site"

KEPT: Final = 400
"""The last rounds that a page draws and lists."""


@dataclass(frozen=True, kw_only=True)
class RoundCurve:
    """A figure by round; `line` is its path in the box of `fedlearn.loopback.look`, from `low` to
    `high`, and `last` the last that there is."""

    name: str
    line: str
    low: float
    high: float
    last: float
    first_round: int
    last_round: int


def curves(result: ResultFile) -> list[RoundCurve]:
    """The loss, every test metric, and the largest epsilon of a site; what no round has is none."""
    rounds = result.rounds[-KEPT:]
    found = [_curve(name, rounds, values) for name, values in _figures(rounds)]
    return [one for one in found if one is not None]


def metrics(rounds: Sequence[RoundResult]) -> list[str]:
    """The names of the test metrics of rounds, in their order; the loss has a place of its own."""
    return [*dict.fromkeys(name for one in rounds for name in one.evaluate if name != "loss")]


def largest(one: RoundResult) -> float | None:
    """The epsilon of the site that has spent most; None where none is known or finite."""
    return max((spent for spent in one.epsilon.values() if spent is not None), default=None)


def _figures(rounds: Sequence[RoundResult]) -> Iterator[tuple[str, list[float | None]]]:
    yield "loss", [one.loss for one in rounds]
    for name in metrics(rounds):
        yield name, [one.evaluate.get(name) for one in rounds]
    yield EPSILON, [largest(one) for one in rounds]


def _curve(
    name: str, rounds: Sequence[RoundResult], values: list[float | None]
) -> RoundCurve | None:
    there = [one for one in values if one is not None and math.isfinite(one)]
    if not there:
        return None
    low, high = min(there), max(there)
    span, count = high - low, max(1, len(values) - 1)
    finite = [one if one is None or math.isfinite(one) else None for one in values]
    return RoundCurve(
        name=name,
        line=through(
            [i / count for i in range(len(values))],
            [None if one is None else (one - low) / span if span else 0.5 for one in finite],
        ),
        low=low,
        high=high,
        last=there[-1],
        first_round=rounds[0].round,
        last_round=rounds[-1].round,
    )
