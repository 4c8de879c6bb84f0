"""Flower's messages into envelopes and out of them, for sites and coordinator alike.

What does not fit into an envelope travels as Flower does it, an object at a time.

Uses private names of flwr 1.41 and 1.42; `tests/fedlearn/flower/test_envelopes.py` fails
loudly when one of them changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from flwr.app import ArrayRecord, Error, Message
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.serde import message_to_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.protobuf.client import ProtobufClient
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fedlearn.flower.envelope import PART, Capacity, Envelope
from fedlearn.flower.private import CLIENT_APP_FAILED, set_message_id

_BACKOFF_SECONDS: Final = 0.02
_LONGEST_BACKOFF_SECONDS: Final = 1.0

Proto = TypeVar("Proto")
Pull = Callable[[str], bytes]
"""One object by its id, as Flower pulls it."""


@dataclass
class Packed:
    """A message taken apart; `objects` shrinks as they leave."""

    head: ProtoMessage
    tree: ObjectTree
    objects: dict[str, InflatableObject]

    def inline(self, room: Capacity) -> Iterator[bytes]:
        """Deflated objects, removed from `objects`, as long as there is room for them."""
        for name in list(self.objects):
            content = self.objects[name].deflate()
            if not room.take(content):
                return
            del self.objects[name]
            yield content


@contextmanager
def packing() -> Iterator[Callable[[Message], Packed]]:
    """While this lasts the hashes of a message's objects are computed once."""
    with no_object_id_recompute():
        yield _packed


def _packed(message: Message) -> Packed:
    _cut(message)
    set_message_id(message, message.object_id)
    head = remove_content_from_message(message) if message.has_content() else message
    return Packed(message_to_proto(head), get_object_tree(message), get_all_nested_objects(message))


def _cut(message: Message) -> None:
    """Cut the arrays of a message into parts of ours, before Flower does it in larger ones."""
    for record in message.content.values() if message.has_content() else ():
        for array in record.values() if isinstance(record, ArrayRecord) else ():
            view = memoryview(array.data)
            parts = [ArrayChunk(view[at : at + PART]) for at in range(0, len(view), PART)]
            array.__dict__["_chunks"] = [(one.object_id, one) for one in parts]


def names_in(trees: Iterable[ObjectTree]) -> list[str]:
    """The ids of all objects in some trees, children before their parents, each once."""
    return list(
        dict.fromkeys(str(one.object_id) for tree in trees for one in iterate_object_tree(tree))
    )


def unpacked(
    head: ProtoMessage, tree: ObjectTree, at_hand: dict[str, bytes], pull: Pull
) -> Message:
    """The message of a tree; what is not `at_hand` is pulled.

    Guarantees: its metadata are those of `head`, which the SuperLink has looked at. What the
    message's own object says of its sender, its kind, and what it answers is not believed.

    Raises:
        ObjectPullError: an object is not to be had.
        ValueError: the objects are no message.
    """
    wanted = names_in([tree])
    contents = {name: at_hand[name] for name in wanted if name in at_hand}
    if missing := [name for name in wanted if name not in contents]:
        contents |= pull_objects(
            missing,
            pull,
            # As long as its sender is at it: the SuperLink tells when it has given up.
            max_tries_per_object=None,
            initial_backoff=_BACKOFF_SECONDS,
            backoff_cap=_LONGEST_BACKOFF_SECONDS,
        )
    try:
        metadata = metadata_from_proto(head.metadata)
        message = cast(Message, inflate_object_from_contents(tree.object_id, contents))
        if message.has_error():
            return make_message(metadata, error=message.error)
        return make_message(metadata, content=message.content)
    except MemoryError:
        raise
    except Exception as error:  # Flower inflates what it gets, and raises what that leads to
        raise ValueError(type(error).__name__) from error


def failed(head: ProtoMessage, reason: str) -> Message:
    """What stands for a reply of which only the head can be read."""
    error = Error(code=CLIENT_APP_FAILED, reason=reason)
    return make_message(metadata_from_proto(head.metadata), error=error)


def parsed(kind: type[Proto], data: bytes) -> Proto:
    """A protobuf message out of its bytes.

    Raises:
        ValueError: they are none.
    """
    message: Any = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise ValueError(f"no {kind.__name__}") from None
    return message  # type: ignore[no-any-return]


def exchange(client: ProtobufClient, path: str, envelope: Envelope) -> Envelope:
    """Send an envelope by a client of Flower's, with its authentication, and read the answer.

    Raises:
        httpx.HTTPError: as the client does.
        ValueError: the answer is no envelope.
    """
    answer = client._unary_unary(
        path=path,
        rpc_method=path,
        request=cast(Any, _Body(envelope.encode())),
        response_type=cast(Any, _Body),
    )
    return Envelope.decode(cast(_Body, answer).data)


class _Body:
    """Bytes in the place of a protobuf message: the client only reads and writes it."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def SerializeToString(self, deterministic: bool = True) -> bytes:  # noqa: N802
        return self.data

    def ParseFromString(self, data: bytes) -> None:  # noqa: N802
        self.data = data
