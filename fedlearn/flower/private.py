"""The private names of flwr that our own apps, and apps of others, touch, each once.

No other file imports one but those that carry messages: `fedlearn.flower.envelopes`, the
site's `clients.supernode`, and the coordinator's `server.superlink`; a test sees to it. For
flwr 1.41 and 1.42; `tests/fedlearn/flower/test_private.py` fails loudly when one changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.server.strategy.aggregate import aggregate_bulyan as aggregate_bulyan
from flwr.server.strategy.aggregate import aggregate_krum as aggregate_krum
from flwr.server.strategy.aggregate import aggregate_median as aggregate_median
from flwr.server.strategy.aggregate import aggregate_trimmed_avg as aggregate_trimmed_avg
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

FlowerRun = Run
"""Flower's description of a run; only grids hand it around."""

AppFunction = ClientAppCallable
"""What a mod is wrapped around: a function of a ClientApp, from message and context to reply."""

average_of_metrics = aggregate_metricrecords
"""What Flower's strategies do with metrics where their user says nothing."""

CLIENT_APP_FAILED = 2
"""Flower's error code for a ClientApp that raised."""

NODE_UNAVAILABLE = 5
"""Flower's error code for a node that has not been heard of for a while."""


def new_run(run_id: int) -> FlowerRun:
    """A `Run` for our own grid; also tells this process who it is: `Message` insists on it."""
    identify(run_id=run_id, node_id=1)
    return Run.create_empty(run_id)


def identify(*, run_id: int, node_id: int, task_id: int = 1) -> None:
    """Tell this process in whose name it makes messages from now on."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task_id, run_id, node_id


def set_message_id(message: Message, message_id: str) -> Message:
    """Give `message` its id, as a transport would; Flower has no public setter."""
    message.metadata.__dict__["_message_id"] = message_id
    return message


def separate(message: Message) -> Message:
    """A message of its own: strategies let all messages of a round share one RecordDict."""
    content = RecordDict({key: record.copy() for key, record in message.content.items()})
    return make_message(message.metadata, content=content)


def with_content(message: Message, content: RecordDict) -> Message:
    """The same message, to the same peer and with the same id, around another content."""
    return make_message(message.metadata, content=content)


def without(reply: Message, record: str) -> Message:
    """The reply without one of its records: what has been added up need not be kept."""
    return with_content(
        reply, RecordDict({name: r for name, r in reply.content.items() if name != record})
    )


def content_to_bytes(content: RecordDict) -> bytes:
    """All records of a message as bytes (protobuf), to be sealed."""
    data: bytes = recorddict_to_proto(content).SerializeToString()
    return data


def content_from_bytes(data: bytes | memoryview) -> RecordDict:
    """The inverse of `content_to_bytes`, for bytes that were authenticated.

    Raises:
        ValueError: their sender put something else there.
    """
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(bytes(data)))
    except (DecodeError, AttributeError, TypeError, KeyError):
        # Flower's reader trusts that every record is of one of its kinds.
        raise ValueError("the bytes are not a message's records") from None


def from_server(reply: Message) -> Message:
    """A reply in the server's own name: what stands for all sites is not from one of them."""
    reply.metadata.__dict__["_src_node_id"] = reply.metadata.dst_node_id
    return reply


def error_reply(message: Message, reason: str) -> Message:
    """The reply to `message` that says its ClientApp failed."""
    return Message(Error(code=CLIENT_APP_FAILED, reason=reason), reply_to=message)


def run_on_ray(
    server: ServerApp,
    client: ClientApp,
    *,
    sites: int,
    resources: Mapping[str, float],
    run_config: dict[str, bool | float | int | str],
    app_dir: str,
) -> None:
    """Run both apps in Flower's simulation runtime, which starts Ray.

    `app_dir` holds a pyproject.toml whose `[tool.flwr.app.config]` lists the
    keys of `run_config`: this runtime reads defaults from a folder.
    """
    from flwr.simulation.run_simulation import _run_simulation

    run = new_run(run_id=1)
    run.override_config = run_config
    run.primary_task_id = 1
    run.federation_id = NOOP_FEDERATION_ID
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    _run_simulation(
        num_supernodes=sites,
        exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        client_app=client,
        server_app=server,
        server_app_context=context,
        backend_config={
            "client_resources": dict(resources),
            "init_args": {"log_to_driver": False, "logging_level": "error"},
        },
        run=run,
        app_dir=app_dir,
        is_app=True,
    )


def redirect_log(handler: logging.Handler) -> Callable[[], None]:
    """Send Flower's log to `handler` instead of the screen; returns the undo."""
    logger = logging.getLogger("flwr")
    before, propagate = list(logger.handlers), logger.propagate
    logger.handlers[:] = [handler]
    logger.propagate = False

    def undo() -> None:
        logger.handlers[:] = before
        logger.propagate = propagate

    return undo
