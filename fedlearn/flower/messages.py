"""What coordinator and sites say to each other, as Flower's records, and how each reads the other.

First a run's config inside Flower's own run config, then what the coordinator asks, then what
sites answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedlearn.config import RunConfig, compose, decode, encode
from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.vector import Vector
from fedlearn.crypto.common import OpenedShare
from fedlearn.flower.private import with_content
from fedlearn.flower.records import (
    MODEL,
    arrays_in,
    arrays_of,
    config_in,
    config_record,
    integer,
    large_bytes,
    model_of,
    number,
    small_bytes,
    vectors_of,
)
from fedlearn.metrics.sums import MOST_RECORDS, SumLayout, Sums, SumSpec, Table
from fedlearn.privacy import Event
from fedlearn.rounds import (
    Description,
    EvaluateReply,
    Hello,
    Invitation,
    Openings,
    Refusal,
    RoundNote,
    TermsOffer,
    TrainReply,
    TrainRequest,
)

T = TypeVar("T")

HELLO = "query.hello"
JOIN = "query.join"
DESCRIBE = "query.describe"
AFFORD = "query.afford"
RECEIPT = "query.receipt"
OPEN = "query.open"
DRAW = "query.draw"
SCREEN = "query.screen"
COMPARE = "query.compare"
HELP = "query.help"
"""The one message type of a second server's: what it does in a sum."""
SECAGG = "query.secagg_"
"""Beginning of the message types of secure aggregation; the protocol's step follows."""

MESSAGE_KINDS = {
    "train": 1,
    "evaluate": 2,
    f"{SECAGG}advertise": 3,
    f"{SECAGG}share": 4,
    f"{SECAGG}agree": 5,
    f"{SECAGG}unmask": 6,
    AFFORD: 7,
    DESCRIBE: 8,
    RECEIPT: 9,
    HELP: 10,
    SCREEN: 11,
    COMPARE: 12,
    OPEN: 13,
    DRAW: 14,
}
"""The number of a message type inside a sealed message's header."""

KNOWN = frozenset({HELLO, JOIN, *MESSAGE_KINDS}) - {HELP}
"""All that a site answers."""

WEIGHT = "num-examples"
"""The key of a site's weight, as Flower's strategies name it."""


# --- The run ----------------------------------------------------------------------


def config_of(context: Context) -> RunConfig:
    """The run's config from Flower's run config: `config` (JSON), or else `overrides` (Hydra)."""
    values = context.run_config
    text, overrides = str(values.get("config", "")), str(values.get("overrides", ""))
    return _config_of(text, overrides, context.run_id)


@lru_cache(maxsize=8)
def _config_of(text: str, overrides: str, run_id: int) -> RunConfig:
    if text:
        return decode(RunConfig, text)
    config = compose(overrides.split())
    # Under `flwr run` every process has a working folder of Flower's choice.
    named = any(override.startswith("out=") for override in overrides.split())
    out = Path(config.out if named else f"fedlearn-runs/{config.experiment}-{run_id}")
    return replace(config, out=str(Path.home() / out))


def run_config_of(config: RunConfig) -> dict[str, bool | float | int | str]:
    """Flower's run config that carries `config`; `config_of` reads it back."""
    return {"config": encode(config), "overrides": ""}


# --- What the coordinator asks ----------------------------------------------------


def _checked(read: Callable[[Message], T]) -> Callable[[Message], T]:
    """What a coordinator has not made as agreed is its fault, whatever reading it leads to."""

    @wraps(read)
    def reader(message: Message) -> T:
        try:
            return read(message)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ConfigError):
            kind = message.metadata.message_type
            raise ProtocolError("server", kind, "the message cannot be read") from None

    return reader


def hello_request(offer: TermsOffer) -> RecordDict:
    """The content of a `hello` message."""
    return RecordDict({"offer": ConfigRecord({"json": encode(offer)})})


@_checked
def read_offer(message: Message) -> TermsOffer:
    """The inverse of `hello_request`; ProtocolError for what is none."""
    return decode(TermsOffer, str(message.content.config_records["offer"]["json"]))


def invitation(value: Invitation) -> RecordDict:
    """The content of a `join` message."""
    return RecordDict({"invitation": ConfigRecord({"json": encode(value)})})


@_checked
def read_invitation(message: Message) -> Invitation:
    """The inverse of `invitation`; ProtocolError for what is none."""
    return decode(Invitation, str(message.content.config_records["invitation"]["json"]))


def note_of(note: RoundNote) -> ConfigRecord:
    """What every message of a round says about it."""
    return ConfigRecord(
        {
            "terms": note.terms,
            "run-id": note.run_id,
            "server-round": note.round,
            "cohort": note.cohort,
            "clip-norm": note.clip_norm,
            "without": list(note.without),
            "largest": note.largest,
        }
    )


def round_messages(
    kind: Literal["train", "evaluate"],
    note: RoundNote,
    model: Vector,
    nodes: Sequence[int],
    besides: Mapping[str, Vector] | None = None,
    counted: Mapping[int, int] | None = None,
) -> list[Message]:
    """What a round asks of every node: to train on a model, or to test it.

    `besides` are vectors that go along with the model, `counted` tells a node the last round
    that its part was counted in. All messages share the vectors.
    """
    arrays, messages = arrays_of(model, besides or {}), []
    for node in nodes:
        config = note_of(note)
        if counted is not None:
            config["counted"] = counted.get(node, 0)
        content = RecordDict({"arrays": arrays, "config": config})
        messages.append(Message(content, dst_node_id=node, message_type=kind))
    return messages


def openings_request(openings: Openings) -> RecordDict:
    """The content of a `draw` message: the shares of common randomness of all sites."""
    return RecordDict({"openings": ConfigRecord({"json": encode(openings)})})


@_checked
def read_openings(message: Message) -> Openings:
    """The shares in a `draw` message; ProtocolError where there are none."""
    return decode(Openings, str(message.content.config_records["openings"]["json"]))


def advertise_request(request: bytes, without: Sequence[str]) -> RecordDict:
    """The content of the first message of a masked sum; who is left out of the run beside it."""
    content = small_bytes("secagg", request)
    content["left-out"] = ConfigRecord({"sites": list(without)})
    return content


def read_without(content: RecordDict) -> tuple[str, ...]:
    """Who is left out, by the first message of a masked sum."""
    record = config_record(content, "left-out")
    return () if record is None else _texts(record.get("sites"))


def afford_request(note: RoundNote) -> RecordDict:
    """The content of an `afford` message."""
    return RecordDict({"config": note_of(note)})


def screen_messages(note: RoundNote, nodes: Sequence[int]) -> list[Message]:
    """What asks every node where its records stand."""
    return [
        Message(RecordDict({"config": note_of(note)}), dst_node_id=node, message_type=SCREEN)
        for node in nodes
    ]


def compare_request(sums: NDArray[np.int64], sites: Sequence[str]) -> RecordDict:
    """The content of a `compare` message: what was opened, and whose records are in it."""
    opened = ConfigRecord({"sites": list(sites), "sums": sums.tolist()})
    return RecordDict({"opened": opened})


@_checked
def read_compare(message: Message) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The inverse of `compare_request`; ProtocolError for what is none."""
    opened = message.content.config_records["opened"]
    sums, sites = np.asarray(opened["sums"]), _texts(opened["sites"])
    if sums.dtype != np.int64 or sums.ndim != 1:
        raise ValueError("no whole numbers")
    return sums, sites


def receipt_content(text: str) -> RecordDict:
    """The content of a `receipt` message, the last one of the site that is known or none, and of
    its answer."""
    return RecordDict({"receipt": ConfigRecord({"json": text})})


def read_receipt(content: RecordDict) -> str:
    """The text of the receipt that a question or an answer holds; empty where there is none."""
    return str(content.config_records["receipt"]["json"])


@_checked
def read_known(message: Message) -> str:
    """The receipt in a question, empty where there is none; ProtocolError without either."""
    return read_receipt(message.content)


@_checked
def read_note(message: Message) -> RoundNote | None:
    """What a message says about its round; None if it belongs to none.

    Raises:
        ProtocolError: it says so in another form.
    """
    config = config_record(message.content, "config")
    if config is None:
        return None
    return RoundNote(
        terms=str(config["terms"]),
        run_id=str(config["run-id"]),
        round=integer(config["server-round"]),
        cohort=integer(config["cohort"]),
        clip_norm=number(config.get("clip-norm", 0.0)),
        without=_texts(config.get("without")),
        largest=integer(config.get("largest", 0)),
    )


@_checked
def read_train_request(message: Message) -> TrainRequest:
    """The request inside a train or evaluate message; ProtocolError for what is none."""
    note, config = read_note(message), config_in(message.content, "config")
    assert note is not None  # noqa: S101  (`config_in` has found it)
    vectors = vectors_of(arrays_in(message.content))
    return TrainRequest(
        note=note,
        model=vectors.pop(MODEL),
        besides=vectors,
        counted=integer(config.get("counted", 0)),
    )


def with_request(message: Message, request: bytes) -> Message:
    """A message of a round with a request of secure aggregation beside its records."""
    added = ConfigRecord({"bytes": request})
    return with_content(message, RecordDict({**message.content, "secagg": added}))


# --- What sites answer ------------------------------------------------------------


def hello_reply(hello: Hello) -> RecordDict:
    """A site's introduction."""
    return RecordDict({"hello": ConfigRecord({"json": encode(hello)})})


def read_hello(content: RecordDict) -> Hello:
    """The inverse of `hello_reply`."""
    return decode(Hello, str(content.config_records["hello"]["json"]))


def accepted_reply(accepted: bytes) -> RecordDict:
    """A site's answer to an invitation: its half of the set-up of a channel."""
    return small_bytes("accepted", accepted)


def opening_reply(opening: OpenedShare) -> RecordDict:
    """A site's share of common randomness."""
    return RecordDict({"opening": ConfigRecord({"json": encode(opening)})})


def read_opening(content: RecordDict) -> OpenedShare:
    """The inverse of `opening_reply`."""
    return decode(OpenedShare, str(content.config_records["opening"]["json"]))


def description_reply(description: Description) -> RecordDict:
    """What a site tells of its records."""
    return RecordDict({"description": ConfigRecord({"json": encode(description)})})


def read_description(content: RecordDict) -> Description:
    """The inverse of `description_reply`."""
    return decode(Description, str(content.config_records["description"]["json"]))


def refusal_reply(refusal: Refusal) -> RecordDict:
    """A site's no; it travels in place of the answer."""
    return RecordDict({"refusal": ConfigRecord({"json": encode(refusal)})})


def read_refusal(content: RecordDict) -> Refusal | None:
    """The refusal that a reply holds, if it is one."""
    record = config_record(content, "refusal")
    return None if record is None else decode(Refusal, str(record["json"]))


def train_reply(reply: TrainReply) -> RecordDict:
    """A site's model and weight, and what it has spent."""
    return RecordDict(
        {
            "arrays": arrays_of(reply.model),
            "metrics": MetricRecord({WEIGHT: reply.weight}),
            "site": ConfigRecord({"name": reply.site, "spent": encode(_Spent(events=reply.spent))}),
        }
    )


@dataclass(frozen=True)
class _Spent:
    events: tuple[Event, ...]


def check_train_reply(content: RecordDict, size: int) -> None:
    """Refuse a train reply that the mean or the accounts could not take.

    Raises:
        ValueError: the model has not `size` values; other errors where parts are missing.
    """
    # Before anything is unpacked: what an array says of itself decides what is allocated.
    if len(arrays_in(content)["model"].data) > 4 * size + 4096:
        raise ValueError("the model is larger than the one that was sent")
    if model_of(content).shape != (size,):
        raise ValueError(f"the model has not {size} values")
    if not 0 <= weight_of(content) <= MOST_RECORDS:
        raise ValueError("the weight is no number of records")
    read_spent(content)


def weight_of(content: RecordDict) -> float:
    """The weight of a train reply."""
    record = content["metrics"]
    if not isinstance(record, MetricRecord):
        raise TypeError("the metrics are of another type")
    return number(record[WEIGHT])


def read_spent(content: RecordDict) -> tuple[Event, ...]:
    """What the site of a train reply says it has spent in this run."""
    return decode(_Spent, str(config_in(content, "site")["spent"])).events


def evaluate_reply(reply: EvaluateReply) -> RecordDict:
    """A site's test sums: a list of numbers for each array, one number where it holds no more."""
    note = ConfigRecord(
        {"name": reply.site, "groups": list(reply.groups), "withheld": list(reply.withheld)}
    )
    content = RecordDict({"metrics": _sums_record(reply.sums), "site": note})
    for i, sums in enumerate(reply.groups.values()):
        content[f"group-{i}"] = _sums_record(sums)
    if reply.own is not None:
        content["own"] = _sums_record(reply.own)
    return content


def _sums_record(sums: Sums) -> MetricRecord:
    flat = {s.name: sums[s.name].reshape(s.shape and -1).tolist() for s in sums.layout}
    return MetricRecord({"count": sums.count, **flat})


def read_evaluate_reply(content: RecordDict, layout: SumLayout) -> EvaluateReply:
    """The inverse of `evaluate_reply`.

    Raises:
        ValueError: the sums are of another form than `layout`.
    """
    records, note = content.metric_records, content.config_records["site"]
    return EvaluateReply(
        site=str(note["name"]),
        sums=_read_sums(records["metrics"], layout),
        groups={
            name: _read_sums(records[f"group-{i}"], layout)
            for i, name in enumerate(_texts(note["groups"]))
        },
        withheld=_texts(note["withheld"]),
        own=_read_sums(records["own"], layout) if "own" in records else None,
    )


def _read_sums(record: MetricRecord, layout: SumLayout) -> Sums:
    arrays = {spec.name: _table(record[spec.name], spec) for spec in layout}
    return Sums(layout=layout, count=integer(record["count"]), arrays=arrays)


def _table(value: object, spec: SumSpec) -> Table:
    found = np.asarray(value)
    if found.size != spec.size:
        raise ValueError(f"test sums of another form: {spec.name}")
    if spec.unit is not None:
        return found.astype(np.float64).reshape(spec.shape)
    if found.size and found.dtype != np.int64:
        raise ValueError(f"test sums of another type: {spec.name}")
    return found.astype(np.int64).reshape(spec.shape)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def noised_reply(site: str, noised: NDArray[np.int64], spent: tuple[Event, ...]) -> RecordDict:
    """A site's test sums in whole numbers with noise, and what it has spent in this run."""
    note = ConfigRecord({"name": site, "spent": encode(_Spent(events=spent))})
    return RecordDict({"metrics": MetricRecord({"noised": noised.tolist()}), "site": note})


def read_noised_reply(content: RecordDict, length: int) -> NDArray[np.int64]:
    """The numbers of `noised_reply`.

    Raises:
        ValueError: they are not `length` whole numbers; other errors where parts are missing.
    """
    found = np.asarray(content.metric_records["metrics"]["noised"])
    if found.shape != (length,) or found.dtype != np.int64:
        raise ValueError("noisy test sums of another form")
    read_spent(content)
    return found


def summed_reply(site: str, data: bytes, spent: tuple[Event, ...]) -> RecordDict:
    """A site's contribution to a sum, and what it has spent in this run."""
    note = ConfigRecord({"name": site, "spent": encode(_Spent(events=spent))})
    return RecordDict({"contribution": large_bytes("contribution", data), "site": note})
