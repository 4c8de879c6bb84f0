"""A run's grid over a SuperLink: whole messages there and back, in one request each.

Flower's `HttpGrid` moves every object of a message in a request of its own and waits
a second whenever it asks for one that is still on its way. Ours sends a round's
messages, and collects replies, in one request each (`fedlearn.flower.envelopes`); the
SuperLink keeps it waiting until there is something to collect.

Uses private names of flwr 1.41 and 1.42; `tests/server/superlink/test_endpoint.py` fails
loudly when one of them changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import httpx
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto import message_pb2, runtime_pb2
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, push_objects
from flwr.supercore.runtime import RuntimeHttpClient

from fedlearn.core.errors import ProtocolError
from fedlearn.flower import envelopes
from fedlearn.flower.envelope import INLINE, MOST_OBJECTS, RUN_GIVE, RUN_TAKE, Capacity, Envelope
from fedlearn.flower.envelopes import Packed
from fedlearn.flower.private import FlowerRun
from fedlearn.flower.records import size_of

_NODE: Final = Node(node_id=SUPERLINK_NODE_ID)

_LATE_SECONDS: Final = 5.0
"""How much longer a message is kept than its answer is waited for."""

Q = TypeVar("Q")
T = TypeVar("T")


class LinkLostError(ProtocolError):
    """The SuperLink does not answer, or not any more: what it held of a run is lost with it."""

    def __init__(self, error: httpx.HTTPError) -> None:
        reason = str(error).partition("\n")[0] or type(error).__name__
        super().__init__("superlink", "call", f"carries the run no more ({reason})")


@contextmanager
def reached(*besides: type[httpx.HTTPStatusError]) -> Iterator[None]:
    """What is called in this is answered, and with no error that is one of `besides`.

    Raises:
        LinkLostError: it is not.
    """
    kinds: tuple[type[httpx.HTTPError], ...] = (httpx.TransportError, *besides)
    try:
        yield
    except kinds as error:
        raise LinkLostError(error) from None


class LinkGrid(Grid):
    """Sends and receives in the name of the run that `client` has a token for.

    A message that is not answered within `lifetime` seconds is given to no site any more:
    nobody waits for the answer, and finding it could cost a site's privacy budget.

    A subclass because Flower's strategies ask for a `Grid`.
    """

    holds: Final = True
    """`pull_messages` waits for a reply for a while before it comes back without one."""

    def __init__(self, client: RuntimeHttpClient, run: FlowerRun, lifetime: float) -> None:
        self._client, self._run, self._lifetime = client, run, lifetime

    @property
    def run(self) -> FlowerRun:
        """The run."""
        return self._run

    def set_run(self, run: FlowerRun) -> None:
        """Not part of a strategy's work."""
        raise RuntimeError("a grid belongs to one run")

    def create_message(self, *_: object, **__: object) -> Message:
        """Not part of a strategy's work."""
        raise RuntimeError("deprecated in Flower; use flwr.app.Message")

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are online."""
        return [int(node.node_id) for node in self.get_nodes()]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are online, as Flower describes them."""
        return list(self._call(self._client.GetNodes, runtime_pb2.GetNodesRequest()).nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; what was sent to one of their nodes before and not fetched is void.

        As many at a time as fit into an envelope: of large messages one is taken apart at
        a time. Returns their ids; an empty one for a message that was not taken.
        """
        sent: list[str] = []
        with envelopes.packing() as packed:
            batch, size, objects = list[Packed](), 0, 0
            for message in messages:
                self._limit(message)
                one = packed(message)
                size, objects = size + size_of(message), objects + len(one.objects)
                if batch and (size > INLINE or objects > MOST_OBJECTS):
                    sent += self._send(batch)
                    batch, size, objects = [], size_of(message), len(one.objects)
                batch.append(one)
            if batch:
                sent += self._send(batch)
        return sent

    def _limit(self, message: Message) -> None:
        age = now().timestamp() - message.metadata.created_at
        message.metadata.ttl = age + self._lifetime + _LATE_SECONDS

    def _send(self, batch: list[Packed]) -> list[str]:
        head = runtime_pb2.PushAppMessagesRequest(
            messages_list=[one.head for one in batch],
            message_object_trees=[one.tree for one in batch],
        )
        room = Capacity()
        objects = [content for one in batch for content in one.inline(room)]
        answered = self._exchange(RUN_GIVE, head.SerializeToString(), objects)
        answer = runtime_pb2.PushAppMessagesResponse.FromString(answered.head)
        push = make_push_object_fn_protobuf(self._push, _NODE, self._run.run_id, answer.session_id)
        for one in batch:
            wanted = set(answer.objects_to_push) & one.objects.keys()
            push_objects(one.objects, push, object_ids_to_push=wanted)
        return [str(name) for name in answer.message_ids]

    def _push(self, request: message_pb2.PushObjectRequest) -> message_pb2.PushObjectResponse:
        try:
            return self._client.PushObject(request)
        except httpx.TransportError:
            with reached(httpx.HTTPStatusError):
                self._client.PushObject(request)
            # Flower does not take an object twice: what it says now is no for one that it has.
            return message_pb2.PushObjectResponse(stored=True)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come to some messages; waits a while until there is one."""
        asked = runtime_pb2.PullAppMessagesRequest(message_ids=list(message_ids))
        answered = self._exchange(RUN_TAKE, asked.SerializeToString(), [])
        if not answered.head:
            return []
        answer, at_hand = (
            runtime_pb2.PullAppMessagesResponse.FromString(answered.head),
            answered.by_id(),
        )
        pairs = zip(answer.messages_list, answer.message_object_trees, strict=True)
        return [self._received(head, tree, at_hand) for head, tree in pairs]

    def _received(
        self,
        head: message_pb2.Message,
        tree: message_pb2.ObjectTree,
        at_hand: dict[str, bytes],
    ) -> Message:
        pull: Callable[[str], bytes] = make_pull_object_fn_protobuf(
            lambda asked: self._call(self._client.PullObject, asked), _NODE, self._run.run_id
        )
        try:
            message = envelopes.unpacked(head, tree, at_hand, pull)
        except ObjectPullError:
            message = envelopes.failed(head, "its reply did not arrive whole")
        except ValueError as error:
            message = envelopes.failed(head, f"its reply cannot be read ({error})")
        if not at_hand.keys() >= set(envelopes.names_in([tree])):
            confirm = message_pb2.ConfirmMessageReceivedRequest(
                node=_NODE, run_id=self._run.run_id, message_object_id=head.metadata.message_id
            )
            self._call(self._client.ConfirmMessageReceived, confirm)
        return message

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Not part of a strategy's work."""
        raise RuntimeError("replies are collected by SiteGrid.exchange")

    def _exchange(self, path: str, head: bytes, objects: list[bytes]) -> Envelope:
        return self._call(
            lambda envelope: envelopes.exchange(self._client, path, envelope),
            Envelope(head, tuple(objects)),
        )

    def _call(self, method: Callable[[Q], T], request: Q) -> T:
        """Call, and once more if the connection breaks: for calls that may be repeated.

        Raises:
            LinkLostError: it breaks again, or what answers does not know the run any more.
        """
        with reached(httpx.HTTPStatusError):
            try:
                return method(request)
            except httpx.TransportError:
                return method(request)
