"""What travels over HTTP, as parsers: a site's requests, and its coordinator's answers to it.

The gateway is the real one on a real socket; behind it is the real relay with Flower's own
state of a SuperLink, that knows one run and one node.
"""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import httpx
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto import fleet_pb2, node_pb2, run_pb2
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.superlink.main import create_app

from clients.supernode import refusals
from clients.supernode.fleet import Fleet, Incoming
from clients.supernode.refusals import NotEnrolledError, RunOverError
from fedlearn.flower import envelopes, private
from fedlearn.flower.envelope import SITE_GIVE, SITE_TAKE, Envelope
from server.superlink import broker, relay
from server.superlink.broker import Broker
from server.superlink.callers import Callers, Connection
from server.superlink.gateway import Gateway
from tests.attacks.fuzzing import Parser
from tests.server.superlink.test_broker import World

KEY: Final = ec.generate_private_key(ec.SECP384R1())
PUBLIC: Final = public_key_to_bytes(KEY.public_key())
ANSWERED: Final = frozenset(
    {200, 400, 401, 403, 404, 405, 408, 411, 412, 413, 414, 415, 422, 429, 431, 505}
)
"""What a request that is not as it should be may be answered with: nothing has failed."""


class Wire:
    """A SuperLink with one run and two nodes, of which the first is ours, and its relay."""

    def __init__(self) -> None:
        self.world = World(Broker(), keys=(PUBLIC, b"b"))
        self.node = self.world.nodes[0]
        self.app = create_app()
        self.app.include_router(relay.router)
        self.app.state.fedlearn_broker = self.world.broker
        self.app.state.linkstate_factory = self

    def state(self) -> object:
        """Flower's state, as its own routes look it up."""
        return self.world.state

    def upstream(self) -> httpx.ASGITransport:
        """The way to the relay; what it does not catch comes out of it."""
        return httpx.ASGITransport(self.app, raise_app_exceptions=True)

    def signed(self) -> dict[str, str]:
        """The head by which our node says who it is."""
        stamp = datetime.now(UTC).isoformat()
        return {
            "flwr-public-key": b64encode(PUBLIC).decode(),
            "flwr-signature": b64encode(sign_message(KEY, stamp.encode())).decode(),
            "flwr-timestamp": stamp,
        }

    def asked(self) -> bytes:
        """A question for a message."""
        return Envelope(_pull(self.node).SerializeToString()).encode()

    def answer(self) -> bytes:
        """An answer to the message that waits for our node."""
        message = self.world.message(self.node, _CONTENT)
        self.world.send(message)
        private.identify(run_id=self.world.run_id, node_id=self.node)
        reply = Message(_CONTENT, reply_to=message)
        with envelopes.packing() as packed:
            one = packed(reply)
            head = fleet_pb2.PushMessagesRequest(
                node=node_pb2.Node(node_id=self.node),
                messages_list=[one.head],
                message_object_trees=[one.tree],
            )
            objects = tuple(content.deflate() for content in one.objects.values())
        return Envelope(head.SerializeToString(), objects).encode()

    def post(self, path: str, body: bytes) -> int:
        """What the relay answers to our node."""

        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.upstream(), base_url="https://x") as client:
                return await client.post(path, content=body, headers=self.signed())

        with patch.object(broker, "HOLD_SECONDS", 0.0):
            status = asyncio.run(asked()).status_code
        assert status in ANSWERED, status
        return status


_CONTENT: Final = RecordDict({"a": ConfigRecord({"b": 1, "c": [1.0, 2.0], "d": b"x" * 50})})


def _pull(node: int) -> fleet_pb2.PullMessagesRequest:
    return fleet_pb2.PullMessagesRequest(node=node_pb2.Node(node_id=node))


@cache
def _wire() -> Wire:
    return Wire()


# --- The gateway, byte by byte ----------------------------------------------------------


class PlainServer(uvicorn.Server):
    """The gateway's connections without TLS, whose end a test can say: what is fuzzed is behind."""

    async def startup(self, sockets: object = None) -> None:
        """Listen."""
        await super().startup(sockets=[])
        given = {
            "config": self.config,
            "server_state": self.server_state,
            "app_state": self.lifespan.state,
        }
        callers, loop = Callers(), asyncio.get_running_loop()
        made = await loop.create_server(lambda: Connection(callers, **given), "127.0.0.1", 0)
        self.port = made.sockets[0].getsockname()[1]


@dataclass
class Gate:
    """A gateway in a thread of this process, in front of the relay."""

    port: int

    @classmethod
    def afresh(cls) -> Gate:
        """Start one before a SuperLink that has seen nothing: neither minutes in which no node gave
        a sign of life, nor requests that a fuzz has changed."""
        _wire.cache_clear()
        _gate.cache_clear()
        return cls.open()

    @classmethod
    def open(cls) -> Gate:
        """Start it."""
        client = httpx.AsyncClient(transport=_wire().upstream(), base_url="https://x")
        gateway = Gateway("https://x", client, {PUBLIC: "a"}, lambda site, ahead: None)
        server = PlainServer(uvicorn.Config(gateway, ws="none", log_config=None, lifespan="off"))
        threading.Thread(target=server.run, daemon=True).start()
        deadline = time.monotonic() + 30
        while not hasattr(server, "port"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return cls(server.port)

    def ask(self, data: bytes, patience: float = 0.05) -> list[int]:
        """The status of every answer to some bytes, on a connection that is closed behind them.

        That is when an answer has begun, or after so many seconds: half a request has none.
        """
        answer = b""
        one = socket.create_connection(("127.0.0.1", self.port), 5)
        with one, suppress(ConnectionError):
            one.sendall(data)
            select.select([one], [], [], patience)
            one.shutdown(socket.SHUT_WR)
            while part := one.recv(65536):
                answer += part
        found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
        assert set(found) <= ANSWERED, answer[:300]
        return found


@cache
def _gate() -> Gate:
    return Gate.open()


def a_request(_: Path) -> bytes:
    """An answer of our node, as it goes over the line."""
    body, head = _wire().answer(), _wire().signed()
    lines = [f"POST {SITE_GIVE} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in head.items())]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(folder: Path) -> bytes:
    """The same in parts."""
    head, _, body = a_request(folder).partition(b"\r\n\r\n")
    head = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", head)
    parts = [body[i : i + 100] for i in range(0, len(body), 100)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + b"\r\n\r\n" + chunks + b"0\r\n\r\n"


# --- A site, and its coordinator's answers ----------------------------------------------


class GaveUpError(Exception):
    """The site would wait, and ask again."""


def _waiting(reason: str, final: bool) -> None:
    raise GaveUpError(reason)


@dataclass
class Coordinator:
    """A coordinator that answers a site by what is set; everything else is not to be had."""

    answers: dict[str, bytes]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """One answer."""
        for path, content in self.answers.items():
            if request.url.path.endswith(path):
                return httpx.Response(200, content=content)
        return httpx.Response(404, json={"code": 1, "detail": "no"})


@cache
def _site() -> tuple[Fleet, Coordinator]:
    made = Fleet("coordinator:1", KEY, ssl.create_default_context(), _waiting)
    coordinator = Coordinator({})
    made._client._client._transport = httpx.MockTransport(coordinator)
    made._node = node_pb2.Node(node_id=1)
    return made, coordinator


@cache
def _good() -> dict[str, bytes]:
    private.identify(run_id=7, node_id=1)
    with envelopes.packing() as packed:
        one = packed(private.set_message_id(Message(_CONTENT, 1, "query.hello"), "m"))
        head = fleet_pb2.PullMessagesResponse(
            messages_list=[one.head], message_object_trees=[one.tree]
        )
        objects = tuple(content.deflate() for content in one.objects.values())
    run = run_pb2.Run(run_id=7)
    run.override_config["config"].string = "{}"
    taken = fleet_pb2.PushMessagesResponse(session_id="s")
    return {
        SITE_TAKE: Envelope(head.SerializeToString(), objects).encode(),
        "get-run": run_pb2.GetRunResponse(run=run).SerializeToString(),
        SITE_GIVE: Envelope(taken.SerializeToString()).encode(),
        "activate-node": fleet_pb2.ActivateNodeResponse(node_id=9).SerializeToString(),
    }


def _received(path: str) -> Callable[[bytes, Path], Incoming | None]:
    """What a site makes of a message of which the answer at `path` is something else."""

    def read(data: bytes, _: Path) -> Incoming | None:
        site, coordinator = _site()
        coordinator.answers = {**_good(), path: data}
        site._configs.clear()
        return site.receive()

    return read


def _replied(data: bytes, _: Path) -> None:
    site, coordinator = _site()
    coordinator.answers = _good()
    incoming = site.receive()
    assert incoming is not None
    coordinator.answers = {**_good(), SITE_GIVE: data}
    site.reply(Message(_CONTENT, reply_to=incoming.message), 0.1)


def _activated(data: bytes, _: Path) -> int:
    site, coordinator = _site()
    coordinator.answers = {**_good(), "activate-node": data}
    try:
        return site.activate(None)
    finally:
        site._stop_beating()
        site._node = node_pb2.Node(node_id=1)


def _no(_: Path) -> bytes:
    code = int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED)
    return json.dumps({"code": code, "detail": "no", "date": "x"}).encode()


def _refused(data: bytes, _: Path) -> Exception:
    date = data.decode("latin1").translate(_NO_BREAKS)[:100]
    heads = {"date": date.encode("ascii", "replace").decode()}
    refusals.refusal(httpx.Response(401, content=data, headers=heads))
    return refusals.refusal(httpx.Response(412, content=data))


_NO_BREAKS: Final[Any] = dict.fromkeys(map(ord, "\r\n\0"), " ")
_OVER = (RunOverError, NotEnrolledError)

WIRES = [
    Parser("gateway request", a_request, lambda data, _: _gate().ask(data), (OSError,)),
    Parser("gateway chunks", chunked, lambda data, _: _gate().ask(data), (OSError,)),
    Parser(
        "relay take", lambda _: _wire().asked(),
        lambda data, _: _wire().post(SITE_TAKE, data), (),
    ),
    Parser(
        "relay give", lambda _: _wire().answer(),
        lambda data, _: _wire().post(SITE_GIVE, data), (),
    ),
    Parser("site's message", lambda _: _good()[SITE_TAKE], _received(SITE_TAKE), _OVER),
    Parser("site's run", lambda _: _good()["get-run"], _received("get-run"), _OVER),
    Parser("site's receipt of an answer", lambda _: _good()[SITE_GIVE], _replied, _OVER),
    Parser("site's number", lambda _: _good()["activate-node"], _activated, (NotEnrolledError,)),
    Parser("coordinator's no", _no, _refused, ()),
]  # fmt: skip
