"""The meaning of a ledger's entries: which may follow which, and what is refused.

The chain proves that nobody changed an entry; these rules catch one that
should never have been written.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from clients.ledger.state import Spending, replay, utc
from fedlearn.core.errors import DataError

EVENT = {"kind": "gaussian", "noise_multiplier": 2.0, "sample_rate": 0.5, "steps": 3}
TIME = "2026-03-01T12:00:00+00:00"
OPEN = {"kind": "open", "schema": "fedlearn/ledger/v1", "site": "s", "data": "d", "time": TIME}
REQUEST = {"event": EVENT, "run": "r", "round": 1, "purpose": "training", "time": TIME}
RESERVE = {"kind": "reserve", "number": 1, **REQUEST}
COMMIT = {"kind": "commit", "number": 1, "time": TIME}
REFUSE = {"kind": "refuse", "reason": "spent", **REQUEST}
REPAIR = {"kind": "repair", "bytes": "00", "time": TIME}


def test_replay__adds_up_reservations_and_nothing_else() -> None:
    second = {**RESERVE, "number": 2}
    state = replay([OPEN, RESERVE, REFUSE, COMMIT, REPAIR, second], "ledger")
    assert [event.steps for event in state.spent] == [6]
    assert list(state.pending) == [2]
    assert (len(state.refusals), state.repairs, state.entries) == (1, 1, 6)


def test_replay__keeps_the_last_decision_and_spends_nothing_for_it() -> None:
    noted = [{"kind": "decision", "line": line, "time": TIME} for line in ("ab", "cd")]
    state = replay([OPEN, RESERVE, *noted], "ledger")
    assert state.decided == "cd"
    assert [event.steps for event in state.spent] == [3]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([RESERVE], "line 1: kind='reserve': the first entry"),
        ([OPEN, OPEN], "line 2: kind='open': the first entry"),
        ([{**OPEN, "schema": "fedlearn/ledger/v2"}], "this version reads"),
        ([OPEN, {**RESERVE, "number": 2}], "number=2: must be 1"),
        ([OPEN, RESERVE, RESERVE], "number=1: must be 2"),
        ([OPEN, COMMIT], "number=1: is not pending"),
        ([OPEN, RESERVE, COMMIT, COMMIT], "line 4: number=1: is not pending"),
        ([OPEN, {**COMMIT, "number": True}], "must be an integer"),
        ([OPEN, {**RESERVE, "refund": 1}], "unknown"),
        ([OPEN, {"kind": "refund", "number": 1, "time": TIME}], "'refund'"),
        ([OPEN, {**RESERVE, "event": {**EVENT, "steps": -3}}], "steps=-3"),
        ([OPEN, {**RESERVE, "event": {**EVENT, "kind": "os.system"}}], "event.kind"),
        ([OPEN, {**REPAIR, "time": "2026-03-01T11:59:59+00:00"}], "before that of the entry above"),
        ([OPEN, {**REPAIR, "time": "2026-03-01T12:00:00"}], "time zone"),
        ([OPEN, {**REPAIR, "time": "yesterday"}], "is not a time"),
        ([{**OPEN, "site": None}], "must be a text"),
    ],
)
def test_replay__refuses(entries: list[dict[str, object]], words: str) -> None:
    with pytest.raises(DataError, match="ledger, line") as caught:
        replay(entries, "ledger")
    assert words in str(caught.value)


def test_spending__is_not_changed_by_what_comes_after() -> None:
    before = Spending().after(OPEN)
    after = before.after(RESERVE)
    assert (before.spent, before.pending) == ((), {})
    assert len(after.spent) == len(after.pending) == 1


def test_utc__refuses_a_time_without_a_zone() -> None:
    assert utc(datetime(2026, 3, 1, 12, tzinfo=UTC)) == TIME
    with pytest.raises(ValueError, match="time zone"):
        utc(datetime(2026, 3, 1, 12))
