"""Who is connected to the gateway, and how much of it one caller may have.

A caller is who holds a certificate; where none is asked for, an address. A caller that
opens more connections than it may loses its oldest; one that holds more bytes of unfinished
requests than it may is refused; a connection on which nothing whole comes for a while is
closed. So a caller takes from the others neither memory nor connections, whatever it does.

Strangers get no further than their handshake, for which they have `HANDSHAKE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from cryptography import x509
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from fedlearn.crypto.certificates import node_public_key

HANDSHAKE_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 30.0
"""From a connection, or from its last answer, to the head of the next request."""

MOST_CONNECTIONS: Final = 16
"""Of one caller. A site has three: messages, heartbeats, and what did not fit a message."""

MOST_BYTES: Final = 48 * 1024 * 1024
"""Of unfinished requests of one caller: the largest, and small ones beside it."""


@dataclass
class Caller:
    """Whose connections these are; `key` is the PEM of its certificate's key, if it has one."""

    name: str
    key: bytes | None
    connections: dict[Connection, None] = field(default_factory=dict)
    held: int = 0
    """Bytes of requests that are not answered yet."""

    def arrived(self, one: Connection) -> None:
        """Count a connection; the oldest goes where there are too many."""
        self.connections[one] = None
        if len(self.connections) > MOST_CONNECTIONS:
            oldest = next(iter(self.connections))
            del self.connections[oldest]
            oldest.transport.abort()

    @contextmanager
    def request(self) -> Iterator[Callable[[int], bool]]:
        """While it lasts: a function that takes so many bytes more, where the caller may."""
        mine = 0

        def take(count: int) -> bool:
            nonlocal mine
            mine, self.held = mine + count, self.held + count
            return self.held <= MOST_BYTES

        try:
            yield take
        finally:
            self.held -= mine


@dataclass
class Callers:
    """All of them; those without a connection are forgotten."""

    known: dict[str, Caller] = field(default_factory=dict)

    def of(self, transport: asyncio.Transport) -> Caller:
        """Whose a connection is."""
        name, key = _who(transport)
        return self.known.setdefault(name, Caller(name, key))

    def left(self, caller: Caller, one: Connection) -> None:
        """Forget a connection."""
        caller.connections.pop(one, None)
        if not caller.connections:
            self.known.pop(caller.name, None)


def _who(transport: asyncio.Transport) -> tuple[str, bytes | None]:
    tls = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if certificate:
        key = node_public_key(x509.load_der_x509_certificate(certificate))
        return hashlib.sha256(certificate).hexdigest(), key
    peer = transport.get_extra_info("peername")
    return f"address {peer[0] if peer else ''}", None


class Connection(AutoHTTPProtocol):  # type: ignore[valid-type,misc]
    """uvicorn's connection, with its caller in the state of every request."""

    def __init__(self, callers: Callers, **given: Any) -> None:
        super().__init__(**given)
        self._callers, self._state = callers, given["app_state"]
        self._caller: Caller | None = None
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Find out whose it is; a handshake is over by then."""
        super().connection_made(transport)
        self._caller = self._callers.of(transport)
        self._caller.arrived(self)
        self.app_state = {**self._state, "caller": self._caller, "connection": self}
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.busy()
        if self._caller is not None:
            self._callers.left(self._caller, self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request, not for ever."""
        self._wait()
        super().on_response_complete()

    def busy(self) -> None:
        """The head of a request is whole."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _wait(self) -> None:
        self.busy()
        left = self.transport.get_write_buffer_size()
        self._idle = self.loop.call_later(IDLE_SECONDS, self._waited, left)

    def _waited(self, before: int) -> None:
        """End what is idle, or stuck; an answer that is fetched slowly has its time."""
        left = self.transport.get_write_buffer_size()
        if 0 < left < before:
            self._wait()
        elif left:
            self.transport.abort()
        else:
            self.transport.close()


class CallerServer(uvicorn.Server):
    """uvicorn's server, whose connections know their callers, and whose handshakes end."""

    async def startup(self, sockets: object = None) -> None:
        """Listen."""
        await super().startup(sockets=[])
        loop, callers = asyncio.get_running_loop(), Callers()
        given = {
            "config": self.config,
            "server_state": self.server_state,
            "app_state": self.lifespan.state,
        }
        server = await loop.create_server(
            lambda: Connection(callers, **given),
            host=self.config.host,
            port=self.config.port,
            ssl=self.config.ssl,
            backlog=self.config.backlog,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        self.servers.append(server)


def allow_many_files() -> None:
    """As many connections as the machine lets this process have: a handshake is one, too."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
