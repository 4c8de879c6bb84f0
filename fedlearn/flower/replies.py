"""What sites answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedlearn.config import decode, encode
from fedlearn.flower.records import (
    arrays_in,
    arrays_of,
    config_in,
    config_record,
    integer,
    large_bytes,
    model_of,
    number,
)
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec, Table
from fedlearn.privacy import Event
from fedlearn.rounds import EvaluateReply, Hello, Refusal, TrainReply

WEIGHT = "num-examples"
"""The key of a site's weight, as Flower's strategies name it."""


def hello_reply(hello: Hello) -> RecordDict:
    """A site's introduction."""
    return RecordDict({"hello": ConfigRecord({"json": encode(hello)})})


def read_hello(content: RecordDict) -> Hello:
    """The inverse of `hello_reply`."""
    return decode(Hello, str(content.config_records["hello"]["json"]))


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
    if not weight_of(content) >= 0:
        raise ValueError("the weight is not a number above zero")
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


def summed_reply(site: str, data: bytes, spent: tuple[Event, ...]) -> RecordDict:
    """A site's contribution to a sum, and what it has spent in this run."""
    note = ConfigRecord({"name": site, "spent": encode(_Spent(events=spent))})
    return RecordDict({"contribution": large_bytes("contribution", data), "site": note})
