"""Whatever bytes arrive, a parser gives a value or an error that it has declared: a fuzz of them.

For an hour instead of seconds, with the number of inputs of every parser:
FUZZ_SECONDS=3600 pytest -n 0 -rP -m slow tests/attacks/test_parsers.py
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from flwr.proto import fleet_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.ledger import hash_chain
from clients.ledger.ledger import Budget, Ledger, decline
from clients.ledger.report import verify
from clients.ledger.state import Cost, Declined
from fedlearn.core.errors import ConfigError, DataError, UnauthenticatedError
from fedlearn.crypto.introduction import read_certified
from fedlearn.crypto.keyring import load_unpinned
from fedlearn.crypto.roster import Roster
from fedlearn.crypto.sealed import Channel
from fedlearn.flower.envelope import SITE_GIVE, Envelope
from fedlearn.privacy import accounting
from fedlearn.privacy.events import GaussianEvent, to_json
from tests.attacks import readers, wires
from tests.attacks.apps import APPS
from tests.attacks.asked import ASKED
from tests.attacks.at_desk import AT_DESK
from tests.attacks.besides import BESIDES
from tests.attacks.fuzzing import Parser, damaged, fuzz
from tests.attacks.given import GIVEN
from tests.attacks.parsers import EVENTS, NOW, PARSERS, opened
from tests.attacks.records import RECORDS
from tests.attacks.wires import WIRES, Gate, a_request, chunked
from tests.effort import examples

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
ALL = [*PARSERS, *WIRES, *APPS, *ASKED, *RECORDS, *GIVEN, *BESIDES, *AT_DESK]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without logs: pytest keeps each line of them."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")  # of what libraries are given
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_parser__gives_a_value_or_a_declared_error(parser: Parser, tmp_path: Path) -> None:
    assert fuzz(parser, tmp_path, seconds=0, least=60) == 60


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.name)
@pytest.mark.filterwarnings("ignore")
def test_parser__neither_hangs_nor_keeps_memory(parser: Parser, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big") if SECONDS else 1
    count = fuzz(parser, tmp_path, seconds=SECONDS / len(ALL), least=40, seed=seed)
    print(f"{parser.name}: {count} inputs from seed {seed}")


VALUES = st.sampled_from(
    [None, True, -1, 0, 1e308, 5e-324, 10**30, 10**400, 2**53, 1e-200, "x", "", [], {}, "2026",
     "2026-01-01", -0.0, 2.5, "9999-12-31T23:59:59+00:00"]
)  # fmt: skip


@settings(max_examples=examples(240), deadline=None)
@given(event=st.sampled_from(EVENTS), key=st.integers(0, 30), value=VALUES, deep=st.booleans())
def test_ledger_entry__that_hashes_right_and_says_what_cannot_be_is_a_data_error(
    event: GaussianEvent,
    key: int,
    value: object,
    deep: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("ledger", numbered=True)
    opened = {"data": "d", "kind": "open", "schema": "fedlearn/ledger/v1", "site": "a",
              "time": NOW.isoformat()}  # fmt: skip
    entry: dict[str, object] = {
        "kind": "reserve", "number": 1, "event": to_json(event), "run": "r", "round": 1,
        "purpose": "p", "time": NOW.isoformat(),
    }  # fmt: skip
    inner: dict[str, object] = dict(to_json(event))
    if deep:
        inner[sorted(inner)[key % len(inner)]] = value
        entry["event"] = inner
    else:
        entry[sorted(entry)[key % len(entry)]] = value
    previous, text = "0" * 64, b""
    for one in (opened, entry, {**entry, "number": 2}):
        line, previous = hash_chain._line(one, previous)
        text += line
    (folder / "l.jsonl").write_bytes(text)
    (folder / "l.jsonl.head").write_text(json.dumps({"hash": previous, "lines": 3}))
    try:
        accounting.epsilon(verify(folder / "l.jsonl").spent, 1e-5)
    except DataError:
        return


# --- Nothing is left out -----------------------------------------------------------------


def test_library__that_is_imported_is_known_to_read_or_not_to() -> None:
    """Whoever brings one that reads: its uses are targets of the fuzz from then on."""
    assert readers.unknown() == set()
    assert readers.forbidden() == set()


def test_reader__without_a_fuzz_is_one_that_exists_and_has_one_reason() -> None:
    listed = [name for names in readers.UNFUZZED.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) - readers.readers().keys() == set()


def test_readers__are_found_by_what_they_call(tmp_path: Path) -> None:
    """Also those that are handed on, inside of others, or under another name."""
    source = """
import json as j
from zlib import decompress as unpacked

class A:
    def one(self, text: str) -> object:
        return [*map(j.loads, [text])]

    @staticmethod
    def two(data):
        def inner():
            return unpacked(data)
        return lambda: inner()

async def three(message: "json.loads") -> bytes:
    return j.dumps(message.FromString)

four = j.loads("{}")
five = lambda text: j.loads(text)
"""
    found = readers.found_in(source)
    assert found == {
        "A.one": {"json.loads"}, "A.two.<locals>.inner": {"zlib.decompress"},
        "three": {"message.FromString"}, "<lambda>": {"json.loads"},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_reader_of_bytes__is_reached_by_a_fuzz_or_is_on_the_list(tmp_path: Path) -> None:
    """Seen at work: of a reader that no target reaches, somebody has to say why."""
    wires._gate.cache_clear()  # its thread is watched from its start
    reached, coins = set[str](), np.random.default_rng(1)
    for number, parser in enumerate(ALL):
        folder = tmp_path / str(number)
        folder.mkdir()
        good = parser.good(folder)
        with readers.seen() as found:
            parser.read(good, folder)
            for _ in range(30):
                with suppress(*parser.declared):
                    parser.read(damaged(good, coins), folder)
        reached |= found
    left = readers.readers().keys() - reached - readers.unfuzzed()
    assert not left, f"a fuzz is missing: {sorted(left)}"


# --- One by one -----------------------------------------------------------------------


def test_channel__takes_no_number_after_which_its_state_cannot_be_kept() -> None:
    mine = Channel(bytes(32), bytes(16), bytes(16), b"p" * 16, True)
    peer = Channel(bytes(32), bytes(16), b"p" * 16, bytes(16), False)
    peer._sequence = 2**64 - 1
    with pytest.raises(UnauthenticatedError):
        mine.open(1, peer.seal(1, 0, b"last"))
    peer._sequence = 2**64 - 2
    mine.open(1, peer.seal(1, 0, b"last but one"))
    assert Channel.from_bytes(mine.to_bytes())


def test_roster__of_brackets_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "roster.json").write_text("[" * 200_000)
    for read in (load_unpinned, lambda path: Roster.load(path, "x"), read_certified):
        with pytest.raises(ConfigError):
            read(tmp_path / "roster.json")


def test_refusals__do_not_fill_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    long = "X" * 1_000_000 + "\x1b]0;owned\x07\x1b[2J"
    for _ in range(5):
        decline(path, Declined(run_id="r", purpose=long, reason=long), now=NOW)
    assert path.stat().st_size < 4_000, "five alike are one"
    for number in range(300):
        decline(path, Declined(run_id=f"r{number}", purpose=long, reason=long), now=NOW)
    assert path.stat().st_size < 200_000
    for data in (path.read_bytes(), json.dumps([d.reason for d in verify(path).declined]).encode()):
        assert b"\\u001b" not in data
    with Ledger(path, site="a", data="d", budget=Budget(epsilon=0.1, delta=1e-5), now=NOW) as mine:
        before = path.stat().st_size
        for number in range(200):
            cost = Cost(event=EVENTS[0], run_id="r", round_number=number, purpose=long)
            with pytest.raises(Exception, match="refused"):
                mine.require(cost, now=NOW)
        assert path.stat().st_size - before < 100_000


def test_request__of_the_fuzz_is_one_that_is_answered(tmp_path: Path) -> None:
    gate = Gate.afresh()
    for good in (a_request, chunked):
        assert gate.ask(good(tmp_path), patience=20) == [200]


def test_sealed_message__of_the_fuzz_is_one_that_opens() -> None:
    read = Channel.from_bytes(opened()[0]).open(1, opened()[1])
    assert bytes(read.data) == b"x" * 20_000


def test_relay__refuses_an_answer_that_is_neither_a_content_nor_an_error() -> None:
    wire = wires.Wire()
    envelope = Envelope.decode(wire.answer())
    head = fleet_pb2.PushMessagesRequest.FromString(envelope.head)
    head.messages_list[0].ClearField("content")
    body = Envelope(head.SerializeToString(), envelope.objects).encode()
    assert wire.post(SITE_GIVE, body) == 400
