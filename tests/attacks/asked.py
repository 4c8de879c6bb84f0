"""Whole messages as parsers: to a deployed site, and its answers at the coordinator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.proto import fleet_pb2
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

from clients import sitefile
from clients.form import FORM, held_form
from clients.owner import deployed_owner
from fedlearn.config import RunConfig, compose, decode, encode
from fedlearn.core.errors import ConfigError, DataError, FedlearnError, PrivacyError
from fedlearn.flower import envelopes, private
from fedlearn.flower import messages as flower
from fedlearn.flower.envelope import Envelope
from fedlearn.flower.records import read_small_bytes
from fedlearn.secagg.server import ServerSession
from server import enrol
from server.federation import Federation
from server.receipts import Receipts
from server.screening import screen
from simulations.engines.local import FIRST_NODE
from tests.attacks.fuzzing import Parser
from tests.attacks.lab import SITES, STRICT, STUDY, Lab
from tests.attacks.parsers import FED
from tests.fedlearn.secagg.federation import answer

UNREADABLE = (
    *(KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError),
    FedlearnError,
)
"""What a coordinator's readers are expected to raise; the grid takes anything else as well."""

VICTIM = SITES[0]
CLEAR = STRICT.replace("sealed", "null")
STEPS = ("hello", "join", "describe", "afford", "receipt", "train", "evaluate",
         *(f"secagg_{step}" for step in ("advertise", "share", "agree", "unmask")))  # fmt: skip


@dataclass
class Recorded:
    """What a deployed site was asked in a run, and what it was before and answered."""

    lab: Lab
    asked: dict[str, bytes] = field(default_factory=dict)
    answered: dict[str, bytes] = field(default_factory=dict)
    before: dict[str, tuple[RecordDict, dict[Path, bytes]]] = field(default_factory=dict)
    receipts: Receipts = field(init=False)
    federation: Federation = field(init=False)

    @classmethod
    def of(
        cls, folder: Path, *words: str, policy: str = CLEAR, sites: tuple[str, ...] = SITES
    ) -> Recorded:
        """A run of one round, with no channel: what is fuzzed is what stands behind it."""
        words = ("transport=plain", "rounds=1", *words)
        return cls.during(Lab.make(folder, *words, policy=policy, sites=sites))

    @classmethod
    def during(cls, lab: Lab) -> Recorded:
        """What is asked and answered in the first round of a lab."""
        found = cls(lab)
        lab.on_request, lab.on_reply = found._request, found._reply
        found.federation = federation = lab.federate()
        screen(federation)  # where the run compares tables
        federation.run_round(1)
        lab.on_request = lab.on_reply = lambda kind, site, message: message
        found._ask_for_receipt(federation)
        assert not lab.refused
        return found

    def _ask_for_receipt(self, federation: Federation) -> None:
        """The receipt of the run so far, and what reads it at the coordinator."""
        self.receipts = Receipts(
            last=self.lab.world.root / "last",
            grid=federation.grid, publics=federation.enrolment.keys.publics,
            run_id=federation.run_id, terms=federation.config.terms.hex(),
        )  # fmt: skip
        first = self.lab.ask(flower.RECEIPT, VICTIM, flower.receipt_content(""))
        known = flower.receipt_content(flower.read_receipt(first))
        self._remember("receipt", known)
        self.answered["receipt"] = private.content_to_bytes(
            self.lab.ask(flower.RECEIPT, VICTIM, known)
        )

    def _request(self, kind: str, site: str, message: Message) -> Message:
        if site == VICTIM and kind not in self.asked:
            self._remember(kind, message.content)
        return message

    def _remember(self, kind: str, content: RecordDict) -> None:
        state = self.lab.contexts[FIRST_NODE].state
        self.before[kind] = copied(state), self._files()
        self.asked[kind] = private.content_to_bytes(content)

    def _reply(self, kind: str, site: str, message: Message) -> Message:
        if site == VICTIM:
            self.answered.setdefault(kind, private.content_to_bytes(message.content))
        return message

    def _files(self) -> dict[Path, bytes]:
        ledger = self.lab.world.ledger(VICTIM)
        return {path: path.read_bytes() for path in ledger.parent.glob("*") if path.is_file()}

    def ask(self, kind: str, data: bytes) -> RecordDict:
        """What the site, as it was then, answers to a message of that kind with these records."""
        content = private.content_from_bytes(data)
        state, files = self.before[kind]
        self.lab.contexts[FIRST_NODE].state = copied(state)
        for path in self._files().keys() - files.keys():
            path.unlink()
        for path, there in files.items():
            path.write_bytes(there)
        step = kind if kind in ("train", "evaluate") else f"query.{kind}"
        reply = self.lab.ask(step, VICTIM, content)
        refusal = flower.read_refusal(reply)
        if refusal is not None and "its app failed" in refusal.reason:
            raise AssertionError("a message that no reader was ready for")
        return reply


def copied(state: RecordDict) -> RecordDict:
    """The same records, which may be changed."""
    return RecordDict({name: record.copy() for name, record in state.items()})


_RECORDED: dict[Path, Recorded] = {}
Runs = Callable[[Path], Recorded]
"""Makes a run in a new folder, once for all parsers of a test."""


def recorded(folder: Path, runs: Runs) -> Recorded:
    """The run that all parsers beside `folder` share."""
    root = folder.parent / runs.__name__
    if root not in _RECORDED:
        _RECORDED[root] = runs(root)
    return _RECORDED[root]


def masked(root: Path) -> Recorded:
    """A run as owners ask for it."""
    return Recorded.of(root)


def _recorded(folder: Path) -> Recorded:
    return recorded(folder, masked)


def to_site(kind: str, runs: Runs = masked) -> Parser:
    """A message of that kind to a site, as it was when it was asked in a run."""
    name = f"site {kind}" if runs is masked else f"site {kind} of {runs.__name__}"
    return Parser(
        name, lambda folder: recorded(folder, runs).asked[kind],
        lambda data, folder: recorded(folder, runs).ask(kind, data), (ValueError,),
    )  # fmt: skip


def _admitted(content: RecordDict, folder: Path) -> str | None:
    """What the coordinator makes of who a site says it is."""
    return _recorded(folder).lab.admission().refusal(FIRST_NODE, enrol._hello(content))


def _from_site(kind: str, read: Callable[[RecordDict], object]) -> Parser:
    return Parser(
        f"answer {kind}", lambda folder: _recorded(folder).answered[kind],
        lambda data, _: read(private.content_from_bytes(data)), UNREADABLE,
    )  # fmt: skip


def _secagg_server(step: str) -> Parser:
    """The coordinator's session of a sum, and the answer of one client in a step."""

    def made(folder: Path) -> bytes:
        clients, server = FED.clients(), FED.server()
        while server.step != step:
            for name, request in server.requests().items():
                server.receive(name, answer(FED, server.step, clients[name], request, name))
            server.close_step()
        request = server.requests()[FED.names[0]]
        _SERVERS[step] = server, answer(FED, step, clients[FED.names[0]], request, FED.names[0])
        return _SERVERS[step][1]

    def read(data: bytes, _: Path) -> None:
        copy.deepcopy(_SERVERS[step][0]).receive(FED.names[0], data)

    return Parser(f"server {step}", made, read, (FedlearnError,))


_SERVERS: dict[str, tuple[ServerSession, bytes]] = {}


def _pulled(name: str) -> bytes:
    raise ObjectPullError(name, "not to be had")


def _delivered(folder: Path) -> bytes:
    message = private.set_message_id(
        Message(private.content_from_bytes(_recorded(folder).asked["train"]),
                dst_node_id=FIRST_NODE, message_type="train"), "m")  # fmt: skip
    with envelopes.packing() as packed:
        one = packed(message)
        head = fleet_pb2.PullMessagesResponse(
            messages_list=[one.head], message_object_trees=[one.tree]
        )
        objects = tuple(content.deflate() for content in one.objects.values())
    return Envelope(head.SerializeToString(), objects).encode()


def _unpacked(data: bytes, _: Path) -> object:
    envelope = Envelope.decode(data)
    found = envelopes.parsed(fleet_pb2.PullMessagesResponse, envelope.head)
    if len(found.messages_list) != 1 or len(found.message_object_trees) != 1:
        raise ValueError
    head, tree = found.messages_list[0], found.message_object_trees[0]
    try:
        return envelopes.unpacked(head, tree, envelope.by_id(), _pulled)
    except (ValueError, ObjectPullError):
        return envelopes.failed(head, "it cannot be read")


def _config_text(_: Path) -> bytes:
    return encode(compose([*STUDY, "out=x"])).encode()


def _composed(text: bytes) -> RunConfig:
    return decode(RunConfig, text.decode("utf-8", "replace"))


def _form(folder: Path) -> Path:
    return _recorded(folder).lab.world.ledger(VICTIM).with_suffix(FORM)


def _held(data: bytes, folder: Path) -> None:
    lab, path = _recorded(folder).lab, _form(folder)
    path.write_bytes(data)
    with held_form(deployed_owner(sitefile.load(lab.world.site_file(VICTIM))), lab.config):
        pass


ASKED = [
    *map(to_site, STEPS),
    Parser(
        "answer hello", lambda folder: _recorded(folder).answered["hello"],
        lambda data, folder: _admitted(private.content_from_bytes(data), folder), UNREADABLE,
    ),
    _from_site("join", lambda content: read_small_bytes(content, "accepted")),
    _from_site("describe", flower.read_description),
    Parser(
        "answer receipt", lambda folder: _recorded(folder).answered["receipt"],
        lambda data, folder: _recorded(folder).receipts._read(private.content_from_bytes(data)),
        UNREADABLE,
    ),
    _from_site("train", flower.read_spent),
    _from_site("evaluate", flower.read_spent),
    *map(_secagg_server, ("advertise", "share", "mask", "agree", "unmask")),
    Parser("delivered", _delivered, _unpacked, (ValueError, ObjectPullError)),
    Parser("config", _config_text, lambda data, _: _composed(data), (ConfigError,)),
    Parser("form", lambda folder: _form(folder).read_bytes(), _held, (PrivacyError, DataError)),
]  # fmt: skip
