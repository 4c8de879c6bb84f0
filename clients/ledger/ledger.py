"""What was spent from one data set at one site, over all runs, for as long as the data lives.

A cost is reserved before the data is read and committed after the reply has
left. What was reserved counts as spent from that moment on, committed or not:
after a crash nobody can know how much had been released. There is no refund.

The ledger stores what was done (events), not what it amounts to: epsilon is
computed over all of it when asked. Time and names come from the caller.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self, get_args

from clients.ledger import hash_chain
from clients.ledger.state import (
    MOST_REASON,
    SCHEMA,
    Cost,
    Declined,
    NotedReceipt,
    Reservation,
    Spending,
    known,
    plain,
    replay,
    utc,
)
from fedlearn.core.errors import DataError, PrivacyError
from fedlearn.privacy import accounting
from fedlearn.privacy.events import Event, Unit, to_json, unit_of

_SHA256: Final = re.compile("[0-9a-f]{64}")

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""How far a clock may be set back between two entries, as time servers do."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent: `epsilon` (inf: no limit) at `delta`, for every `unit`."""

    epsilon: float
    delta: float
    unit: Unit = "record"

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon={self.epsilon}: must be > 0")
        if not accounting.SMALLEST_DELTA <= self.delta < 1:
            raise ValueError(f"delta={self.delta}: must be in [{accounting.SMALLEST_DELTA}, 1)")


class Ledger:
    """The ledger of one data set, open for spending by one process at a time.

    `data` names the data set: by its owner's word, or, where it lives no longer than a run, by
    the SHA-256 of its records. `records` is that of the records as they are now: a change is
    written down, and what was spent on them before stays spent. Creates the file if there is none.

    Guarantees:
    - what was reserved is on the disk before `reserve` returns;
    - a crash at any moment leaves a ledger that opens again and shows at least
      what was released;
    - the total never exceeds `budget`.

    Raises DataError if the file is not intact or belongs to other data,
    PrivacyError if another run has it open.
    """

    def __init__(
        self,
        path: Path,
        *,
        site: str,
        data: str,
        budget: Budget,
        now: datetime,
        records: str = "",
    ) -> None:
        self._path, self._budget = path, budget
        self._file = hash_chain.ChainFile(path)
        try:
            self._state = replay(self._file.entries, str(path), self._file.hashes)
            self._start(site, data, now)
            self._note_change(records, now)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reserve(self, cost: Cost, *, now: datetime, of_run: Budget | None = None) -> Reservation:
        """Spend `cost`; call it before the data is read.

        `terms` names those of the study, `of_run` is what the run as a whole has
        promised not to exceed.

        Raises PrivacyError, after writing the refusal down, if one of the budgets
        does not allow it; also if `now` lies before the last entry.
        """
        self.require(cost, now=now, of_run=of_run)
        number, stamp = self._state.reserved + 1, self._stamp(now)
        self._append({"kind": "reserve", "number": number, "time": stamp, **_entry(cost)})
        return self._state.pending[number]

    def require(self, cost: Cost, *, now: datetime, of_run: Budget | None = None) -> None:
        """Ask whether `cost` could be paid, and spend nothing; raises as `reserve`."""
        reason = _too_much("this data", self._budget, self.spent(), (cost.event,))
        if reason is None and of_run is not None:
            reason = _too_much("this run", of_run, self.spent_by(cost.run_id), (cost.event,))
        self._refuse(cost, reason, now)

    def require_all(
        self,
        cost: Cost,
        events: tuple[Event, ...],
        *,
        now: datetime,
        of_run: Budget | None = None,
    ) -> None:
        """The same for all of `events` together, of which `cost` is the next; raises as `reserve`.

        Of a refusal the ledger notes `cost` and the reason, which counts all events.
        """
        reason = _too_much("this data", self._budget, self.spent(), events)
        if reason is None and of_run is not None:
            reason = _too_much("this run", of_run, self.spent_by(cost.run_id), events)
        self._refuse(cost, reason, now)

    def _refuse(self, cost: Cost, reason: str | None, now: datetime) -> None:
        """Write down a reason not to pay, and raise it, if there is one."""
        stamp = self._stamp(now)
        if reason is None:
            return
        noted = (reason, cost.run_id, str(cost.round_number), plain(cost.purpose))
        if self._state.may_note(noted, now):
            self._append({"kind": "refuse", "reason": reason, "time": stamp, **_entry(cost)})
        raise PrivacyError(
            f"site {self._state.site}: refused {cost.purpose} "
            f"(run {cost.run_id}, round {cost.round_number}): {reason}"
        )

    def commit(self, reservation: Reservation, *, now: datetime) -> None:
        """Note that what was reserved has been released; call it after the reply has left."""
        if self._state.pending.get(reservation.number) != reservation:
            raise RuntimeError(f"reservation {reservation.number} is not pending in this ledger")
        stamp = self._stamp(now)
        self._append({"kind": "commit", "number": reservation.number, "time": stamp})

    def commit_all(self, run_id: str, *, now: datetime) -> None:
        """`commit` what one run has reserved: it goes on, so its replies have left."""
        for reservation in [*self._state.pending.values()]:
            if reservation.run_id == run_id:
                self.commit(reservation, now=now)

    def note_evaluation(self, run_id: str, number: int, kind: str, *, now: datetime) -> None:
        """Write down that test records are read for a run; call it before they are."""
        entry = {"evaluation": kind, "kind": "evaluate", "round": number, "run": run_id}
        self._append({**entry, "time": self._stamp(now)})

    def evaluated(self, run_id: str) -> int:
        """The last round that was evaluated for a run; zero before there was one."""
        found = (e.round_number for e in self._state.evaluations if e.run_id == run_id)
        return max(found, default=0)

    def receipt(
        self, run_id: str, terms: str, data: str, *, now: datetime
    ) -> tuple[NotedReceipt, str]:
        """A line for a run to sign, and its hash (hex); `data` is the site's commitment to it.

        The same one again while the run has reserved nothing more: nobody makes a ledger grow by
        asking. Its salt hides from whoever sees the hash what the lines above it say.
        """
        asked, spent = (run_id, terms, data), self.spent_by(run_id)
        found = [r for r in self._state.receipts if (r.run_id, r.terms, r.data) == asked]
        if not found or found[-1].spent != spent:
            line = {"data": data, "run": run_id, "terms": terms, "salt": secrets.token_hex(32)}
            number = len(self._state.receipts) + 1
            self._append({"kind": "receipt", "number": number, "time": self._stamp(now), **line})
            found = [self._state.receipts[-1]]
        return found[-1], self._file.hashes[found[-1].line - 1]

    def holds(self, head: str) -> bool:
        """Whether a line has this hash (hex): the ledger has grown from there."""
        return head in self._file.hashes

    @property
    def site(self) -> str:
        """Whose it is."""
        return self._state.site

    def spent(self) -> tuple[Event, ...]:
        """Everything spent so far, equal mechanisms put together."""
        return self._state.spent

    def share(self) -> float:
        """Which part of the budget is spent; 0 where there is no limit."""
        budget = self._budget
        if math.isinf(budget.epsilon):
            return 0.0
        return accounting.epsilon(self.spent(), budget.delta, unit=budget.unit) / budget.epsilon

    def spent_by(self, run_id: str) -> tuple[Event, ...]:
        """What one run has spent so far."""
        return self._state.by_run.get(run_id, ())

    def close(self) -> None:
        """Let others open the ledger."""
        self._file.close()

    def _start(self, site: str, data: str, now: datetime) -> None:
        state = self._state
        if not state.opened:
            self._append(
                {"data": data, "kind": "open", "schema": SCHEMA, "site": site, "time": utc(now)}
            )
        elif state.site != site or not _same(state.data, data):
            raise DataError(
                f"{self._path}: belongs to data {state.data} of site {state.site}, not to data "
                f"{data} of site {site}. Every data set has its own ledger"
            )
        if self._file.torn:
            self._append(
                {"bytes": self._file.torn.hex(), "kind": "repair", "time": self._stamp(now)}
            )

    def _note_change(self, records: str, now: datetime) -> None:
        if records not in ("", self._state.records):
            self._append({"kind": "records", "sha256": records, "time": self._stamp(now)})

    def _stamp(self, now: datetime) -> str:
        """The time of the next entry, never before that of the last."""
        stamp, last = utc(now), self._state.last
        if last is None or now >= last:
            return stamp
        if last - now > CLOCK_TOLERANCE:
            raise PrivacyError(
                f"{self._path}: the clock says {stamp}, but the last entry is of {utc(last)}. "
                "Set the clock right, then start again"
            )
        return utc(last)

    def _append(self, entry: hash_chain.Entry) -> None:
        # Checked first: what could not be read back must never be written.
        after = self._state.after(entry)
        self._file.append(entry)
        self._state = after
        known.keep(self._file.hashes[-1], after)


def load(path: Path) -> tuple[hash_chain.Chain, Spending]:
    """What a ledger holds and what that means, changing and locking nothing.

    Raises DataError, with file and line, if it is missing, cannot be read, or is not intact.
    """
    try:
        chain = hash_chain.read(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not chain.entries:
        raise DataError(f"{path}: there is no ledger here")
    return chain, replay(chain.entries, str(path), chain.hashes)


def decline(path: Path, declined: Declined, *, now: datetime) -> None:
    """Note that the owner's policy refused a run; needs no records, and no ledger yet.

    What the run says of itself is cut short, and neither noted twice nor without end.

    Raises DataError and PrivacyError as `Ledger`.
    """
    with closing(hash_chain.ChainFile(path)) as file:
        state = replay(file.entries, str(path), file.hashes)
        if file.torn or (state.last is not None and now < state.last):
            # The next run that spends mends the file, or refuses a clock set back.
            return
        entry = {
            "kind": "decline",
            "purpose": plain(declined.purpose),
            "reason": plain(declined.reason, MOST_REASON),
            "run": plain(declined.run_id),
            "time": utc(now),
        }
        if not state.may_note((entry["reason"], entry["run"], entry["purpose"]), now):
            return
        state.after(entry)
        file.append(entry)


def _same(before: str, data: str) -> bool:
    """Whether a ledger of `before` is that of `data`.

    One from the time when ledgers were told apart by their records is that of the data set which
    its owner keeps it for: to refuse it would lead to a fresh one for the same people.
    """
    return before == data or bool(_SHA256.fullmatch(before) and not _SHA256.fullmatch(data))


def _entry(cost: Cost) -> dict[str, object]:
    return {
        "event": to_json(cost.event),
        "purpose": plain(cost.purpose),
        "round": cost.round_number,
        "run": cost.run_id,
        **({"terms": cost.terms} if cost.terms else {}),
    }


_WAYS: Final[Mapping[str, str]] = {
    "person": "Set scenario.person to the column that says whose records are, in every run",
    "client": "Choose privacy=client in every run, or set policy.unit to what runs promise",
}
"""How all runs come to promise what a budget is for."""


def _smaller_units(unit: Unit, events: Sequence[Event]) -> list[Unit]:
    """The units of events that promise nothing to that of a budget."""
    sizes = get_args(Unit)
    found = {unit_of(event) for event in events}
    return [one for one in sizes[: sizes.index(unit)] if one in found]


def _too_much(
    whose: str, budget: Budget, spent: tuple[Event, ...], events: tuple[Event, ...]
) -> str | None:
    """Why `events` cannot be paid from a budget of which `spent` is gone; None if they can."""
    if budget.epsilon == math.inf:
        return None
    after = accounting.epsilon((*spent, *events), budget.delta, unit=budget.unit)
    if after <= budget.epsilon:
        return None
    before = accounting.epsilon(spent, budget.delta, unit=budget.unit)
    left = max(budget.epsilon - before, 0.0)
    if math.isinf(after) and (smaller := _smaller_units(budget.unit, (*spent, *events))):
        return (
            f"the budget of {whose} is for every {budget.unit}, and what is spent and asked for "
            f"holds releases for every {' or '.join(smaller)} alone, which promise a {budget.unit} "
            f"nothing: its epsilon is infinite. {_WAYS[budget.unit]}"
        )
    return (
        f"it would bring the total to epsilon {after:.4g}; the budget of {whose} is "
        f"{budget.epsilon:g} at delta {budget.delta:g}, {before:.4g} is spent and {left:.4g} is "
        "left"
    )
