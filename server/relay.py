"""Four paths beside Flower's own that take and give whole messages.

Flower's API wants a request for every object of a message, and answers at once whether
there is anything for a node. These paths take and give parcels (`fedlearn.parcel`) and
hold a question until there is an answer to it. Flower's own paths stay as they are, for
sites that run its SuperNode.

Uses private names of flwr 1.41 and 1.42; `tests/server/test_relay.py` fails loudly when
one of them changes.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.dependencies.runtime import TaskDependency
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.concurrency import run_in_threadpool

from fedlearn.parcel import RUN_GIVE, RUN_TAKE, SITE_GIVE, SITE_TAKE, Parcel
from server.post import Post

State = Annotated[LinkState, Depends(get_linkstate)]
Head = TypeVar("Head")

router = APIRouter()


def get_post(request: Request) -> Post:
    """The post of this SuperLink; made by `server.superlink_program`."""
    post: Post = request.app.state.fedlearn_post
    return post


ThePost = Annotated[Post, Depends(get_post)]


@router.post(SITE_TAKE)
async def take_for_site(request: Request, state: State, post: ThePost) -> Response:
    """The next message for a node, held until there is one."""
    parcel = await _parcel(request)
    asked = _parsed(PullMessagesRequest, parcel)
    await _check_node(request, asked)
    node = int(asked.node.node_id)
    visit = post.visit(node)
    found = await post.sites.until(
        lambda: post.next_for(asked, visit, state), lambda: post.is_last(node, visit)
    )
    return _answer(found or Parcel(b""))


@router.post(SITE_GIVE)
async def give_from_site(request: Request, state: State, post: ThePost) -> Response:
    """A node's answer to a message."""
    parcel = await _parcel(request)
    head = _parsed(PushMessagesRequest, parcel)
    await _check_node(request, head)
    if len(head.messages_list) != 1 or len(head.message_object_trees) != 1:
        raise HTTPException(400)
    if head.messages_list[0].metadata.src_node_id != head.node.node_id:
        # Another site's name, or this one's from before its coordinator was started anew.
        raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, "an answer of another node")
    said = await run_in_threadpool(post.answered, head, parcel.objects, state)
    post.run.ring()
    return _answer(Parcel(said))


@router.post(RUN_GIVE)
async def give_from_run(
    request: Request, state: State, post: ThePost, task: TaskDependency
) -> Response:
    """Messages of a run to its nodes."""
    parcel = await _parcel(request)
    head = _parsed(PushAppMessagesRequest, parcel)
    said = await run_in_threadpool(post.sent, head, parcel.objects, state, task)
    post.sites.ring()
    return _answer(Parcel(said))


@router.post(RUN_TAKE)
async def take_for_run(
    request: Request, state: State, post: ThePost, task: TaskDependency
) -> Response:
    """Replies to messages of a run, held until there is one."""
    asked = _parsed(PullAppMessagesRequest, await _parcel(request))
    found = await post.run.until(lambda: post.collected(asked, state, task))
    return _answer(found or Parcel(b""))


async def _parcel(request: Request) -> Parcel:
    try:
        return Parcel.decode(await request.body())
    except ValueError:
        raise HTTPException(400) from None


def _parsed(kind: type[Head], parcel: Parcel) -> Head:
    message: Any = kind()
    try:
        message.ParseFromString(parcel.head)
    except DecodeError:
        raise HTTPException(400) from None
    return message  # type: ignore[no-any-return]


async def _check_node(request: Request, asked: PullMessagesRequest | PushMessagesRequest) -> None:
    """Flower's own check of a node's signature, which looks for the parsed request in the state."""
    request.state.protobuf_request = asked
    await run_in_threadpool(authenticate_node, request)


def _answer(parcel: Parcel) -> Response:
    return Response(parcel.encode(), media_type="application/octet-stream")
