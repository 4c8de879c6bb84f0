"""A site's end of Flower's Fleet API: the one file of `clients` that knows it from inside.

The stock SuperNode starts a process for every message, polls every three seconds and
runs the code that the coordinator sent. This connection speaks the same API with the
same node authentication, adds the client certificate that our gateway asks for, and
never fetches an app: whose code runs is not the coordinator's business.

Uses private names of flwr 1.41 and 1.42; `tests/clients/test_fleet.py` fails loudly
when one of them changes.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar, cast

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

HEARTBEAT_SECONDS: Final = 10.0
"""The shortest that Flower allows; after two without a beat a node counts as gone."""

_BACKOFF_SECONDS: Final = 0.02
_BUSY: Final = frozenset({502, 503, 504})
_UNAUTHORIZED: Final = 401

Q = TypeVar("Q")
T = TypeVar("T")
Waiting = Callable[[str, bool], None]
"""Told why a call is tried again, and whether waiting alone will not help; raises to give up."""


class NotEnrolledError(Exception):
    """The coordinator does not know this node, or no longer; the text says what it answered."""


class RunOverError(Exception):
    """The run that a message belongs to has ended."""


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
        self._waiting = waiting
        self._client = FleetHttpClient(
            f"https://{address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
            verify=tls,
        )
        self._public = _public_bytes(key)
        self._node: node_pb2.Node | None = None
        self._beating: threading.Event | None = None
        self._configs: dict[int, dict[str, bool | float | int | str]] = {}

    # --- Coming and going ---------------------------------------------------------

    def activate(self, last_node: int | None) -> int:
        """Come online; `last_node` is the id from before a crash, which still counts as online.

        Raises:
            NotEnrolledError: the coordinator does not take this node.
        """
        request = fleet_pb2.ActivateNodeRequest(
            public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS
        )
        try:
            node_id = self._call(self._client.ActivateNode, request).node_id
        except NotEnrolledError:
            if last_node is None:
                raise
            self._deactivate(last_node)
            node_id = self._call(self._client.ActivateNode, request).node_id
        self._node = node_pb2.Node(node_id=node_id)
        self._beating = threading.Event()
        threading.Thread(target=self._beat, args=(self._node, self._beating), daemon=True).start()
        return int(node_id)

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
        except (httpx.HTTPError, RuntimeError):
            return

    def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.set()

    def _beat(self, node: node_pb2.Node, stopped: threading.Event) -> None:
        request = heartbeat_pb2.SendNodeHeartbeatRequest(
            node=node, heartbeat_interval=HEARTBEAT_SECONDS
        )
        while not stopped.wait(HEARTBEAT_SECONDS / 2):
            try:
                self._client.SendNodeHeartbeat(request)
            except (httpx.HTTPError, RuntimeError):
                continue  # the main loop meets the same trouble, and speaks of it

    # --- Messages -----------------------------------------------------------------

    def receive(self) -> Incoming | None:
        """The next message, whole, or None if none waits.

        Raises:
            NotEnrolledError: the coordinator has forgotten or removed this node.
        """
        node = self._online()
        answer = self._call(self._client.PullMessages, fleet_pb2.PullMessagesRequest(node=node))
        if not answer.messages_list:
            return None
        head, tree = message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]
        run_id = head.metadata.run_id
        config = self._config(run_id)
        contents = pull_objects(
            [one.object_id for one in iterate_object_tree(tree)],
            make_pull_object_fn_protobuf(
                lambda request: self._call(self._client.PullObject, request), node, run_id
            ),
            initial_backoff=_BACKOFF_SECONDS,
        )
        received = message_pb2.ConfirmMessageReceivedRequest(
            node=node, run_id=run_id, message_object_id=head.metadata.message_id
        )
        self._call(self._client.ConfirmMessageReceived, received)
        message = cast(Message, inflate_object_from_contents(tree.object_id, contents))
        message.metadata.__dict__["_message_id"] = head.metadata.message_id
        return Incoming(message=message, run_id=run_id, run_config=config)

    def reply(self, message: Message, seconds: float) -> None:
        """Send the answer to a message; it took `seconds` to find.

        Raises:
            RunOverError: nobody waits for it any more.
        """
        node, run_id = self._online(), message.metadata.run_id
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(message), get_all_nested_objects(message)
            head = remove_content_from_message(message) if message.has_content() else message
            request = fleet_pb2.PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(head)],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            answer = self._call(self._client.PushMessages, request)
            push_objects(
                objects,
                make_push_object_fn_protobuf(
                    lambda pushed: self._call(self._client.PushObject, pushed),
                    node,
                    run_id,
                    answer.session_id,
                ),
                object_ids_to_push=set(answer.objects_to_push),
            )

    def _config(self, run_id: int) -> dict[str, bool | float | int | str]:
        if run_id not in self._configs:
            request = run_pb2.GetRunRequest(node=self._online(), run_id=run_id)
            run = run_from_proto(self._call(self._client.GetRun, request).run)
            self._configs[run_id] = dict(run.override_config)
        return self._configs[run_id]

    def _online(self) -> node_pb2.Node:
        if self._node is None:
            raise RuntimeError("this node is not online")
        return self._node

    # --- Calls --------------------------------------------------------------------

    def _call(self, method: Callable[[Q], T], request: Q) -> T:
        """Call until it gets through; every call of this API may be repeated."""
        while True:
            try:
                return method(request)
            except httpx.TransportError as error:
                self._waiting(*_transport_reason(error))
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in _BUSY:
                    raise _refusal(error.response) from None
                self._waiting(f"the coordinator answers {error.response.status_code}", False)


def head_bytes(message: Message) -> bytes:
    """Who waits for an answer, and to what: a message without its content."""
    data: bytes = message_to_proto(remove_content_from_message(message)).SerializeToString()
    return data


def headless(data: bytes) -> Message:
    """A message of which only the head is known, to be answered with an error."""
    head = message_from_proto(message_pb2.Message.FromString(data))
    return make_message(head.metadata, content=RecordDict())


def _public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    data: bytes = public_key_to_bytes(key.public_key())
    return data


def _transport_reason(error: httpx.TransportError) -> tuple[str, bool]:
    text = str(error)
    for sign, reason in _TLS_REASONS.items():
        if sign in text:
            return reason, True
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        # In TLS 1.3 a client learns of its refusal after its handshake, or not at all.
        return (
            "the coordinator closes the connection; if that goes on, it does not accept this "
            "site's certificate: taken off the roster, or expired",
            False,
        )
    return f"no connection to the coordinator ({text or type(error).__name__})", False


_TLS_REASONS: Final = {
    "CERTIFICATE_VERIFY_FAILED": "the coordinator's certificate is not valid here: see "
    "server.address and server.authority, and this machine's clock",
    "UNKNOWN_CA": "the coordinator does not accept this site's certificate: it is not, or no "
    "longer, among those it was told of",
    "CERTIFICATE_EXPIRED": "this site's certificate has expired: make a new identity, and send "
    "its public half to the coordinator",
    "CERTIFICATE_REQUIRED": "the coordinator asks for a certificate",
}


def _refusal(response: httpx.Response) -> Exception:
    """What a coordinator's no means."""
    flower = FlowerError.from_json(response.text)
    if response.status_code == _UNAUTHORIZED:
        return NotEnrolledError(
            f"the coordinator does not recognise this node{_clock_remark(response)}"
        )
    if flower is None:
        return NotEnrolledError(f"the coordinator answered {response.status_code}")
    if flower.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return NotEnrolledError("the coordinator has not enrolled this node's key")
    return RunOverError(flower.message)


def _clock_remark(response: httpx.Response) -> str:
    """Flower's node authentication signs the time: a clock that is wrong looks like a wrong key."""
    try:
        ahead = time.time() - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return ""
    if abs(ahead) < 5:
        return ""
    way = "ahead of" if ahead > 0 else "behind"
    return f"; this machine's clock is {abs(ahead):.0f} seconds {way} the coordinator's"
