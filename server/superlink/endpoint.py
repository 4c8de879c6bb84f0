"""The coordinator's end of Flower's SuperLink: the one file of `server` that knows it from inside.

A SuperLink that lets any process claim the task of a run would let it pose as the
coordinator. Ours runs with `--isolation process` and a secret: the process that
submits a run is the one that carries it out, and no code is installed from the run.
What stands beside it in the app bundle is a name for the installed app, for sites
that prefer Flower's own SuperNode.

Flower's `HttpGrid` moves every object of a message in a request of its own and waits
a second whenever it asks for one that is still on its way. Ours sends a round's
messages, and collects replies, in one request each (`fedlearn.flower.envelopes`); the
SuperLink keeps it waiting until there is something to collect.

Uses private names of flwr 1.41 and 1.42; `tests/server/superlink/test_endpoint.py` fails
loudly when one of them changes.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import httpx
from flwr.app import DEFAULT_TTL, Context, Message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.common.serde import context_from_proto, fab_to_proto, run_from_proto, user_config_to_proto
from flwr.proto import control_pb2, message_pb2, runtime_pb2
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.date import now
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, push_objects
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from fedlearn.core.errors import ProtocolError
from fedlearn.flower import envelopes, private
from fedlearn.flower.envelope import INLINE, MOST_OBJECTS, RUN_GIVE, RUN_TAKE, Capacity, Envelope
from fedlearn.flower.envelopes import Packed
from fedlearn.flower.private import FlowerRun
from fedlearn.flower.records import size_of

TASK: Final = "flwr-serverapp"
_CLAIM: Final = "/flwr.proto.Runtime/AcquireTask"
_APP: Final = {
    "pyproject.toml": b"""\
[project]
name = "fedlearn-installed"
version = "0.1.0"
description = "Runs the fedlearn that is installed; holds no code of its own."
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedlearn"
fab-include = ["installed_client.py", "installed_server.py"]
[tool.flwr.app.components]
serverapp = "installed_server:app"
clientapp = "installed_client:app"
[tool.flwr.app.config]
config = ""
overrides = ""
""",
    "installed_client.py": b"from clients.app import app\n\n__all__ = ['app']\n",
    "installed_server.py": b"from server.app import app\n\n__all__ = ['app']\n",
}


_NODE: Final = Node(node_id=SUPERLINK_NODE_ID)

_LATE_SECONDS: Final = 5.0
"""How much longer a message is kept than its answer is waited for."""

Q = TypeVar("Q")
T = TypeVar("T")


class SuperLink:
    """A running SuperLink, reached on this machine; close it with `close`.

    `authority` is the PEM that certifies it, `secret` the one it was started with.
    """

    def __init__(self, address: str, authority: bytes, secret: bytes) -> None:
        self.address = address
        self._authority, self._secret = authority, secret
        self._control = ControlHttpClient.from_server_address(
            address, False, authority, [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
        )

    def close(self) -> None:
        """Give the connection back."""
        self._control.close()

    def ready(self) -> bool:
        """Whether it answers."""
        context = ssl.create_default_context(cadata=self._authority.decode())
        try:
            return httpx.get(f"https://{self.address}/health", verify=context).is_success
        except httpx.TransportError:
            return False

    def register(self, public_key: bytes, name: str) -> int:
        """Enrol a node key (PEM); returns the node's id.

        Raises:
            ProtocolError: it was refused, for example because the key is enrolled already.
        """
        request = control_pb2.RegisterNodeRequest(public_key=public_key, name=name)
        try:
            return int(self._control.RegisterNode(request).node_id)
        except httpx.HTTPStatusError as error:
            raise _refused("register", name, error) from None

    def nodes(self) -> dict[int, str]:
        """All nodes that were ever enrolled: registered, online, offline or unregistered."""
        answer = self._control.ListNodes(control_pb2.ListNodesRequest())
        return {int(one.node_id): str(one.status) for one in answer.nodes_info}

    def start_run(self, run_config: dict[str, bool | float | int | str]) -> int:
        """Submit a run that carries `run_config`; returns its id."""
        content, _ = build_fab_from_files(_APP)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = control_pb2.StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(run_config)
        )
        try:
            return int(self._control.StartRun(request).run_id)
        except httpx.HTTPStatusError as error:
            raise _refused("start", "the run", error) from None

    @contextmanager
    def carry_out(
        self, run_id: int, lifetime: float = DEFAULT_TTL
    ) -> Iterator[tuple[Grid, Context]]:
        """Be the ServerApp of a run while this lasts; the SuperLink is told how it ended.

        Messages of the run can be answered for `lifetime` seconds after they were sent.

        Raises:
            ProtocolError: the run's task could not be claimed.
        """
        token = self._claim(run_id)
        with self._runtime([RuntimeTokenHttpInterceptor(token=token)]) as client:
            given = client.PullTaskInput(runtime_pb2.PullTaskInputRequest())
            context, run = context_from_proto(given.context), run_from_proto(given.run)
            context.run_config = dict(run.override_config)
            private.identify(run_id=run_id, node_id=context.node_id, task_id=int(given.task_id))
            outcome, details = SubStatus.FAILED, "the coordinator stopped"
            try:
                with _heartbeats(client):
                    yield LinkGrid(client, run, lifetime), context
                outcome, details = SubStatus.COMPLETED, ""
            finally:
                output = runtime_pb2.PushTaskOutputRequest(sub_status=outcome, details=details)
                with suppress(httpx.HTTPError):
                    client.PushTaskOutput(output)

    def _claim(self, run_id: int) -> str:
        secret = SuperExecAuthHttpInterceptor(
            master_secret=self._secret, protected_methods=frozenset({_CLAIM})
        )
        with self._runtime([secret]) as client:
            request = runtime_pb2.AcquireTaskRequest(supported_task_types=[TASK])
            answer = client.AcquireTask(request)
        if not answer.token or int(answer.task.run_id) != run_id:
            raise ProtocolError("", "claim", f"run {run_id} is not the one that waits")
        return str(answer.token)

    @contextmanager
    def _runtime(
        self, interceptors: list[ProtobufClientInterceptor]
    ) -> Iterator[RuntimeHttpClient]:
        version = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")
        client = RuntimeHttpClient.from_server_address(
            self.address, False, self._authority, [version, *interceptors]
        )
        try:
            yield client
        finally:
            client.close()


@contextmanager
def _heartbeats(client: RuntimeHttpClient) -> Iterator[None]:
    """Tell the SuperLink all the while that the run's task is alive."""
    beats = HeartbeatSender(make_task_heartbeat_fn_http(client))
    try:
        beats.start()
        yield
    finally:
        # It says so by an error when it never started, or has ended of its own; then nothing is
        # left to stop, and what ends the run is to be heard of.
        with suppress(RuntimeError):
            beats.stop()


def _refused(step: str, what: str, error: httpx.HTTPStatusError) -> ProtocolError:
    flower = FlowerError.from_json(error.response.text)
    reason = flower.message if flower else f"answered {error.response.status_code}"
    return ProtocolError("superlink", step, f"{what}: {reason}")


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
        """Call, and once more if the connection breaks: for calls that may be repeated."""
        try:
            return method(request)
        except httpx.TransportError:
            return method(request)
