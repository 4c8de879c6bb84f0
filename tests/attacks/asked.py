"""Whole messages as parsers: to a deployed site, its answers at the coordinator, and files."""

from __future__ import annotations

import copy
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from flwr.app import Message, RecordDict
from flwr.proto import fleet_pb2
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import save

from clients import sitefile
from clients.form import FORM, held_form
from clients.owner import deployed_owner
from fedlearn.config import RunConfig, compose, decode, encode
from fedlearn.core.errors import ConfigError, DataError, FedlearnError, PrivacyError
from fedlearn.core.rng import Streams
from fedlearn.data.images.folders import read_image
from fedlearn.data.scenario import Reading
from fedlearn.flower import envelopes, private
from fedlearn.flower import messages as flower
from fedlearn.flower.envelope import Envelope
from fedlearn.flower.records import read_small_bytes
from fedlearn.prediction import read_array, values_of
from fedlearn.secagg.server import ServerSession
from fedlearn.tasks import CLASSIFICATION
from server.federation import Federation
from server.receipts import Receipts
from simulations.engines.local import FIRST_NODE
from tests.attacks.fuzzing import Parser
from tests.attacks.lab import SITES, STRICT, STUDY, Lab
from tests.attacks.parsers import FED, file_parser
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

    @classmethod
    def of(cls, folder: Path, *words: str) -> Recorded:
        """A run of one round, with no channel: what is fuzzed is what stands behind it."""
        lab = Lab.make(folder, "transport=plain", "rounds=1", *words, policy=CLEAR)
        found = cls(lab)
        lab.on_request, lab.on_reply = found._request, found._reply
        federation = lab.federate()
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
        kept = RecordDict({name: record.copy() for name, record in state.items()})
        self.before[kind] = kept, self._files()
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
        self.lab.contexts[FIRST_NODE].state = RecordDict({n: r.copy() for n, r in state.items()})
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


_RECORDED: dict[Path, Recorded] = {}


def _recorded(folder: Path) -> Recorded:
    root = folder.parent / "asked"
    if root not in _RECORDED:
        _RECORDED[root] = Recorded.of(root)
    return _RECORDED[root]


def _to_site(kind: str) -> Parser:
    return Parser(
        f"site {kind}", lambda folder: _recorded(folder).asked[kind],
        lambda data, folder: _recorded(folder).ask(kind, data), (ValueError,),
    )  # fmt: skip


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
    return envelopes.unpacked(
        found.messages_list[0], found.message_object_trees[0], envelope.by_id(), _pulled
    )


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


# --- files that an owner was given ----------------------------------------------------

_ROWS = "age,sex,ill\n" + "\n".join(
    f"{20 + i * 7 % 60},{'fm'[i % 2]},{i % 3 % 2}" for i in range(40)
)


def _parquet(_: Path) -> bytes:
    made = io.BytesIO()
    table = {
        "age": [20.0 + i * 7 % 60 for i in range(40)],
        "sex": ["f", "m"] * 20,
        "ill": [0, 1] * 20,
    }
    pq.write_table(pa.table(table), made)
    return made.getvalue()


def _arrays(**named: NDArray[Any]) -> bytes:
    made = io.BytesIO()
    np.savez(made, **named)
    return made.getvalue()


_IMAGES = {
    "train_images": np.zeros((4, 4, 4), np.uint8), "train_labels": np.array([[0], [1]] * 2),
    "test_images": np.zeros((2, 4, 4), np.uint8), "test_labels": np.array([[0], [1]]),
}  # fmt: skip


def _png(_: Path) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(made, "PNG")
    return made.getvalue()


def _records(name: str, good: Callable[[Path], bytes], *words: str) -> Parser:
    @cache
    def scenario() -> Any:
        return compose([*words, "scenario.path=x"]).scenario

    def read(path: Path) -> object:
        reading = Reading(streams=Streams(0), cache=path.parent, task=CLASSIFICATION)
        return replace(scenario(), path=str(path)).load(reading)

    return file_parser(f"records {name}", good, f"r.{name}", read, (DataError, ConfigError))


_CSV = ("scenario=csv", "scenario.label=ill")
_TEXT = ("scenario=text", "scenario.text=text", "scenario.label=label")
_LINES = "\n".join(
    json.dumps({"text": f"word {i} of text", "label": "ab"[i % 2]}) for i in range(20)
)


ASKED = [
    *map(_to_site, STEPS),
    _from_site("hello", flower.read_hello),
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
    _records("csv", lambda _: _ROWS.encode(), *_CSV),
    _records("csv.gz", lambda _: gzip.compress(_ROWS.encode()), *_CSV),
    _records("parquet", _parquet, *_CSV),
    _records("jsonl", lambda _: _LINES.encode(), *_TEXT),
    _records("npz", lambda _: _arrays(**_IMAGES), "scenario=medmnist", "scenario.name=''"),
    file_parser("image", _png, "a.png", lambda path: read_image(path, 8, "grey"), (DataError,)),
    file_parser(
        "features", lambda _: _arrays(features=np.zeros((3, 2), np.float32)), "f.npz",
        lambda path: read_array(path, (2,)), (DataError,),
    ),
    file_parser(
        "weights", lambda _: save({"a": np.zeros(3, np.float32)}, {"order": '["a"]'}),
        "m.safetensors", lambda path: values_of(path.read_bytes()),
        (SafetensorError, ValueError, KeyError, TypeError),
    ),
]  # fmt: skip
