"""What sites reach: TLS 1.3 with client certificates, and of Flower's APIs only the fleet's.

A SuperLink serves three APIs on one port: for sites (fleet), for whoever starts runs
(control) and for the process that carries a run out (runtime); it asks nobody but
nodes who they are. So it listens on this machine alone, and this process stands in
front of it: it knows the paths that a site needs and nothing else, asks for a
certificate that the coordinator was told of, and passes bodies on as they are.

Run as a process of its own by `server.deployment`.
"""

from __future__ import annotations

import argparse
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn

from fedlearn.flower.envelope import SITE_GIVE, SITE_TAKE

FLEET_PATHS: Final = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        *("activate-node", "deactivate-node", "send-node-heartbeat"),
        *("pull-messages", "push-messages", "pull-object", "push-object"),
        *("confirm-message-received", "get-run", "get-fab"),
    )
)
"""All that a node calls. Registering is not among them: the coordinator registers nodes."""

SITE_PATHS: Final = FLEET_PATHS | {SITE_TAKE, SITE_GIVE}
"""All that sites call: nodes, and those that take and give whole messages."""

MAX_BODY: Final = 32 * 1024 * 1024
"""Bytes of a request: an envelope holds less, and so does one of Flower's chunks of 5 MiB."""

_PASSED: Final = frozenset({b"content-type", b"accept"})
_PASSED_PREFIXES: Final = (b"flwr-", b"x-flwr-")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class TooLargeError(Exception):
    """A request body beyond `MAX_BODY`."""


class Gateway:
    """An ASGI app in front of the SuperLink at `upstream` (https://host:port)."""

    def __init__(self, upstream: str, client: httpx.AsyncClient) -> None:
        self._upstream, self._client = upstream, client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/health"):
            await _respond(send, 200, b'{"status":"ok"}')
        elif method == "POST" and path in SITE_PATHS:
            await self._pass_on(scope, receive, send)
        else:
            await _respond(send, 404, b"")

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _body(receive)
        except TooLargeError:
            return await _respond(send, 413, b"")
        headers = [*_passed(scope["headers"]), (b"accept-encoding", b"identity")]
        try:
            answer = await self._client.post(
                self._upstream + scope["path"], content=body, headers=headers
            )
        except httpx.TransportError:
            return await _respond(send, 503, b"")
        back = _passed(answer.headers.raw)
        return await _respond(send, answer.status_code, answer.content, back)


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lower = [(name.lower(), value) for name, value in headers]
    return [one for one in lower if one[0] in _PASSED or one[0].startswith(_PASSED_PREFIXES)]


async def _body(receive: Receive) -> bytes:
    parts = bytearray()
    while True:
        event = await receive()
        parts += event.get("body", b"")
        if len(parts) > MAX_BODY:
            raise TooLargeError
        if not event.get("more_body"):
            return bytes(parts)


async def _respond(
    send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    length = (b"content-length", str(len(body)).encode())
    start = {"type": "http.response.start", "status": status, "headers": [*headers, length]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def server_context(tls: Path, sites: str | None) -> ssl.SSLContext:
    """TLS 1.3 under the key and chain in `tls`.

    `sites` (PEM) are the certificates, or authorities of certificates, of those who
    may connect; None lets everybody connect, and leaves it to Flower's node keys.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls)
    if sites is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=sites)
    return context


def main(arguments: Sequence[str]) -> None:
    """Serve until this process is told to end."""
    parser = argparse.ArgumentParser()
    for name in ("host", "tls", "upstream", "authority"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sites")
    options = parser.parse_args(arguments)
    sites = Path(options.sites).read_text(encoding="utf-8") if options.sites else None
    verify = ssl.create_default_context(cafile=options.authority)
    # Every site keeps one connection busy by waiting: there is no limit to their number here.
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=60.0
    )
    client = httpx.AsyncClient(verify=verify, timeout=60.0, limits=limits)
    config = uvicorn.Config(
        Gateway(f"https://{options.upstream}", client),
        host=options.host,
        port=options.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=1000,
        timeout_keep_alive=30,
    )
    config.load()
    config.ssl = server_context(Path(options.tls), sites)
    uvicorn.Server(config).run()
