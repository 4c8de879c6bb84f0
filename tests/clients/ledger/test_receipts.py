"""What a site has signed about its ledger, held against the ledger: whatever was done to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clients.ledger import hash_chain
from clients.ledger.ledger import Budget, Ledger
from clients.ledger.receipts import check_grown, sign
from clients.ledger.state import Cost
from fedlearn.cli import main
from fedlearn.core.errors import DataError, PrivacyError
from fedlearn.crypto.identity import Identity
from fedlearn.privacy.events import GaussianEvent
from fedlearn.results import receipts
from fedlearn.results.receipts import Receipt

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROUND = GaussianEvent(noise_multiplier=4.0, sample_rate=0.1, steps=10)
SITE = Identity.new()
DATA, TERMS = "da" * 32, "7e" * 32
RUNS = ("01" * 16, "02" * 16, "03" * 16)

Output = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.jsonl"


def opened(path: Path, records: str = "ab" * 32) -> Ledger:
    budget = Budget(epsilon=20.0, delta=1e-5)
    return Ledger(path, site="cleveland", data="registry", budget=budget, now=NOW, records=records)


def run(path: Path, run_id: str, rounds: int = 2, *, into: Path | None = None) -> list[Receipt]:
    """A run with a receipt at its start and one at its end."""
    with opened(path) as ledger:
        first = signed(ledger, run_id)
        for number in range(1, rounds + 1):
            cost = Cost(event=ROUND, run_id=run_id, round_number=number, purpose="training")
            ledger.reserve(cost, now=NOW)
        last = signed(ledger, run_id)
    for receipt in (first, last):
        receipts.keep(into or path.parent.parent / "receipts", receipt)
    return [first, last]


def signed(ledger: Ledger, run_id: str, *, by: Identity = SITE) -> Receipt:
    return sign(ledger, by, data=DATA, run_id=run_id, terms=TERMS, now=NOW)


def verified(path: Path, *more: str, at: Path | None = None) -> int:
    return main(["ledger", "verify", str(path), "--receipts", str(at or path.parent.parent), *more])


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """What an owner can do who knows the format: entries changed, and all hashes mended."""
    entries = [dict(entry) for entry in hash_chain.read(path).entries]
    content, previous = b"", "0" * 64
    entries = change(entries)
    for entry in entries:
        line, previous = hash_chain._line(entry, previous)
        content += line
    path.write_bytes(content)
    head = hash_chain._canonical({"hash": previous, "lines": len(entries)})
    path.with_name("ledger.jsonl.head").write_bytes(head)


# --- an honest ledger -------------------------------------------------------------------


def test_verify__says_that_a_ledger_has_grown_from_all_its_receipts(
    path: Path, capsys: Output
) -> None:
    run(path, RUNS[0])
    run(path, RUNS[1])
    assert verified(path) == 0
    output = capsys.readouterr().out
    assert "has grown from 4 receipts of site cleveland" in output
    assert SITE.fingerprint in output
    assert verified(path.parent, at=path.parent.parent) == 0, "by its folder"
    (one, *_) = (path.parent.parent / "receipts").glob("*.json")
    assert verified(path, at=one) == 0


def test_receipt__is_the_same_while_its_run_has_spent_nothing_more(path: Path) -> None:
    first, last = run(path, RUNS[0])
    assert (first.number, last.number) == (1, 2)
    assert first.spent == ()
    assert last.spent == (replace(ROUND, steps=20),)
    before = path.read_bytes()
    with opened(path) as ledger:
        assert [signed(ledger, RUNS[0]) for _ in range(3)] == [last] * 3
    assert path.read_bytes() == before


@pytest.mark.parametrize("changes", [0, 1, 5])
def test_receipt__tells_nothing_of_lines_above_it(path: Path, changes: int) -> None:
    """Its number counts receipts alone, and its hash is of 256 bits that nobody else has."""
    run(path, RUNS[0])
    for number in range(changes):
        opened(path, records=f"{number:064x}").close()
    _, last = run(path, RUNS[1])
    assert last.number == 4
    salts = [e["salt"] for e in hash_chain.read(path).entries if e["kind"] == "receipt"]
    assert len({str(salt) for salt in salts}) == 4
    assert all(len(str(salt)) == 64 for salt in salts)
    shown = {field.name for field in fields(Receipt)}
    assert shown == {
        *("site", "data", "number", "head", "run_id", "terms", "spent"),
        *("key", "signature", "schema"),
    }


# --- a ledger that is another -----------------------------------------------------------


def _without_the_last_run(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry.get("run") != RUNS[1]]


def _cheaper(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for entry in entries:
        if entry["kind"] == "reserve":
            entry["event"]["noise_multiplier"] *= 2
    return entries


def _without_one_reservation(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [e for e in entries if (e["kind"], e.get("number")) != ("reserve", 4)]
    assert len(found) == len(entries) - 1
    return found


def _later(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**entry, "time": "2026-04-01T00:00:00+00:00"} for entry in entries]


REWRITTEN = {
    "a run is gone": (_without_the_last_run, "the ledger has 2"),
    "rounds cost less": (_cheaper, "were written anew"),
    "a reservation is gone": (_without_one_reservation, "were written anew"),
    "other times": (_later, "were written anew"),
    "all but the first lines are gone": (lambda entries: entries[:2], "the ledger has 0"),
}


@pytest.mark.parametrize("how", REWRITTEN)
def test_verify__finds_that_a_ledger_was_rewritten(path: Path, how: str, capsys: Output) -> None:
    run(path, RUNS[0])
    run(path, RUNS[1])
    change, reason = REWRITTEN[how]
    rewrite(path, change)
    assert main(["ledger", "verify", str(path)]) == 0, "it is intact by itself"
    assert verified(path) == 7
    complaint = capsys.readouterr().err
    assert reason in complaint
    assert "cleveland.4." in complaint
    assert SITE.fingerprint in complaint


def test_verify__finds_an_older_copy(path: Path, tmp_path: Path, capsys: Output) -> None:
    run(path, RUNS[0])
    shutil.copytree(path.parent, tmp_path / "backup")
    run(path, RUNS[1])
    copied = tmp_path / "backup" / "ledger.jsonl"
    assert verified(copied, at=tmp_path / "receipts") == 7
    assert "set back to an older copy" in capsys.readouterr().err
    for folder in (path.parent, tmp_path / "backup"):
        assert verified(folder, at=tmp_path / "receipts") == (0 if folder == path.parent else 7)


def test_two_ledgers_of_one_site__are_proven_by_their_receipts(
    path: Path, tmp_path: Path, capsys: Output
) -> None:
    """One for every coordinator: each run looks sound, and both receipts say the same number."""
    run(path, RUNS[0], into=tmp_path / "one" / "receipts")
    shutil.copytree(path.parent, tmp_path / "fork")
    run(path, RUNS[1], into=tmp_path / "one" / "receipts")
    forked = tmp_path / "fork" / "ledger.jsonl"
    run(forked, RUNS[2], into=tmp_path / "other" / "receipts")
    assert verified(path, at=tmp_path / "one") == 0
    assert verified(forked, at=tmp_path / "other") == 0
    both = ["--receipts", str(tmp_path / "one"), str(tmp_path / "other")]
    for ledger in (path, forked):
        assert main(["ledger", "verify", str(ledger), *both]) == 7
        assert "the signatures prove it" in capsys.readouterr().err


def test_site__that_signs_other_spending_than_it_has_booked_is_found(
    path: Path, tmp_path: Path, capsys: Output
) -> None:
    _, last = run(path, RUNS[0])
    less = replace(last, spent=(replace(ROUND, steps=1),)).signed(SITE)
    receipts.keep(tmp_path / "lies", less)
    assert verified(path, at=tmp_path / "lies") == 7
    assert "something else than it had booked" in capsys.readouterr().err


def test_receipts__of_other_sites_and_data_are_passed_over_in_a_folder(
    path: Path, tmp_path: Path, capsys: Output
) -> None:
    (first, _) = run(path, RUNS[0])
    stranger = replace(first, site="hungary").signed(SITE)
    other = replace(first, data="0b" * 32).signed(SITE)
    folder = tmp_path / "receipts"
    receipts.keep_last(folder, stranger)
    receipts.keep_last(folder, replace(other, head="0b" * 32).signed(SITE))
    assert verified(path) == 0
    assert "1 receipts are of other data" in capsys.readouterr().out
    assert verified(path, at=folder / "hungary.json") == 7, "asked for by name, it is no match"
    assert "is of site hungary" in capsys.readouterr().err
    assert verified(path, at=folder / "cleveland.json") == 5
    assert "none of 1 receipts" in capsys.readouterr().err


# --- a receipt that is none -------------------------------------------------------------


def test_receipt__under_another_key_accuses_nobody(
    path: Path, tmp_path: Path, capsys: Output
) -> None:
    _, last = run(path, RUNS[0])
    stranger = Identity.new()
    forged = replace(last, head="00" * 32, key=stranger.public.hex()).signed(stranger)
    receipts.keep(tmp_path / "receipts", forged)
    assert verified(path) == 5
    assert "signed by 2 keys" in capsys.readouterr().err


@pytest.mark.parametrize("name", [field.name for field in fields(Receipt)])
def test_receipt__of_which_one_field_was_changed_is_none(
    path: Path, tmp_path: Path, name: str, capsys: Output
) -> None:
    run(path, RUNS[0])
    file = next((tmp_path / "receipts").glob("*.2.*"))
    tree = json.loads(file.read_text())
    value = tree[name]
    match value:
        case str():
            tree[name] = ("1" if value[0] == "0" else "0") + value[1:]
        case int():
            tree[name] = value + 1
        case _:
            value[0]["steps"] += 1
    file.write_text(json.dumps(tree))
    assert verified(path) == 5
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema": "fedlearn/receipt/v1"}',
        b"1" * (1 << 19),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_receipt__that_cannot_be_read_is_named(
    path: Path, tmp_path: Path, content: bytes, capsys: Output
) -> None:
    run(path, RUNS[0])
    (tmp_path / "receipts" / "broken.json").write_bytes(content)
    assert verified(path) == 5
    assert "broken.json" in capsys.readouterr().err
    assert verified(path, at=tmp_path / "none") == 5
    (tmp_path / "empty").mkdir()
    assert verified(path, at=tmp_path / "empty") == 5


def test_receipt__numbers_and_hashes_are_what_they_are_called(path: Path) -> None:
    first, _ = run(path, RUNS[0])
    wrong: list[dict[str, Any]] = [
        {"number": 0},
        {"number": -1},
        {"head": "AB" * 32},
        {"head": "ab"},
        {"run_id": "x" * 32},
        {"site": "../../x"},
        {"site": "server"},
    ]
    for change in wrong:
        with pytest.raises(DataError):
            receipts.from_json(receipts.to_json(replace(first, **change).signed(SITE)))
    assert receipts.from_json(receipts.to_json(first)) == first


# --- at the site ------------------------------------------------------------------------


def test_site__does_not_go_on_from_a_ledger_that_has_lost_what_it_signed(
    path: Path, tmp_path: Path
) -> None:
    run(path, RUNS[0])
    shutil.copytree(path.parent, tmp_path / "backup")
    _, last = run(path, RUNS[1])
    known = receipts.to_json(last)
    with opened(path) as ledger:
        check_grown(ledger, known, key=SITE.public, data=DATA)
    with opened(tmp_path / "backup" / "ledger.jsonl") as ledger:
        with pytest.raises(PrivacyError, match=r"lacks the line of receipt 4"):
            check_grown(ledger, known, key=SITE.public, data=DATA)
        # What another has signed, or is of other data, says nothing of this ledger.
        check_grown(ledger, known, key=Identity.new().public, data=DATA)
        check_grown(ledger, known, key=SITE.public, data="0b" * 32)
        with pytest.raises(DataError, match="not signed"):
            check_grown(
                ledger,
                receipts.to_json(replace(last, number=9)),
                key=SITE.public,
                data=DATA,
            )
