"""What the entries of a ledger mean: a fold over them, with no files and no clock.

Entries (all with `time`, UTC in ISO 8601, never falling):

| kind | says |
|---|---|
| open | `schema`, `site`, `data`: whose ledger this is; once, before all that concerns data |
| reserve | `number` (1, 2, ...), `event`, `run`, `round`, `purpose`, `terms`: spent from here on |
| commit | `number`: the reply of that reservation has left |
| evaluate | `run`, `round`, `evaluation`: test records are read, for sums of this kind |
| refuse | `event`, `run`, `round`, `purpose`, `terms`, `reason`: asked for and not spent |
| decline | `run`, `purpose`, `reason`: the policy refused a run; may come before `open` |
| repair | `bytes` (hex): a line that a crash had left unfinished was removed |
| records | `sha256`: what the data set holds from here on; its people stay those of before |
| receipt | `number` (1, 2, ...), `data`, `run`, `terms`, `salt`: this line's hash was signed |
| decision | `line`: the hash of the last line of the owner's decisions on studies |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, Final

from fedlearn.core.errors import DataError
from fedlearn.core.recent import Recent
from fedlearn.privacy.events import Event, from_json, merged

SCHEMA: Final = "fedlearn/ledger/v1"

MOST_TEXT: Final = 200
"""Characters of what a run says of itself."""
MOST_REASON: Final = 2000
MOST_A_DAY: Final = 50
"""Refusals that are written down."""

Entry = Mapping[str, object]

_KEYS: Final = {
    "open": {"kind", "time", "schema", "site", "data"},
    "reserve": {"kind", "time", "number", "event", "run", "round", "purpose"},
    "commit": {"kind", "time", "number"},
    "evaluate": {"kind", "time", "run", "round", "evaluation"},
    "refuse": {"kind", "time", "event", "run", "round", "purpose", "reason"},
    "decline": {"kind", "time", "run", "purpose", "reason"},
    "repair": {"kind", "time", "bytes"},
    "records": {"kind", "time", "sha256"},
    "receipt": {"kind", "time", "number", "data", "run", "terms", "salt"},
    "decision": {"kind", "time", "line"},
}
_LATER: Final = {"reserve": {"terms"}, "refuse": {"terms"}}
"""Keys that entries of before the terms of studies have not."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a round asks to spend, and for what."""

    event: Event
    run_id: str
    round_number: int
    purpose: str
    terms: str = ""
    """SHA-256 (hex) of the terms of the study; empty where none were agreed."""


@dataclass(frozen=True, kw_only=True)
class Declined:
    """A run that the owner's policy refused before any record was read."""

    run_id: str
    """Empty where the site was only asked who it is."""
    purpose: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reservation(Cost):
    """A cost that counts as spent, whether or not its release has been finished."""

    number: int


@dataclass(frozen=True, kw_only=True)
class BudgetRefusal(Cost):
    """A request that the budget did not allow; nothing was spent for it."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class NotedEvaluation:
    """Test sums that left the site, or were about to: which run's, of which round and kind."""

    run_id: str
    round_number: int
    evaluation: str


@dataclass(frozen=True, kw_only=True)
class NotedReceipt:
    """A line of the ledger whose hash the site has signed: for which run, and what that had spent.

    `line` is its number among all lines, from 1, `data` the site's commitment to the data.
    """

    number: int
    line: int
    data: str
    run_id: str
    terms: str
    spent: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True)
class Spending:
    """The state of a ledger after some of its entries.

    `data` names the data set, `records` is the SHA-256 of what it held when it was last read;
    `by_run` is what was spent by run id, in the order of their first entry; `pending` the
    reservations without a commit, by number: spent like all others. `repairs` counts the torn
    lines that crashes left; `last` is the time of the last entry, None before the first.
    """

    site: str = ""
    data: str = ""
    records: str = ""
    entries: int = 0
    reserved: int = 0
    spent: tuple[Event, ...] = ()
    by_run: Mapping[str, tuple[Event, ...]] = field(default_factory=dict)
    pending: Mapping[int, Reservation] = field(default_factory=dict)
    refusals: tuple[BudgetRefusal, ...] = ()
    declined: tuple[Declined, ...] = ()
    evaluations: tuple[NotedEvaluation, ...] = ()
    receipts: tuple[NotedReceipt, ...] = ()
    opened: bool = False
    refused_on: tuple[date, int] = (date.min, 0)
    """The day of the last refusal that was written down, and how many there were on it."""
    changes: int = 0
    """How often the records were found to be others than before."""
    repairs: int = 0
    decided: str = ""
    """The hash (hex) of the last line of the owner's decisions on studies that was noted."""
    last: datetime | None = None

    def may_note(self, refusal: tuple[str, ...], now: datetime) -> bool:
        """Whether a refusal is to be written down: not twice, and not without end.

        Whoever asks can make a site refuse as often as he likes; what is not written is
        refused all the same.
        """
        noted = {(r.reason, r.run_id, str(r.round_number), r.purpose) for r in self.refusals}
        if refusal in noted or refusal in {(d.reason, d.run_id, d.purpose) for d in self.declined}:
            return False
        day, count = self.refused_on
        return day != now.astimezone(UTC).date() or count < MOST_A_DAY

    def after(self, entry: Entry) -> Spending:
        """The state once `entry` is written; raises DataError if it may not come next."""
        kind = _text(entry, "kind")
        if set(entry) - _LATER.get(kind, set()) != _KEYS.get(kind, set()):
            raise DataError(f"an entry of kind {kind!r} with the keys {sorted(entry)} is unknown")
        if kind != "decline" and (kind == "open") == self.opened:
            raise DataError(f"kind={kind!r}: the first entry, and only that, is of kind 'open'")
        time = _time(_text(entry, "time"))
        if self.last is not None and time < self.last:
            raise DataError(f"time={time.isoformat()}: lies before that of the entry above")
        refused_on = self.refused_on
        if kind in ("refuse", "decline"):
            day, count = time.astimezone(UTC).date(), refused_on[1]
            refused_on = (day, count + 1 if day == refused_on[0] else 1)
        state = self._after(kind, entry)
        return replace(state, entries=self.entries + 1, last=time, refused_on=refused_on)

    def _after(self, kind: str, entry: Entry) -> Spending:
        match kind:
            case "open":
                return self._opened(entry)
            case "reserve":
                return self._reserved(entry)
            case "commit":
                return self._committed(entry)
            case "evaluate":
                return replace(self, evaluations=(*self.evaluations, _evaluation(entry)))
            case "refuse":
                refusal = BudgetRefusal(**_cost(entry), reason=_text(entry, "reason"))
                return replace(self, refusals=(*self.refusals, refusal))
            case "decline":
                run, purpose = _text(entry, "run"), _text(entry, "purpose")
                declined = Declined(run_id=run, purpose=purpose, reason=_text(entry, "reason"))
                return replace(self, declined=(*self.declined, declined))
            case "records":
                changes = self.changes + bool(self.records)
                return replace(self, records=_text(entry, "sha256"), changes=changes)
            case "receipt":
                return self._signed(entry)
            case "decision":
                return replace(self, decided=_text(entry, "line"))
            case "repair":
                return replace(self, repairs=self.repairs + 1)
            case _:
                raise DataError(f"an entry of kind {kind!r} is unknown")

    def _opened(self, entry: Entry) -> Spending:
        if entry["schema"] != SCHEMA:
            raise DataError(f"schema={entry['schema']!r}: this version reads {SCHEMA!r}")
        site, data = _text(entry, "site"), _text(entry, "data")
        return replace(self, site=site, data=data, opened=True)

    def _reserved(self, entry: Entry) -> Spending:
        number = _next(entry, self.reserved)
        reservation = Reservation(number=number, **_cost(entry))
        run, event = reservation.run_id, reservation.event
        try:
            spent = merged((*self.spent, event))
            of_run = merged((*self.by_run.get(run, ()), event))
        except ValueError as error:
            raise DataError(f"event: with those before it, {error}") from error
        return replace(
            self,
            reserved=reservation.number,
            spent=spent,
            by_run={**self.by_run, run: of_run},
            pending={**self.pending, reservation.number: reservation},
        )

    def _signed(self, entry: Entry) -> Spending:
        run = _text(entry, "run")
        receipt = NotedReceipt(
            number=_next(entry, len(self.receipts)),
            line=self.entries + 1,
            data=_text(entry, "data"),
            run_id=run,
            terms=_text(entry, "terms"),
            spent=self.by_run.get(run, ()),
        )
        return replace(self, receipts=(*self.receipts, receipt))

    def _committed(self, entry: Entry) -> Spending:
        number = _integer(entry, "number")
        if number not in self.pending:
            raise DataError(f"number={number}: is not pending, so it cannot be committed")
        return replace(self, pending={n: r for n, r in self.pending.items() if n != number})


known: Final = Recent[str, Spending](64)
"""States by the hash of the last line, which says what is in all the lines before."""


def replay(entries: Sequence[Entry], source: str, hashes: Sequence[str] = ()) -> Spending:
    """The state after all entries; raises DataError naming `source` and the number of the line.

    `hashes` are those of the lines of the entries, where a hash chain holds them: what came of
    lines that were replayed before is then known, and only the others are.
    """
    done = next((n for n in range(len(hashes), 0, -1) if hashes[n - 1] in known), 0)
    state = known[hashes[done - 1]] if done else Spending()
    for number, entry in enumerate(entries[done:], start=done + 1):
        try:
            state = state.after(entry)
        except DataError as error:
            raise DataError(f"{source}, line {number}: {error}") from error
    if hashes:
        known.keep(hashes[-1], state)
    return state


def plain(text: str, most: int = MOST_TEXT) -> str:
    """A text of anybody's as a ledger holds and shows it: one line, cut short, that cannot draw."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def utc(time: datetime) -> str:
    """A time as the ledger writes it; raises ValueError for a time without a zone."""
    if time.tzinfo is None:
        raise ValueError(f"time={time.isoformat()}: must say its time zone")
    return time.astimezone(UTC).isoformat()


def _cost(entry: Entry) -> dict[str, Any]:
    """The fields of a `Cost`, as `reserve` and `refuse` write them."""
    return {
        "event": from_json(entry["event"]),
        "run_id": _text(entry, "run"),
        "round_number": _integer(entry, "round"),
        "purpose": _text(entry, "purpose"),
        "terms": _text({"terms": "", **entry}, "terms"),
    }


def _evaluation(entry: Entry) -> NotedEvaluation:
    return NotedEvaluation(
        run_id=_text(entry, "run"),
        round_number=_integer(entry, "round"),
        evaluation=_text(entry, "evaluation"),
    )


def _next(entry: Entry, last: int) -> int:
    """The number of an entry of a kind that is counted."""
    number = _integer(entry, "number")
    if number != last + 1:
        raise DataError(f"number={number}: must be {last + 1}")
    return number


def _text(entry: Entry, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise DataError(f"{key}={value!r}: must be a text")
    return value


def _integer(entry: Entry, key: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{key}={value!r}: must be an integer")
    return value


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"time={text!r}: is not a time") from error
    if time.tzinfo is None:
        raise DataError(f"time={text!r}: must say its time zone")
    return time
