"""What was spent over time, from the lines of a ledger: a curve, and what is left."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from clients.ledger.hash_chain import Chain
from clients.ledger.ledger import Budget, load
from clients.ledger.state import MOST_REASON, Spending, plain
from fedlearn.privacy import accounting
from fedlearn.privacy.events import Event, from_json, merged

POINTS: Final = 24
"""Of a curve: to reckon an epsilon takes a while."""

_KEPT: Final = 200
"""The last refusals, receipts and decisions that a page shows."""


@dataclass(frozen=True, kw_only=True)
class SpentPoint:
    """What was spent up to a time (ISO, UTC), by all runs; `run` is that of the last entry."""

    time: str
    run: str
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class NotedRefusal:
    """Something that the policy or the ledger refused."""

    time: str
    purpose: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShownReceipt:
    """A line of the ledger that was signed for a coordinator to keep."""

    time: str
    number: int
    run: str
    terms: str


@dataclass(frozen=True, kw_only=True)
class Account:
    """A ledger for a page: `total` is infinite where nobody has set a limit."""

    total: float
    delta: float
    unit: str
    spent: float
    points: tuple[SpentPoint, ...] = ()
    refusals: tuple[NotedRefusal, ...] = ()
    receipts: tuple[ShownReceipt, ...] = ()

    @property
    def left(self) -> float:
        """What of the budget is not spent."""
        return max(0.0, self.total - self.spent)

    @property
    def share(self) -> float:
        """Which part of it is spent, at most 1; 0 where there is no limit."""
        return min(1.0, self.spent / self.total)


def account_of(path: Path, budget: Budget) -> Account:
    """What a ledger says; nothing is spent where there is none.

    Raises:
        DataError: it is not intact.
    """
    nothing = Account(total=budget.epsilon, delta=budget.delta, unit=budget.unit, spent=0.0)
    if not path.exists():
        return nothing
    chain, state = load(path)
    return Account(
        total=budget.epsilon,
        delta=budget.delta,
        unit=budget.unit,
        spent=_epsilon(state.spent, budget),
        points=tuple(_points(chain, budget)),
        refusals=tuple(_refusals(chain))[-_KEPT:][::-1],
        receipts=tuple(_receipts(chain, state))[-_KEPT:][::-1],
    )


def _points(chain: Chain, budget: Budget) -> Iterator[SpentPoint]:
    """The curve, at so many places that it can be drawn: the last of each stretch."""
    entries = [one for one in chain.entries if one["kind"] == "reserve"]
    stride = max(1, math.ceil(len(entries) / POINTS))
    spent: tuple[Event, ...] = ()
    for number, one in enumerate(entries, start=1):
        spent = merged((*spent, from_json(one["event"])))
        if number % stride == 0 or number == len(entries):
            yield SpentPoint(
                time=str(one["time"]), run=plain(str(one["run"])), epsilon=_epsilon(spent, budget)
            )


@lru_cache(maxsize=512)
def _epsilon(spent: tuple[Event, ...], budget: Budget) -> float:
    return accounting.epsilon(spent, budget.delta, unit=budget.unit) if spent else 0.0


def _refusals(chain: Chain) -> Iterator[NotedRefusal]:
    for one in chain.entries:
        if one["kind"] in ("refuse", "decline"):
            yield NotedRefusal(
                time=str(one["time"]),
                purpose=plain(str(one["purpose"])),
                reason=plain(str(one["reason"]), MOST_REASON),
            )


def _receipts(chain: Chain, state: Spending) -> Iterator[ShownReceipt]:
    for one in state.receipts:
        yield ShownReceipt(
            time=str(chain.entries[one.line - 1]["time"]),
            number=one.number,
            run=plain(one.run_id),
            terms=plain(one.terms, 64),
        )
