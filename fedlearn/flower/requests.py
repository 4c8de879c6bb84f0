"""What the coordinator asks of sites, and how sites read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from flwr.app import ConfigRecord, Message, RecordDict

from fedlearn.config import decode, encode
from fedlearn.core.vector import Vector
from fedlearn.flower.private import with_content
from fedlearn.flower.records import (
    MODEL,
    arrays_in,
    arrays_of,
    config_in,
    config_record,
    integer,
    number,
    vectors_of,
)
from fedlearn.rounds import Invitation, RoundNote, TrainRequest

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


def invitation(value: Invitation) -> RecordDict:
    """The content of a `join` message."""
    return RecordDict({"invitation": ConfigRecord({"json": encode(value)})})


def read_invitation(message: Message) -> Invitation:
    """The inverse of `invitation`."""
    return decode(Invitation, str(message.content.config_records["invitation"]["json"]))


def note_of(note: RoundNote) -> ConfigRecord:
    """What every message of a round says about it."""
    return ConfigRecord(
        {
            "run-id": note.run_id,
            "server-round": note.round,
            "cohort": note.cohort,
            "clip-norm": note.clip_norm,
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


def afford_request(note: RoundNote) -> RecordDict:
    """The content of an `afford` message."""
    return RecordDict({"config": note_of(note)})


def read_note(message: Message) -> RoundNote | None:
    """What a message says about its round; None if it belongs to none, or does not say."""
    config = config_record(message.content, "config")
    if config is None or "cohort" not in config:
        return None
    return RoundNote(
        run_id=read_run_id(message),
        round=integer(config["server-round"]),
        cohort=integer(config["cohort"]),
        clip_norm=number(config.get("clip-norm", 0.0)),
    )


def read_train_request(message: Message) -> TrainRequest:
    """The request inside a train or evaluate message."""
    config = config_in(message.content, "config")
    vectors = vectors_of(arrays_in(message.content))
    return TrainRequest(
        run_id=read_run_id(message),
        round=integer(config["server-round"]),
        model=vectors.pop(MODEL),
        besides=vectors,
        counted=integer(config.get("counted", 0)),
        clip_norm=number(config.get("clip-norm", 0.0)),
    )


def read_run_id(message: Message) -> str:
    """The id of the run that a message of a round belongs to."""
    return str(config_in(message.content, "config")["run-id"])


def with_request(message: Message, request: bytes) -> Message:
    """A message of a round with a request of secure aggregation beside its records."""
    added = ConfigRecord({"bytes": request})
    return with_content(message, RecordDict({**message.content, "secagg": added}))
