"""The coordinator's end of Flower's SuperLink: the one file of `server` that knows it from inside.

A SuperLink that lets any process claim the task of a run would let it pose as the
coordinator. Ours runs with `--isolation process` and a secret: the process that
submits a run is the one that carries it out, and no code is installed from the run.
What stands beside it in the app bundle is a name for the installed app, for sites
that prefer Flower's own SuperNode.

Uses private names of flwr 1.41 and 1.42; `tests/server/superlink/test_endpoint.py` fails
loudly when one of them changes.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import httpx
from flwr.app import DEFAULT_TTL, Context
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, fab_to_proto, run_from_proto, user_config_to_proto
from flwr.proto import control_pb2, runtime_pb2
from flwr.serverapp import Grid
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from fedlearn.core.errors import ProtocolError
from fedlearn.flower import private
from server.superlink.link_grid import LinkGrid, reached

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
            with reached():
                return int(self._control.RegisterNode(request).node_id)
        except httpx.HTTPStatusError as error:
            raise _refused("register", name, error) from None

    def nodes(self) -> dict[int, str]:
        """All nodes that were ever enrolled: registered, online, offline or unregistered.

        Raises:
            LinkLostError: it does not answer.
        """
        with reached():
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
            with reached():
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
            with reached():
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
            with reached():
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
