"""A site's end of Flower's Fleet API: the one file of `clients` that knows it from inside.

The stock SuperNode starts a process for every message, polls every three seconds and
runs the code that the coordinator sent. This connection speaks the same API with the
same node authentication, adds the client certificate that our gateway asks for, and
never fetches an app: whose code runs is not the coordinator's business.

Uses private names of flwr 1.41 and 1.42; `tests/clients/supernode/test_fleet.py` fails loudly
when one of them changes.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    push_objects,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from clients.supernode.answers import Readable, bound
from clients.supernode.copies import OneOfTwo
from clients.supernode.pace import Pace
from clients.supernode.refusals import NotEnrolledError, RunOverError, refusal, transport_reason
from fedlearn.flower import envelopes
from fedlearn.flower.envelope import SITE_GIVE, SITE_TAKE, Capacity, Envelope

HEARTBEAT_SECONDS: Final = 10.0
"""The shortest that Flower allows; after two without a beat a node counts as gone."""

_BUSY: Final = frozenset({502, 503, 504})
_MOST_GIVES: Final = 3

Q = TypeVar("Q")
T = TypeVar("T")
Waiting = Callable[[str, bool], None]
"""Told why a call is tried again, and whether waiting alone will not help; raises to give up."""


class _TornError(Exception):
    """A connection broke while a request was on its way."""


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A message that waits for this node; `run_config` is what the run was started with."""

    message: Message
    run_id: int
    run_config: dict[str, bool | float | int | str]


class Fleet:
    """A connection to a coordinator; one per process, closed with `close`.

    `waiting` is asked, with the reason, before a call that did not get through is
    tried again. It sleeps, or raises.
    """

    def __init__(
        self,
        address: str,
        key: ec.EllipticCurvePrivateKey,
        tls: ssl.SSLContext,
        waiting: Waiting,
    ) -> None:
        self._waiting, self.pace = waiting, Pace()
        self._client = FleetHttpClient(
            f"https://{address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
                Readable(),
                self.pace,
            ],
            verify=tls,
        )
        bound(self._client._client)
        OneOfTwo(self._client._client)
        self._public: bytes = public_key_to_bytes(key.public_key())
        self._node: node_pb2.Node | None = None
        self._beating: threading.Event | None = None
        self._configs: dict[int, dict[str, bool | float | int | str]] = {}

    # --- Coming and going ---------------------------------------------------------

    def activate(self, last_node: int | None) -> int:
        """Come online; `last_node` is the id from before a crash, which still counts as online.

        Raises:
            NotEnrolledError: the coordinator does not take this node, or says what is no answer.
        """
        try:
            node_id = self._activated()
        except NotEnrolledError:
            if last_node is None:
                raise
            self._deactivate(last_node)
            node_id = self._activated()
        self._node = node_pb2.Node(node_id=node_id)
        self._beating = threading.Event()
        threading.Thread(target=self._beat, args=(self._node, self._beating), daemon=True).start()
        return node_id

    def _activated(self) -> int:
        request = fleet_pb2.ActivateNodeRequest(
            public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS
        )
        try:
            return int(self._call(self._client.ActivateNode, request).node_id)
        except ValueError as error:
            raise NotEnrolledError(f"the coordinator's answer cannot be read ({error})") from None

    def leave(self) -> None:
        """Say goodbye where it can be said; the node can come back."""
        self._stop_beating()
        if self._node is not None:
            self._deactivate(self._node.node_id)
            self._node = None

    def forget(self) -> None:
        """The coordinator has forgotten this node: nothing to say goodbye to."""
        self._stop_beating()
        self._node = None
        self._configs.clear()

    def close(self) -> None:
        """Give the connection back."""
        self._stop_beating()
        self._client.close()

    def _deactivate(self, node_id: int) -> None:
        try:
            self._client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=node_id))
        except (httpx.HTTPError, RuntimeError, ValueError):
            return

    def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.set()

    def _beat(self, node: node_pb2.Node, stopped: threading.Event) -> None:
        request = heartbeat_pb2.SendNodeHeartbeatRequest(
            node=node, heartbeat_interval=HEARTBEAT_SECONDS
        )
        while True:  # at once: for its activation alone a node counts as online for one beat
            with suppress(httpx.HTTPError, RuntimeError, ValueError):  # the main loop tells of it
                self._client.SendNodeHeartbeat(request)
            if stopped.wait(HEARTBEAT_SECONDS / 2):
                return

    # --- Messages -----------------------------------------------------------------

    def receive(self) -> Incoming | None:
        """The next message, whole, or None if none has come for some seconds.

        Raises:
            NotEnrolledError: the coordinator has forgotten or removed this node.
            RunOverError: the message cannot be had, or read: no more is known of it.
        """
        node = self._online()
        asked = fleet_pb2.PullMessagesRequest(node=node)
        try:
            answered = self._exchange(SITE_TAKE, asked.SerializeToString())
            return self._read(answered, node) if answered.head else None
        except ObjectPullError:
            raise RunOverError("the coordinator took the message back") from None
        except ValueError as error:
            raise RunOverError(f"the coordinator's message cannot be read ({error})") from None

    def _read(self, answered: Envelope, node: node_pb2.Node) -> Incoming:
        answer = envelopes.parsed(fleet_pb2.PullMessagesResponse, answered.head)
        if len(answer.messages_list) != 1 or len(answer.message_object_trees) != 1:
            raise ValueError("not one message")
        head, tree = answer.messages_list[0], answer.message_object_trees[0]
        run_id = int(head.metadata.run_id)
        config, at_hand = self._config(run_id), answered.by_id()
        pull = make_pull_object_fn_protobuf(
            lambda request: self._call(self._client.PullObject, request), node, run_id
        )
        message = envelopes.unpacked(head, tree, at_hand, pull)
        if not at_hand.keys() >= set(envelopes.names_in([tree])):
            received = message_pb2.ConfirmMessageReceivedRequest(
                node=node, run_id=run_id, message_object_id=head.metadata.message_id
            )
            self._call(self._client.ConfirmMessageReceived, received)
        return Incoming(message=message, run_id=run_id, run_config=config)

    def reply(self, message: Message, seconds: float) -> None:
        """Send the answer to a message; it took `seconds` to find.

        Raises:
            RunOverError: nobody waits for it any more, or it did not arrive whole.
        """
        given = 0
        while given < _MOST_GIVES:
            try:
                return self._give(message, seconds)
            except _TornError:
                continue  # in smaller parts, as the pace is by now
            except ObjectPushError:
                given += 1  # the coordinator has dropped what it had of it: from the start
            except ValueError as error:
                raise RunOverError(f"the coordinator's word cannot be read ({error})") from None
        raise RunOverError("the answer did not arrive whole")

    def _give(self, message: Message, seconds: float) -> None:
        node, run_id = self._online(), message.metadata.run_id
        with envelopes.packing() as packed:
            one = packed(message)
            request = fleet_pb2.PushMessagesRequest(
                node=node,
                messages_list=[one.head],
                message_object_trees=[one.tree],
                clientapp_runtime_list=[seconds],
            )
            objects = one.inline(Capacity(self.pace.part))
            # What was on its way is lost with a connection, so that less of it goes the next time.
            answered = self._exchange(SITE_GIVE, request.SerializeToString(), *objects, whole=True)
            answer = envelopes.parsed(fleet_pb2.PushMessagesResponse, answered.head)
            push = make_push_object_fn_protobuf(
                lambda pushed: self._call(self._client.PushObject, pushed),
                node,
                run_id,
                answer.session_id,
            )
            wanted = set(answer.objects_to_push)
            if not wanted <= one.objects.keys():
                raise ObjectPushError("", run_id, answer.session_id)
            push_objects(one.objects, push, object_ids_to_push=wanted)

    def _config(self, run_id: int) -> dict[str, bool | float | int | str]:
        if run_id not in self._configs:
            request = run_pb2.GetRunRequest(node=self._online(), run_id=run_id)
            answer = self._call(self._client.GetRun, request)
            try:
                self._configs[run_id] = dict(run_from_proto(answer.run).override_config)
            except TypeError:  # a value of no type
                raise ValueError("no description of a run") from None
        return self._configs[run_id]

    def _online(self) -> node_pb2.Node:
        if self._node is None:
            raise RuntimeError("this node is not online")
        return self._node

    # --- Calls --------------------------------------------------------------------

    def _exchange(self, path: str, head: bytes, *objects: bytes, whole: bool = False) -> Envelope:
        return self._call(
            lambda envelope: envelopes.exchange(self._client, path, envelope),
            Envelope(head, objects),
            whole=whole,
        )

    def _call(self, method: Callable[[Q], T], request: Q, *, whole: bool = False) -> T:
        """Call until it gets through; a call may be repeated, but for pushes (see `reply`).

        Raises:
            _TornError: the connection broke; where the request is not to be repeated as a `whole`.
        """
        while True:
            try:
                return method(request)
            except httpx.TransportError as error:
                self._waiting(*transport_reason(error))
                if whole:
                    raise _TornError from None
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in _BUSY:
                    raise refusal(error.response) from None
                self._waiting(f"the coordinator answers {error.response.status_code}", False)


def head_bytes(message: Message) -> bytes:
    """Who waits for an answer, and to what: a message without its content."""
    data: bytes = message_to_proto(remove_content_from_message(message)).SerializeToString()
    return data


def headless(data: bytes) -> Message:
    """A message of which only the head is known, to be answered with an error."""
    head = message_from_proto(message_pb2.Message.FromString(data))
    return make_message(head.metadata, content=RecordDict())
