"""Every reader of bytes that come from outside, with bytes that it likes (`fuzzing.Parser`).

What is read of keys, rosters, files and messages; `asked.py` has whole messages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from clients import sitefile
from clients.helper import helperfile
from clients.ledger.ledger import Budget, Ledger
from clients.ledger.receipts import key_of
from clients.ledger.report import verify
from clients.ledger.state import Cost
from clients.studies import asked, decisions
from fedlearn.core.errors import ConfigError, DataError, ProtocolError, UnauthenticatedError
from fedlearn.core.rng import Streams
from fedlearn.crypto.certificates import own_certificate, read_certificate, site_credential
from fedlearn.crypto.handshake import Link, ServerOffer, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.introduction import introduce, read_certified
from fedlearn.crypto.keyring import load_pinned, load_unpinned, pin_roster
from fedlearn.crypto.kit.archive import made as made_kit
from fedlearn.crypto.kit.archive import opened as opened_kit
from fedlearn.crypto.roster import Participant, Roster
from fedlearn.crypto.sealed import Channel
from fedlearn.data.scenario import Reading
from fedlearn.data.texts.huggingface import HuggingFace
from fedlearn.data.texts.tokens import Tokenizer
from fedlearn.flower.envelope import Envelope
from fedlearn.flower.private import content_from_bytes, content_to_bytes
from fedlearn.privacy import accounting
from fedlearn.privacy.events import DiscreteSumEvent, GaussianEvent
from fedlearn.results import receipts
from fedlearn.results.receipts import Receipt
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.framing import decode as decode_body
from fedlearn.secagg.framing import encode as encode_body
from fedlearn.secagg.messages import Params
from fedlearn.secagg.proofs.norm import NormBound
from fedlearn.secagg.proven_messages import ProvenContribution, SignedShare, Statements, Verdicts
from fedlearn.secagg.two_server import Seeds, SignedSeed
from server import serverfile
from server.superlink.gateway import Clocks
from tests.attacks.fuzzing import Parser
from tests.attacks.kinds import KINDS
from tests.fedlearn.secagg.federation import MODEL, federation, identity, run_until

NOW = datetime(2026, 11, 30, tzinfo=UTC)

FED = federation(4)
ONE = FED.names[0]


@cache
def _coordinator() -> Identity:
    return Identity.new()


def _trusted() -> str:
    return _coordinator().fingerprint


@cache
def _kit() -> bytes:
    """One whose manifest and texts are right, for a list of the coordinator's own."""
    return _kit_with(_PEM.decode())


def _kit_with(authority: str) -> bytes:
    identity = _coordinator()
    listed = (
        Participant(name="a", role="site", public=Identity.new().public),
        Participant(name="c", role="server", public=identity.public),
    )
    roster = Roster.sign("f", listed, identity)
    return made_kit("a", "h:1", "1", roster, authority, identity)


STUDY = (
    b'{"asked": "2026-03-01T12:00:00+00:00", "text": '
    b'"{\\"config\\":{\\"threads\\":1},\\"schema\\":\\"fedlearn/study/v1\\"}"}'
)


def _read_study(data: bytes, folder: Path) -> object:
    """A study whatever it is called, and then what its terms say."""
    try:
        text = json.loads(data)["text"]
        name = hashlib.sha256(text.encode()).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        name = "0" * 64
    (folder / f"{name}.json").write_bytes(data)
    study = asked.load(folder / f"{name}.json")
    (folder / f"{name}.json").unlink()
    with suppress(ConfigError):
        study.config()
    return study


def _decisions(folder: Path) -> bytes:
    ledger = folder / "ledger.jsonl"
    path = decisions.beside(ledger)
    if not path.exists():
        for verb in ("approve", "pause"):
            decisions.decide(ledger, "a", verb, "0" * 64, "", asks=True, now=NOW)  # type: ignore[arg-type]
        (folder / "decided").write_bytes(path.with_name(f"{path.name}.head").read_bytes())
    return path.read_bytes()


def _read_decisions(data: bytes, folder: Path) -> object:
    path = decisions.beside(folder / "ledger.jsonl")
    path.with_name(f"{path.name}.head").write_bytes((folder / "decided").read_bytes())
    path.write_bytes(data)
    return decisions.read(folder / "ledger.jsonl").standing("0" * 64, "", asks=True)


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


def _fresh(offer: ServerOffer) -> ServerOffer:
    """One that no acceptance was taken for."""
    offer._accepted.clear()
    return offer


@cache
def opened() -> tuple[bytes, bytes]:
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


def file_parser(
    name: str,
    good: Callable[[Path], bytes],
    called: str,
    read: Callable[[Path], object],
    declared: tuple[type[Exception], ...],
) -> Parser:
    """A reader of a file that is `called` so."""
    return Parser(name, good, _file(called, read), declared)


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
        budget, event = Budget(epsilon=100, delta=1e-5), EVENTS[0]
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


EVENTS = (
    GaussianEvent(noise_multiplier=1.0, sample_rate=0.1, steps=3),
    DiscreteSumEvent(
        law="skellam", unit="client", l2_sensitivity=1.0, share_stddev=30, shares=3, dimension=9,
        rounding_failure=0.0, sample_rate=1.0, steps=2,
    ),
)  # fmt: skip
_RECEIPT = Receipt(
    site="alder", data="00" * 32, number=1, head="11" * 32, run_id="22" * 16, terms="33" * 32,
    spent=EVENTS, key=identity("a").public.hex(),
).signed(identity("a"))  # fmt: skip
_CONTENT = RecordDict({"a": ConfigRecord({"b": 1, "c": [1.0, 2.0]}), "m": MetricRecord({"x": 1.0})})
SITE_TEXT = (
    b"name: a\ndata: {kind: csv, path: x, label: y}\nkeys: k\nroster: r\nledger: l\n"
    b"policy: {epsilon_total: 8}\n"
)
HELPER_TEXT = (
    b"name: notary\nkeys: k\nroster: r\nmin_cohort: 3\napproved: ['%s']\n"
    b"server: {address: 'fed.example.org:1', authority: ca.crt}\n" % (b"5b" * 32)
)
SERVER_TEXT = b"listen: '0.0.0.0:1'\nkeys: k\nroster: r\nintroductions: i\ntls: t\n"
_PEM = site_credential("alder", NOW).certificate_pem()
_INTRODUCED = introduce(identity("a"), "alder", "site", _PEM.decode()).encode()
_SEEDS = Seeds(
    table={
        n: SignedSeed(vector_hash=bytes(32), sealed=bytes(80), signature=bytes(64)) for n in "ab"
    }
)
_SHARE = SignedShare(
    weight=1, vector_hash=bytes(32), bits_hash=bytes(32), sealed=bytes(80), signature=bytes(64)
)
_BOUND = NormBound(bits=12, values=5, counters=0, norm=1000)
_PROVEN = {
    "proven contribution": ProvenContribution(
        share=_SHARE, blind=bytes(32), packed=memoryview(b"abc"), proof=memoryview(bytes(16))
    ),
    "statements": Statements(
        bound=_BOUND, points=bytes(32), table={n: (_SHARE, bytes(_BOUND.seen_bytes)) for n in "ab"}
    ),
    "verdicts": Verdicts(table={n: bytes(16) for n in "ab"}, packed=memoryview(b"abc")),
}


def _proven(name: str) -> Parser:
    body = _PROVEN[name]
    return Parser(
        name, lambda _: encode_body(body, bytes(32)),
        lambda data, _: decode_body(type(body), data, bytes(32)),
        (ValueError,),
    )  # fmt: skip


def _saved(folder: Path, name: str) -> bytes:
    """A file of a data set that was saved; the others are whole."""
    KINDS["saved"].write(folder, [("0", "some words"), ("1", "others"), ("0", "more")] * 3)
    return (folder / "saved" / name).read_bytes()


def _read_saved(data: bytes, folder: Path, name: str) -> object:
    _saved(folder, name)
    (folder / "saved" / name).write_bytes(data)
    tokens = Tokenizer(kind="hashing", buckets=10, max_length=4)
    config = HuggingFace(path=str(folder / "saved"), classes=("0", "1"), tokenizer=tokens)
    return config.load(Reading(streams=Streams(0), cache=folder, by_record=True))


def _saved_parser(name: str) -> Parser:
    return Parser(
        f"saved {name}", lambda folder: _saved(folder, name),
        lambda data, folder: _read_saved(data, folder, name), (DataError, ConfigError),
    )  # fmt: skip


PARSERS = [
    *map(_proven, _PROVEN),
    *(_session(step) for step in ("advertise", "share", "mask", "agree", "unmask")),
    Parser(
        "session bytes", lambda _: _state("agree")[0],
        lambda data, _: ClientSession.from_bytes(data, identity(ONE), FED.policy(ONE)).to_bytes(),
        (ValueError,),
    ),
    Parser("params", lambda _: FED.params().encode(), lambda d, _: Params.decode(d), (ValueError,)),
    Parser(
        "seeds", lambda _: encode_body(_SEEDS, bytes(32)),
        lambda d, _: decode_body(Seeds, d, bytes(32)),
        (ValueError,),
    ),
    Parser(
        "offer", lambda _: _sealed()[1].message,
        lambda d, _: accept_offer(identity(ONE), LINK, _sealed()[0].public, d),
        (UnauthenticatedError,),
    ),
    Parser(
        "acceptance", lambda _: _sealed()[2],
        lambda d, _: _fresh(_sealed()[1]).finish(ONE, identity(ONE).public, d),
        (UnauthenticatedError,),
    ),
    Parser(
        "channel", lambda _: _sealed()[4], lambda d, _: Channel.from_bytes(d).to_bytes(),
        (ValueError,),
    ),
    Parser(
        "sealed message", lambda _: opened()[1],
        lambda d, _: Channel.from_bytes(opened()[0]).open(1, d, max_bytes=1 << 20),
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
    Parser(
        "the time that a site signs", lambda _: NOW.isoformat().encode(),
        lambda d, _: Clocks(lambda site, ahead: None).look("a", {b"flwr-timestamp": d}, NOW), (),
    ),
    Parser(
        "kit", lambda _: _kit(), lambda d, _: opened_kit(d, _trusted(), "1"), (ConfigError,),
    ),
    Parser(
        "a kit's certificates", lambda _: _PEM,
        lambda d, _: _kit_with(d.decode("ascii", "replace")), (ConfigError,),
    ),
    Parser("site file", lambda _: SITE_TEXT, _file("s.yaml", sitefile.load), (ConfigError,)),
    Parser("second server's file", lambda _: HELPER_TEXT, _file("h.yaml", helperfile.load),
           (ConfigError,)),
    Parser("server file", lambda _: SERVER_TEXT, _file("v.yaml", serverfile.load), (ConfigError,)),
    *map(_saved_parser, ("data.arrow", "state.json", "dataset_info.json")),
    Parser("ledger", _ledger, _read_ledger, (DataError,)),
    Parser("decisions", _decisions, _read_decisions, (DataError,)),
    Parser("study that was asked for", lambda _: STUDY, _read_study, (DataError,)),
    Parser(
        "receipt", lambda _: receipts.to_json(_RECEIPT).encode(),
        lambda d, _: receipts.from_json(d.decode("utf-8", "replace")), (DataError,),
    ),
    Parser(
        "receipt's file", lambda _: receipts.to_json(_RECEIPT).encode(),
        _file("r.json", lambda path: key_of(receipts.read(path), None)), (DataError,),
    ),
]  # fmt: skip
