"""Four paths beside Flower's own that take and give whole messages.

Flower's API wants a request for every object of a message, and answers at once whether
there is anything for a node. These paths take and give envelopes (`fedlearn.flower.envelope`) and
hold a question until there is an answer to it. Flower's own paths stay as they are, for
sites that run its SuperNode.

`main` does what `flower-superlink` does, from the same arguments, but for the router that is
added and for the news that it asks for and sends when it starts.

Uses private names of flwr 1.41 and 1.42; `tests/server/superlink/test_relay.py` fails loudly when
one of them changes.
"""

from __future__ import annotations

import sys
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Final, TypeVar

import uvicorn
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.dependencies.runtime import TaskDependency
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.superlink.cli.flower_superlink import (
    SuperLinkLifespan,
    _parse_superlink_lifespan_config,
)
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from starlette.concurrency import run_in_threadpool

from fedlearn.flower.envelope import MOST_HEAD, RUN_GIVE, RUN_TAKE, SITE_GIVE, SITE_TAKE, Envelope
from fedlearn.flower.envelopes import parsed
from server.superlink.broker import Broker

_QUESTION: Final = 1024
"""Bytes of a site's question for a message, at most: it names the site, and nothing else."""

State = Annotated[InMemoryLinkState, Depends(get_linkstate)]
Head = TypeVar("Head")

router = APIRouter()


def get_broker(request: Request) -> Broker:
    """The broker of this SuperLink."""
    broker: Broker = request.app.state.fedlearn_broker
    return broker


TheBroker = Annotated[Broker, Depends(get_broker)]


async def get_node(request: Request, state: State) -> int:
    """The node whose key has signed a request, by Flower's own check.

    Before the body is looked at: reading one takes time, which is for enrolled nodes.
    """
    node = None
    with suppress(KeyError, ValueError):
        key = b64decode(request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        node = state.get_node_id_by_public_key(key)
    request.state.protobuf_request = PullMessagesRequest(node=Node(node_id=node or 0))
    await run_in_threadpool(authenticate_node, request)  # refuses an unknown key, too
    return node or 0


TheNode = Annotated[int, Depends(get_node)]


@router.post(SITE_TAKE)
async def take_for_site(
    request: Request, state: State, broker: TheBroker, node: TheNode
) -> Response:
    """The next message for a node, held until there is one."""
    asked, _ = await _read(PullMessagesRequest, request, _QUESTION)
    _check_node(node, asked)
    visit = broker.visit(node)
    found = await broker.sites.until(
        lambda: broker.next_for(asked, visit, state), lambda: broker.is_last(node, visit)
    )
    return _answer(found or Envelope(b""))


@router.post(SITE_GIVE)
async def give_from_site(
    request: Request, state: State, broker: TheBroker, node: TheNode
) -> Response:
    """A node's answer to a message."""
    head, envelope = await _read(PushMessagesRequest, request)
    _check_node(node, head)
    if len(head.messages_list) != 1 or len(head.message_object_trees) != 1:
        raise HTTPException(400)
    if head.messages_list[0].metadata.src_node_id != node:
        # Another site's name, or this one's from before its coordinator was started anew.
        raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, "an answer of another node")
    try:
        answered = await broker.executor.run(lambda: broker.answered(head, envelope, state))
    # Flower's: no kind, no name of an object, a run that is none; neither a content nor an error.
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400) from None
    broker.run.notify()
    return _answer(Envelope(answered))


@router.post(RUN_GIVE)
async def give_from_run(
    request: Request, state: State, broker: TheBroker, task: TaskDependency
) -> Response:
    """Messages of a run to its nodes."""
    head, envelope = await _read(PushAppMessagesRequest, request)
    answered = await broker.executor.run(lambda: broker.sent(head, envelope, state, task))
    broker.sites.notify()
    return _answer(Envelope(answered))


@router.post(RUN_TAKE)
async def take_for_run(
    request: Request, state: State, broker: TheBroker, task: TaskDependency
) -> Response:
    """Replies to messages of a run, held until there is one."""
    asked, _ = await _read(PullAppMessagesRequest, request)
    found = await broker.run.until(lambda: broker.collected(asked, state, task))
    return _answer(found or Envelope(b""))


async def _read(
    kind: type[Head], request: Request, most: int | None = None
) -> tuple[Head, Envelope]:
    """A request's envelope, and what its head says; of more than `most` bytes nothing is parsed."""
    body = await request.body()
    if most is not None and len(body) > most:
        raise HTTPException(413)
    try:
        envelope = Envelope.decode(body)
        if len(envelope.head) > MOST_HEAD:
            raise HTTPException(413)
        return parsed(kind, envelope.head), envelope
    except ValueError:
        raise HTTPException(400) from None


def _check_node(node: int, asked: PullMessagesRequest | PushMessagesRequest) -> None:
    if asked.node.node_id != node:
        raise HTTPException(401)


def _answer(envelope: Envelope) -> Response:
    return Response(envelope.encode(), media_type="application/octet-stream")


_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the gateway keeps a connection without use: it never meets a closed one."""


def main(arguments: Sequence[str]) -> None:
    """Serve until this process is told to end; `arguments` are those of `flower-superlink`."""
    sys.argv = ["flower-superlink", *arguments]
    config = _parse_superlink_lifespan_config()
    app = create_app(config, SuperLinkLifespan)
    app.state.fedlearn_broker = Broker()
    app.include_router(router)
    uvicorn.run(
        app,
        host=config.host,
        port=config.port,
        access_log=False,
        log_config=get_uvicorn_log_config(console_handler.level),
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
