"""What coordinator and sites say to each other, as Flower's records: with its public API alone.

Every function here has an inverse, or checks what came from the other side. What
Flower keeps to itself, and we need all the same, is in `fedlearn.flower_private`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedlearn.config import RunConfig, compose, decode, encode
from fedlearn.flower_private import with_content
from fedlearn.metrics import EvaluationSums
from fedlearn.privacy import Event
from fedlearn.rounds import (
    EvaluateReply,
    Hello,
    Invitation,
    Refusal,
    RoundNote,
    TrainReply,
    TrainRequest,
)
from fedlearn.vector import Vector

WEIGHT = "num-examples"
"""The key by which Flower's strategies weigh replies."""

HELLO = "query.hello"
JOIN = "query.join"
AFFORD = "query.afford"
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
}
"""The number of a message type inside a sealed message's header."""


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


# --- records ------------------------------------------------------------------


def arrays_of(vector: Vector) -> ArrayRecord:
    """A model vector as an ArrayRecord with the one array `model`."""
    return ArrayRecord({"model": Array(np.ascontiguousarray(vector, np.float32))})


def vector_of(arrays: ArrayRecord) -> Vector:
    """The model vector, `float32[d]`, of an ArrayRecord made by `arrays_of`."""
    array = arrays["model"]
    head = _head(array.shape[0]) if len(array.shape) == 1 else b""
    if head and array.data.startswith(head) and len(array.data) == len(head) + 4 * array.shape[0]:
        return np.frombuffer(array.data, "<f4", offset=len(head)).astype(np.float32)
    return np.asarray(array.numpy(), np.float32)


@lru_cache(maxsize=8)
def _head(size: int) -> bytes:
    """What stands before the values of a vector in NumPy's format (NEP 1).

    NumPy's own reader parses it as Python, which for a small model takes longer than training.
    """
    made = io.BytesIO()
    says = {"descr": "<f4", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(made, says)
    return made.getvalue()


def read_train_request(message: Message) -> TrainRequest:
    """The request inside a strategy's train or evaluate message."""
    config = _config(message.content, "config")
    return TrainRequest(
        run_id=read_run_id(message),
        round=_integer(config["server-round"]),
        model=model_of(message.content),
        proximal_mu=_number(config.get("proximal-mu", 0.0)),
        clip_norm=_number(config.get("clip-norm", 0.0)),
    )


def read_run_id(message: Message) -> str:
    """The id of the run that a strategy's message belongs to."""
    return str(_config(message.content, "config")["run-id"])


def note_of(note: RoundNote) -> ConfigRecord:
    """What a strategy passes on with every message of a round; it adds the round's number."""
    return ConfigRecord({"run-id": note.run_id, "cohort": note.cohort, "clip-norm": note.clip_norm})


def afford_request(note: RoundNote) -> RecordDict:
    """The content of an `afford` message."""
    record = note_of(note)
    record["server-round"] = note.round
    return RecordDict({"config": record})


def read_note(message: Message) -> RoundNote | None:
    """What a message says about its round; None if it belongs to none, or does not say."""
    config = config_record(message.content, "config")
    if config is None or "cohort" not in config:
        return None
    return RoundNote(
        run_id=read_run_id(message),
        round=_integer(config["server-round"]),
        cohort=_integer(config["cohort"]),
        clip_norm=_number(config.get("clip-norm", 0.0)),
    )


def train_reply(reply: TrainReply) -> RecordDict:
    """A train reply in the shape that Flower's strategies average."""
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
    """Refuse a train reply that the strategy or the accounts could not take.

    Raises:
        ValueError: the model has not `size` values; other errors where parts are missing.
    """
    # Before anything is unpacked: what an array says of itself decides what is allocated.
    if len(_arrays(content)["model"].data) > 4 * size + 4096:
        raise ValueError("the model is larger than the one that was sent")
    if model_of(content).shape != (size,):
        raise ValueError(f"the model has not {size} values")
    if not weight_of(content) >= 0:
        raise ValueError("the weight is not a number above zero")
    read_spent(content)


def model_of(content: RecordDict) -> Vector:
    """The model in a train or evaluate message, or in a train reply."""
    return vector_of(_arrays(content))


def weight_of(content: RecordDict) -> float:
    """The weight of a train reply."""
    record = content["metrics"]
    if not isinstance(record, MetricRecord):
        raise TypeError("the metrics are of another type")
    return _number(record[WEIGHT])


def read_spent(content: RecordDict) -> tuple[Event, ...]:
    """What the site of a train reply says it has spent in this run."""
    return decode(_Spent, str(_config(content, "site")["spent"])).events


def evaluate_reply(reply: EvaluateReply) -> RecordDict:
    """A site's evaluation sums as lists of integers; the loss is one float."""
    note = ConfigRecord(
        {"name": reply.site, "groups": list(reply.groups), "withheld": list(reply.withheld)}
    )
    content = RecordDict({"metrics": _sums_record(reply.sums), "site": note})
    for i, sums in enumerate(reply.groups.values()):
        content[f"group-{i}"] = _sums_record(sums)
    return content


def _sums_record(sums: EvaluationSums) -> MetricRecord:
    return MetricRecord(
        {
            "count": sums.count,
            "loss": sums.loss,
            "confusion": sums.confusion.reshape(-1).tolist(),
            "scores": sums.scores.reshape(-1).tolist(),
        }
    )


def read_evaluate_reply(content: RecordDict) -> EvaluateReply:
    """The inverse of `evaluate_reply`."""
    records, note = content.metric_records, content.config_records["site"]
    return EvaluateReply(
        site=str(note["name"]),
        sums=_read_sums(records["metrics"]),
        groups={
            name: _read_sums(records[f"group-{i}"]) for i, name in enumerate(_texts(note["groups"]))
        },
        withheld=_texts(note["withheld"]),
    )


def _read_sums(record: MetricRecord) -> EvaluationSums:
    confusion = np.asarray(record["confusion"], np.int64)
    classes = round(len(confusion) ** 0.5)
    return EvaluationSums(
        count=_integer(record["count"]),
        loss=_number(record["loss"]),
        confusion=confusion.reshape(classes, classes),
        scores=np.asarray(record["scores"], np.int64).reshape(2, -1),
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def hello_reply(hello: Hello) -> RecordDict:
    """A site's introduction."""
    return RecordDict({"hello": ConfigRecord({"json": encode(hello)})})


def refusal_reply(refusal: Refusal) -> RecordDict:
    """A site's no; it travels in place of the answer."""
    return RecordDict({"refusal": ConfigRecord({"json": encode(refusal)})})


def read_hello(content: RecordDict) -> Hello:
    """The inverse of `hello_reply`."""
    return decode(Hello, str(content.config_records["hello"]["json"]))


def read_refusal(content: RecordDict) -> Refusal | None:
    """The refusal that a reply holds, if it is one."""
    record = config_record(content, "refusal")
    return None if record is None else decode(Refusal, str(record["json"]))


def _config(content: RecordDict, name: str) -> ConfigRecord:
    record = config_record(content, name)
    if record is None:
        raise KeyError(name)
    return record


def _arrays(content: RecordDict) -> ArrayRecord:
    record = content["arrays"]
    if not isinstance(record, ArrayRecord):
        raise TypeError("the model is of another type")
    return record


def config_record(content: RecordDict, name: str) -> ConfigRecord | None:
    """The record under `name`. Flower's own view, `config_records`, copies all of them first."""
    record = content.get(name)
    return record if isinstance(record, ConfigRecord) else None


# --- bytes of our own protocols ------------------------------------------------


def invitation(value: Invitation) -> RecordDict:
    """The content of a `join` message."""
    return RecordDict({"invitation": ConfigRecord({"json": encode(value)})})


def read_invitation(message: Message) -> Invitation:
    """The inverse of `invitation`."""
    return decode(Invitation, str(message.content.config_records["invitation"]["json"]))


def small_bytes(name: str, data: bytes) -> RecordDict:
    """A content of some kilobytes under `name`."""
    return RecordDict({name: ConfigRecord({"bytes": data})})


def read_small_bytes(content: RecordDict, name: str) -> bytes | None:
    """The bytes under `name`, or None if the content has none."""
    record = config_record(content, name)
    data = None if record is None else record["bytes"]
    return data if isinstance(data, bytes) else None


SMALL: Final = 256 * 1024
"""Bytes up to which a record of one object is better than an array of three: over a
network Flower moves every object in a request of its own."""


def large_bytes(name: str, data: bytes | memoryview) -> ArrayRecord | ConfigRecord:
    """Bytes that may be as large as a model: Flower moves arrays in chunks.

    The array type is our own, so that a strategy that takes it for numbers fails.
    """
    if len(data) <= SMALL:
        return ConfigRecord({"bytes": bytes(data)})
    array = Array(dtype="uint8", shape=(len(data),), stype=f"fedlearn.{name}", data=bytes(data))
    return ArrayRecord({name: array})


def read_large_bytes(content: RecordDict, name: str) -> bytes | None:
    """The bytes of `large_bytes(name, ...)` under the record `name`, or None."""
    record = content.get(name)
    if isinstance(record, ArrayRecord):
        return record[name].data
    return read_small_bytes(content, name)


def with_request(message: Message, request: bytes) -> Message:
    """The strategy's message with a request of secure aggregation beside its records."""
    added = ConfigRecord({"bytes": request})
    return with_content(message, RecordDict({**message.content, "secagg": added}))


def summed_reply(site: str, data: bytes, spent: tuple[Event, ...]) -> RecordDict:
    """A site's contribution to a sum, and what it has spent in this run."""
    note = ConfigRecord({"name": site, "spent": encode(_Spent(events=spent))})
    return RecordDict({"contribution": large_bytes("contribution", data), "site": note})


def aggregated_reply(to: Message, vector: Vector, weight: float) -> Message:
    """The one reply that a strategy gets under secure aggregation: the mean of the survivors."""
    metrics = MetricRecord({WEIGHT: weight})
    content = RecordDict({"arrays": arrays_of(vector), "metrics": metrics})
    return Message(content, reply_to=to)


def size_of(message: Message) -> int:
    """Bytes of the records in a message, before Flower's own framing."""
    if message.has_error():
        return 0
    content = message.content
    return sum(map(_record_bytes, content.values()))


def _record_bytes(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    if isinstance(record, ArrayRecord):
        return record.count_bytes()
    # Flower's own count of the other records fails on a value that is empty.
    return sum(len(key) + _bytes_in(value) for key, value in record.items())


def _bytes_in(value: object) -> int:
    match value:
        case bool():
            return 1
        case str():
            return len(value.encode())
        case bytes():
            return len(value)
        case list():
            return sum(map(_bytes_in, value))
        case _:
            return 8


def _integer(value: Any) -> int:
    return int(value)


def _number(value: Any) -> float:
    return float(value)
