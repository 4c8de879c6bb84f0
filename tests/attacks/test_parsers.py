"""Whatever bytes arrive, a parser gives a value or an error that it has declared: a fuzz of them.

For an hour instead of seconds: FUZZ_EXAMPLES=1000000 pytest tests/attacks/test_parsers.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients import sitefile
from clients.ledger import hash_chain
from clients.ledger.ledger import Budget, Ledger, decline
from clients.ledger.report import verify
from clients.ledger.state import Cost, Declined
from fedlearn.core.errors import ConfigError, DataError, ProtocolError, UnauthenticatedError
from fedlearn.crypto.certificates import own_certificate, read_certificate, site_credential
from fedlearn.crypto.handshake import Link, ServerOffer, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.introduction import introduce, read_certified
from fedlearn.crypto.keyring import load_pinned, load_unpinned, pin_roster
from fedlearn.crypto.roster import Participant, Roster
from fedlearn.crypto.sealed import Channel
from fedlearn.flower.envelope import Envelope
from fedlearn.flower.private import content_from_bytes, content_to_bytes
from fedlearn.privacy import accounting
from fedlearn.privacy.events import DiscreteSumEvent, GaussianEvent, to_json
from fedlearn.results import receipts
from fedlearn.results.receipts import Receipt
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.messages import Params
from fedlearn.secagg.two_server import Seeds, SignedSeed
from server import serverfile
from tests.fedlearn.secagg.federation import MODEL, federation, identity, run_until

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
NOW = datetime(2026, 11, 30, tzinfo=UTC)

TOKENS = [
    b"[", b"{", b'"', b"}", b"]", b"1e999", b"NaN", b"-1", b"null", b"9" * 30, b"\xc3\x28",
    b"\\ud800", b"true", b"[" * 5000, b"\n", b": ", b"- ", b"&a *a", b"!!python/object/apply:os",
    b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"-----BEGIN", b"\x1b[2J",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes that were right, with up to four faults in them."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 2, 8, 64]))
        data[at : at + length] = draw(st.sampled_from(TOKENS) | st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


@dataclass(frozen=True)
class Parser:
    """A reader of bytes, bytes that it likes, and the errors that it declares."""

    name: str
    good: Callable[[Path], bytes]
    read: Callable[[bytes, Path], object]
    declared: tuple[type[Exception], ...]


FED = federation(4)
ONE = FED.names[0]


@cache
def _state(step: str) -> tuple[bytes, bytes]:
    """A client's session before a step, and the right request of that step."""
    clients, server = FED.clients(), FED.server()
    request = run_until(FED, step, clients, server)[ONE]
    return clients[ONE].to_bytes(), request


def _session(step: str) -> Parser:
    def read(data: bytes, _: Path) -> object:
        client = ClientSession.from_bytes(_state(step)[0], identity(ONE), FED.policy(ONE))
        if step == "mask":
            return client.mask(data, FED.vector(ONE), MODEL)
        return getattr(client, step)(data)

    return Parser(f"session {step}", lambda _: _state(step)[1], read, (ProtocolError,))


@cache
def _sealed() -> tuple[Identity, ServerOffer, bytes, Channel, bytes]:
    server = Identity.new()
    offer = ServerOffer(server, bytes(16), bytes(32), "server")
    channel, accepted = accept_offer(identity(ONE), LINK, server.public, offer.message)
    return server, offer, accepted, channel, channel.to_bytes()


@cache
def _opened() -> tuple[bytes, bytes]:
    """The state of a client's channel, and what the server has sealed for it."""
    server = Identity.new()
    offer = ServerOffer(server, bytes(16), bytes(32), "server")
    channel, accepted = accept_offer(identity(ONE), LINK, server.public, offer.message)
    sealed = offer.finish(ONE, identity(ONE).public, accepted).seal(1, 0, b"x" * 20_000)
    return channel.to_bytes(), bytes(sealed)


LINK = Link(run_id=bytes(16), client=ONE, server="server", terms=bytes(32))


@cache
def _roster() -> Roster:
    people = [Participant(name=n, role="site", public=identity(n).public) for n in FED.names]
    return Roster.sign("heart", tuple(people), identity("authority"))


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def reader(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return reader


def _pinned(folder: Path) -> bytes:
    (folder / "roster.json").write_text(_roster().to_json())
    pin_roster(folder / "roster.json", identity("authority").fingerprint)
    return (folder / "roster.json").read_bytes()


def _ledger(folder: Path) -> bytes:
    path = folder / "ledger.jsonl"
    if not path.exists():
        budget, event = Budget(epsilon=100, delta=1e-5), _EVENTS[0]
        with Ledger(path, site="a", data="d", budget=budget, now=NOW) as ledger:
            for number in range(3):
                cost = Cost(event=event, run_id="r", round_number=number, purpose="p")
                ledger.reserve(cost, now=NOW)
        (folder / "good").write_bytes(path.read_bytes())
        (folder / "head").write_bytes((folder / "ledger.jsonl.head").read_bytes())
    return (folder / "good").read_bytes()


def _read_ledger(data: bytes, folder: Path) -> object:
    (folder / "ledger.jsonl.head").write_bytes((folder / "head").read_bytes())
    (folder / "ledger.jsonl").write_bytes(data)
    return accounting.epsilon(verify(folder / "ledger.jsonl").spent, 1e-5)


_EVENTS = (
    GaussianEvent(noise_multiplier=1.0, sample_rate=0.1, steps=3),
    DiscreteSumEvent(
        law="skellam", unit="client", l2_sensitivity=1.0, share_stddev=30, shares=3, dimension=9,
        rounding_failure=0.0, sample_rate=1.0, steps=2,
    ),
)  # fmt: skip
_RECEIPT = Receipt(
    site="alder", data="00" * 32, number=1, head="11" * 32, run_id="22" * 16, terms="33" * 32,
    spent=_EVENTS, key=identity("a").public.hex(),
).signed(identity("a"))  # fmt: skip
_CONTENT = RecordDict({"a": ConfigRecord({"b": 1, "c": [1.0, 2.0]}), "m": MetricRecord({"x": 1.0})})
SITE_TEXT = (
    b"name: a\ndata: {kind: csv, path: x, label: y}\nkeys: k\nroster: r\nledger: l\npolicy: {}\n"
)
SERVER_TEXT = b"listen: '0.0.0.0:1'\nkeys: k\nroster: r\nintroductions: i\ntls: t\n"
_PEM = site_credential("alder", NOW).certificate_pem()
_INTRODUCED = introduce(identity("a"), "alder", "site", _PEM.decode()).encode()
_SEEDS = Seeds(
    table={
        n: SignedSeed(vector_hash=bytes(32), sealed=bytes(80), signature=bytes(64)) for n in "ab"
    }
)

PARSERS = [
    *(_session(step) for step in ("advertise", "share", "mask", "agree", "unmask")),
    Parser(
        "session bytes", lambda _: _state("agree")[0],
        lambda data, _: ClientSession.from_bytes(data, identity(ONE), FED.policy(ONE)).to_bytes(),
        (ValueError,),
    ),
    Parser("params", lambda _: FED.params().encode(), lambda d, _: Params.decode(d), (ValueError,)),
    Parser(
        "seeds", lambda _: encode(_SEEDS, bytes(32)), lambda d, _: decode(Seeds, d, bytes(32)),
        (ValueError,),
    ),
    Parser(
        "offer", lambda _: _sealed()[1].message,
        lambda d, _: accept_offer(identity(ONE), LINK, _sealed()[0].public, d),
        (UnauthenticatedError,),
    ),
    Parser(
        "acceptance", lambda _: _sealed()[2],
        lambda d, _: _sealed()[1].finish(ONE, identity(ONE).public, d), (UnauthenticatedError,),
    ),
    Parser(
        "channel", lambda _: _sealed()[4], lambda d, _: Channel.from_bytes(d).to_bytes(),
        (ValueError,),
    ),
    Parser(
        "sealed message", lambda _: _opened()[1],
        lambda d, _: Channel.from_bytes(_opened()[0]).open(1, d, max_bytes=1 << 20),
        (UnauthenticatedError,),
    ),
    Parser(
        "envelope", lambda _: Envelope(b"head", (b"a" * 30, b"b")).encode(),
        lambda d, _: Envelope.decode(d).by_id(), (ValueError,),
    ),
    Parser(
        "records", lambda _: content_to_bytes(_CONTENT), lambda d, _: content_from_bytes(d),
        (ValueError,),
    ),
    Parser(
        "roster", lambda _: _roster().to_json().encode(),
        lambda d, _: Roster.from_json(d.decode("utf-8", "replace")), (ConfigError,),
    ),
    Parser("pinned roster", _pinned, _file("roster.json", load_pinned), (ConfigError,)),
    Parser("any roster", _pinned, _file("roster.json", load_unpinned), (ConfigError,)),
    Parser(
        "pin", lambda folder: (_pinned(folder), (folder / "roster.json.pin").read_bytes())[1],
        _file("roster.json.pin", lambda path: load_pinned(path.with_name("roster.json"))),
        (ConfigError,),
    ),
    Parser("introduction", lambda _: _INTRODUCED, _file("a.pub", read_certified), (ConfigError,)),
    Parser(
        "certificate", lambda _: _PEM,
        lambda d, _: own_certificate(d.decode("utf-8", "replace"), "it"), (ConfigError,),
    ),
    Parser("any certificate", lambda _: _PEM, lambda d, _: read_certificate(d, "it"),
           (ConfigError,)),
    Parser("site file", lambda _: SITE_TEXT, _file("s.yaml", sitefile.load), (ConfigError,)),
    Parser("server file", lambda _: SERVER_TEXT, _file("v.yaml", serverfile.load), (ConfigError,)),
    Parser("ledger", _ledger, _read_ledger, (DataError,)),
    Parser(
        "receipt", lambda _: receipts.to_json(_RECEIPT).encode(),
        lambda d, _: receipts.from_json(d.decode("utf-8", "replace")), (DataError,),
    ),
]  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_parser__gives_a_value_or_a_declared_error(parser: Parser, tmp_path: Path) -> None:
    good = parser.good(tmp_path)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,  # other things run on this machine
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(damaged(good))
    def check(data: bytes) -> None:
        try:
            parser.read(data, tmp_path)
        except parser.declared:
            return

    check()


VALUES = st.sampled_from(
    [None, True, -1, 0, 1e308, 5e-324, 10**30, 10**400, 2**53, 1e-200, "x", "", [], {}, "2026",
     "2026-01-01", -0.0, 2.5, "9999-12-31T23:59:59+00:00"]
)  # fmt: skip


@settings(max_examples=4 * EXAMPLES, deadline=None)
@given(event=st.sampled_from(_EVENTS), key=st.integers(0, 30), value=VALUES, deep=st.booleans())
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
            cost = Cost(event=_EVENTS[0], run_id="r", round_number=number, purpose=long)
            with pytest.raises(Exception, match="refused"):
                mine.require(cost, now=NOW)
        assert path.stat().st_size - before < 100_000


def test_sealed_message__of_the_fuzz_is_one_that_opens() -> None:
    opened = Channel.from_bytes(_opened()[0]).open(1, _opened()[1])
    assert bytes(opened.data) == b"x" * 20_000
