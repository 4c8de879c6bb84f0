"""An owner's decisions: which may follow which, that none covers other terms, and that none is lost
or made up, whenever a process is killed."""

from __future__ import annotations

import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.ledger.hash_chain import ChainFile
from clients.studies import decisions
from clients.studies.decisions import CHOICES, Standing, Verb
from fedlearn.core.errors import ConfigError, DataError
from tests.effort import examples

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TERMS = ("a" * 64, "b" * 64)
ROSTERS = ("1" * 64, "2" * 64)
VERBS: tuple[Verb, ...] = ("approve", "refuse", "pause", "withdraw")


def decide(ledger: Path, verb: Verb, terms: str, roster: str, *, asks: bool = True) -> None:
    decisions.decide(ledger, "cleveland", verb, terms, roster, asks=asks, now=NOW)


def model(history: list[tuple[Verb, str]], roster: str, *, asks: bool) -> Standing:
    """How a study stands, said another way than by the code: looked for from the front."""
    verbs = [verb for verb, _ in history]
    if "refuse" in verbs:
        return "refused"
    if "withdraw" in verbs:
        return "withdrawn"
    if verbs[-1:] == ["pause"]:
        return "paused"
    if history[-1:] == [("approve", roster)]:
        return "approved"
    return "waiting" if asks else "allowed"


STEPS = st.lists(
    st.tuples(st.sampled_from(VERBS), st.sampled_from(TERMS), st.sampled_from(ROSTERS)),
    max_size=8,
)


@settings(max_examples=examples(60), deadline=None)
@given(steps=STEPS, asks=st.booleans())
def test_decisions__stand_as_the_history_of_these_terms_alone_says(
    steps: list[tuple[Verb, str, str]], *, asks: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.jsonl"
        made: dict[str, list[tuple[Verb, str]]] = {terms: [] for terms in TERMS}
        for verb, terms, roster in steps:
            allowed = verb in CHOICES[model(made[terms], roster, asks=asks)]
            try:
                decide(ledger, verb, terms, roster, asks=asks)
            except ConfigError:
                assert not allowed
            else:
                assert allowed
                made[terms].append((verb, roster))
            found = decisions.read(ledger)
            for one in TERMS:
                for listed in ROSTERS:
                    wanted = model(made[one], listed, asks=asks)
                    assert found.standing(one, listed, asks=asks) == wanted


def test_decisions__of_a_study_that_is_over_are_none() -> None:
    assert CHOICES["refused"] == CHOICES["withdrawn"] == ()
    assert all("approve" not in CHOICES[one] for one in ("allowed", "approved"))


def test_decision__is_nobodys_but_the_owners_to_read(tmp_path: Path) -> None:
    decide(tmp_path / "ledger.jsonl", "approve", TERMS[0], "")
    path = decisions.beside(tmp_path / "ledger.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name == "ledger.decisions.jsonl"


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_decision__that_a_crash_left_unfinished_was_not_made(tmp_path: Path, cut: int) -> None:
    ledger = tmp_path / "ledger.jsonl"
    decide(ledger, "approve", TERMS[0], "")
    path = decisions.beside(ledger)
    head = path.with_name(f"{path.name}.head")
    before = head.read_bytes()
    decide(ledger, "withdraw", TERMS[0], "")
    path.write_bytes(path.read_bytes()[:-cut])  # the line, of which the end is missing
    head.write_bytes(before)
    whole = cut == 1  # it lacks the end of the line alone
    standing = decisions.read(ledger).standing(TERMS[0], "", asks=True)
    assert standing == ("withdrawn" if whole else "approved")
    if not whole:
        decide(ledger, "pause", TERMS[0], "")
        assert decisions.read(ledger).standing(TERMS[0], "", asks=True) == "paused"


def test_decisions__that_were_changed_by_hand_are_refused(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    decide(ledger, "refuse", TERMS[0], "")
    path = decisions.beside(ledger)
    path.write_text(path.read_text().replace('"refuse"', '"approve"'))
    with pytest.raises(DataError, match="line 2"):
        decisions.read(ledger)
    path.unlink()
    with pytest.raises(DataError, match="the end was cut off"):
        decisions.read(ledger)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "allow", "terms": TERMS[0], "roster": "", "time": "t"},
        {"kind": "approve", "terms": "A" * 64, "roster": "", "time": "t"},
        {"kind": "approve", "terms": TERMS[0], "roster": 1, "time": "t"},
        {"kind": "approve", "terms": TERMS[0], "time": "t"},
        {"kind": "open", "schema": decisions.SCHEMA, "site": "x", "time": "t"},
        {},
    ],
)
def test_decisions__of_another_version_are_refused_by_line(
    tmp_path: Path, entry: dict[str, object]
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    decide(ledger, "approve", TERMS[0], "")
    file = ChainFile(decisions.beside(ledger))
    file.append(entry)
    file.close()
    with pytest.raises(DataError, match="line 3"):
        decisions.read(ledger)


def test_decisions__belong_to_one_site(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    decide(ledger, "approve", TERMS[0], "")
    with pytest.raises(DataError, match="belongs to site cleveland"):
        decisions.decide(ledger, "hungary", "pause", TERMS[0], "", asks=True, now=NOW)


def test_decisions__of_two_commands_at_once_are_both_made(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    names = [f"{number:064x}" for number in range(8)]
    threads = [threading.Thread(target=decide, args=(ledger, "approve", n, "")) for n in names]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.terms for one in decisions.read(ledger).made} == set(names)


def test_decision__says_when_it_was_made(tmp_path: Path) -> None:
    later = NOW + timedelta(days=1)
    ledger = tmp_path / "ledger.jsonl"
    made = decisions.decide(ledger, "cleveland", "approve", TERMS[0], "", asks=True, now=later)
    assert decisions.read(ledger).last(TERMS[0]) == made
    assert datetime.fromisoformat(made.time) == later
