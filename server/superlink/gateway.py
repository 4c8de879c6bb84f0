"""What sites reach: TLS 1.3 with client certificates, and of Flower's APIs only the fleet's.

A SuperLink serves three APIs on one port: for sites (fleet), for whoever starts runs
(control) and for the process that carries a run out (runtime); it asks nobody but
nodes who they are. So it listens on this machine alone, and this process stands in
front of it: it knows the paths that a site needs and nothing else, asks for a
certificate that the coordinator was told of, reads a body only once it knows whose it is,
and passes it on as it is. What one caller may have of it is in `server.superlink.callers`.

Run as a process of its own by `server.deployment`.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import ssl
from base64 import b64decode
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import uvicorn
from cryptography import x509
from cryptography.x509.oid import NameOID
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from fedlearn.crypto.certificates import node_public_key
from fedlearn.flower.envelope import COPIED_HEADER, SITE_GIVE, SITE_TAKE
from server.superlink.callers import Caller, CallerServer, allow_many_files
from server.superlink.copies import Copies

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

PAUSE_SECONDS: Final = 30.0
"""Between two parts of a request."""

BODY_SECONDS: Final = 900.0
"""For all of a request: 32 MiB in these are 300 kbit/s."""

_CLOSE: Final = ((b"connection", b"close"),)
_PASSED: Final = frozenset({b"content-type", b"accept"})
_PASSED_PREFIXES: Final = (b"flwr-", b"x-flwr-")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Tell(Protocol):
    """Who is told what is noticed of a site."""

    def __call__(self, event: str, site: str, **fields: object) -> None:
        """An event, as the coordinator's log has it."""


@dataclass
class RefusedError(Exception):
    """A request that is not passed on; `status` says why."""

    status: int


class Gateway:
    """An ASGI app in front of the SuperLink at `upstream` (https://host:port).

    `nodes` are the keys (PEM) of those who may ask. Who asks is known from the head of a
    request and from its connection; no body of anybody else is read. `tell` is given what is
    noticed of sites, as an event and what it is about.
    """

    def __init__(
        self, upstream: str, client: httpx.AsyncClient, nodes: Mapping[bytes, str], tell: Tell
    ) -> None:
        self._upstream, self._client, self._nodes = upstream, client, nodes
        self._clocks = Clocks(lambda site, ahead: tell("clock", site, seconds_ahead=round(ahead)))
        self._copies = Copies(lambda site: tell("copied", site))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        state = scope.get("state", {})
        if connection := state.get("connection"):
            connection.busy()
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/health"):
            await _respond(send, 200, b'{"status":"ok"}')
        elif method != "POST" or path not in SITE_PATHS:
            await _respond(send, 404, b"")
        else:
            await self._pass_on(scope, receive, send, state.get("caller") or Caller("", None))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        headers = dict(scope["headers"])
        if not may_ask(headers, self._nodes, caller.key, datetime.now(UTC)):
            return await _respond(send, 401, b"", _CLOSE)
        noticed: list[tuple[bytes, bytes]] = []
        if caller.key is not None:
            site, now = self._nodes[caller.key], datetime.now(UTC)
            self._clocks.look(site, headers, now)
            if self._copies.look(site, headers, now):
                noticed = [(COPIED_HEADER.encode(), b"1")]
        try:
            with caller.request() as take:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await _body(receive, headers, take)
                answer = await self._asked(scope, body)
        except RefusedError as error:
            return await _respond(send, error.status, b"", _CLOSE)
        except TimeoutError:
            return await _respond(send, 408, b"", _CLOSE)
        back = [*_passed(answer.headers.raw), *noticed]
        return await _respond(send, answer.status_code, answer.content, back)

    async def _asked(self, scope: Scope, body: bytes) -> httpx.Response:
        headers = [*_passed(scope["headers"]), (b"accept-encoding", b"identity")]
        try:
            return await self._client.post(
                self._upstream + scope["path"], content=body, headers=headers
            )
        except httpx.TransportError:
            raise RefusedError(503) from None


def may_ask(
    headers: Mapping[bytes, bytes], nodes: Collection[bytes], certified: bytes | None, now: datetime
) -> bool:
    """Whether the head of a request is of an enrolled node, before anything of its body is read.

    On a connection with a certificate, whose key is that of the node, the key must be that
    one: it is known who speaks. Without, the node's signature of the time is checked here as
    the SuperLink does it once more.
    """
    try:
        key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER.encode()], validate=True)
        if certified is not None:
            return key in nodes and hmac.compare_digest(key, certified)
        signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER.encode()], validate=True)
        stamp = headers[TIMESTAMP_HEADER.encode()]
        age = (now - datetime.fromisoformat(stamp.decode("ascii"))).total_seconds()
    except (KeyError, ValueError, TypeError):
        return False
    fresh = -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
    return key in nodes and fresh and verify_signature(bytes_to_public_key(key), stamp, signature)


CLOCK_SECONDS: Final = 60.0
"""How often it is told again."""


class Clocks:
    """Looks whether the clocks of sites are right: what they sign says the time, and one that is
    wrong is refused by Flower as if its key were."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self._tell = tell
        self._noted: dict[str, datetime] = {}

    def look(self, site: str, headers: Mapping[bytes, bytes], now: datetime) -> None:
        """Tell of a time that Flower will not take."""
        try:
            stamp = datetime.fromisoformat(headers[TIMESTAMP_HEADER.encode()].decode("ascii"))
            ahead = (stamp - now).total_seconds()
        except (KeyError, ValueError, TypeError):
            return
        behind = TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
        last = self._noted.get(site)
        lately = last is not None and (now - last).total_seconds() < CLOCK_SECONDS
        if lately or -behind < ahead < SYSTEM_TIME_TOLERANCE:
            return
        self._noted[site] = now
        self._tell(site, ahead)


def _tell(event: str, site: str, **fields: object) -> None:
    """An event in a line of the log, which the coordinator looks for."""
    print(json.dumps({"event": event, "site": site, **fields}), flush=True)


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lower = [(name.lower(), value) for name, value in headers]
    return [one for one in lower if one[0] in _PASSED or one[0].startswith(_PASSED_PREFIXES)]


async def _body(
    receive: Receive, headers: Mapping[bytes, bytes], take: Callable[[int], bool]
) -> bytes:
    """All of a request, if it is not too large, not too slow, and its caller may hold it."""
    if int(headers.get(b"content-length", b"0")) > MAX_BODY:
        raise RefusedError(413)
    parts = bytearray()
    while True:
        event = await asyncio.wait_for(receive(), PAUSE_SECONDS)
        if event["type"] == "http.disconnect":
            raise RefusedError(400)
        part = event.get("body", b"")
        parts += part
        if len(parts) > MAX_BODY:
            raise RefusedError(413)
        if not take(len(part)):
            raise RefusedError(429)
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


def _name_in(certificate: x509.Certificate) -> str:
    """What the owner of a certificate is called in it."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else "?"


def main(arguments: Sequence[str]) -> None:
    """Serve until this process is told to end."""
    parser = argparse.ArgumentParser()
    for name in ("host", "tls", "upstream", "authority", "sites"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--without-certificates", action="store_true")
    options = parser.parse_args(arguments)
    sites = Path(options.sites).read_text(encoding="utf-8")
    nodes = {
        node_public_key(one): _name_in(one)
        for one in x509.load_pem_x509_certificates(sites.encode())
    }
    verify = ssl.create_default_context(cafile=options.authority)
    # Every site keeps one connection busy by waiting: there is no limit to their number here.
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=60.0
    )
    client = httpx.AsyncClient(verify=verify, timeout=60.0, limits=limits)
    config = uvicorn.Config(
        Gateway(f"https://{options.upstream}", client, nodes, _tell),
        host=options.host,
        port=options.port,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=int(BODY_SECONDS),  # ours is the one that ends what is idle
    )
    config.load()
    config.ssl = server_context(Path(options.tls), None if options.without_certificates else sites)
    allow_many_files()
    CallerServer(config).run()
