"""The web server of a page: loopback alone, one person, a page and what its forms decide.

Of the standard library, which is enough for one browser; what is asked for is checked by
`fedlearn.loopback.guard` before anything is read.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Final, cast
from urllib.parse import parse_qs

from fedlearn.core.errors import ConfigError, FedlearnError
from fedlearn.loopback.guard import Guard, Headers
from fedlearn.loopback.look import note, style_hash

log = logging.getLogger(__name__)

Fields = Mapping[str, str]
"""Of a form, each once."""

MOST_BYTES: Final = 4096
"""Of a form."""

IDLE_SECONDS: Final = 10.0
"""After which a connection that says nothing is closed."""

_CLOSED: Final = "Nothing is shown here. Open the link that `{command}` has printed."
_USED: Final = (
    "This link was opened before, or is none. Where it was not you, end `{command}` (Ctrl-C); "
    "start it again for another link."
)
_FOREIGN: Final = "This was not sent from a page of `{command}`. Nothing was decided."


@dataclass
class Pages(ABC):
    """What is shown to one person, and done for them; `command` is what they have started."""

    command: str
    _notice: str = field(default="", kw_only=True)
    _lock: threading.Lock = field(default_factory=threading.Lock, kw_only=True)

    @abstractmethod
    def shown(self, form: str, notice: str) -> str:
        """The page: `form` is the token that its forms hold, `notice` what was done just before."""

    @abstractmethod
    def done(self, fields: Fields) -> str:
        """Do what a form says; the outcome in a sentence.

        Raises:
            FedlearnError: nothing was done, for this reason.
        """

    def document(self, name: str) -> bytes | None:
        """A finished page that lies below ours, such as a report; None: there is none."""
        return None

    def page(self, form: str) -> str:
        """The page, with what was done just before it."""
        with self._lock:
            notice, self._notice = self._notice, ""
        return self.shown(form, notice)

    def take(self, fields: Fields) -> None:
        """Do what a form says; the next page says how that went."""
        try:
            outcome = self.done(fields)
        except (FedlearnError, OSError) as error:
            outcome = f"Nothing was decided: {error}"
        with self._lock:
            self._notice = outcome


class PageHandler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    timeout = IDLE_SECONDS
    server_version, sys_version = "fedlearn", ""

    @property
    def pages(self) -> Pages:
        """What is served."""
        return cast(PageServer, self.server).pages

    @property
    def guard(self) -> Guard:
        """Who may see it."""
        return cast(PageServer, self.server).guard

    def do_GET(self) -> None:
        """The link, once, and then the page and what lies below it."""
        guard = self.guard
        if not guard.is_for_us(self._headers):
            self._refuse(_CLOSED)
        elif self.path.startswith("/login/"):
            if guard.logs_in(self.path):
                self._go_to_page(("Set-Cookie", guard.cookie))
            else:
                self._refuse(_USED)
        elif self.path.startswith(guard.path) and guard.knows(self._headers):
            self._show(self.path.removeprefix(guard.path))
        else:
            self._refuse(_CLOSED)

    def do_HEAD(self) -> None:
        """As GET, but that it opens no link."""
        self._refuse(_CLOSED)

    def do_POST(self) -> None:
        """A decision."""
        guard, headers = self.guard, self._headers
        known = guard.is_for_us(headers) and guard.knows(headers)
        if not known or self.path != f"{guard.path}decide":
            self._refuse(_CLOSED)
            return
        fields = self._form()
        if fields is None or not guard.comes_from_us(headers, fields.get("form", "")):
            self._refuse(_FOREIGN)
            return
        self.pages.take(fields)
        self._go_to_page()

    @property
    def _headers(self) -> Headers:
        found: dict[str, list[str]] = defaultdict(list)
        for name, value in self.headers.items():
            found[name.lower()].append(value)
        return found

    def _form(self) -> dict[str, str] | None:
        """The fields of a form, each once; None where the body is none, or too long."""
        kinds, sizes = self._headers.get("content-type", ()), self._headers["content-length"]
        size = sizes[0] if len(sizes) == 1 else ""
        if list(kinds) != ["application/x-www-form-urlencoded"]:
            return None
        if not re.fullmatch("[0-9]{1,9}", size) or int(size) > MOST_BYTES:
            return None
        try:
            text = self.rfile.read(int(size)).decode("ascii")
            fields = parse_qs(text, strict_parsing=True, max_num_fields=8)
        except (ValueError, OSError):
            return None
        return {k: v[0] for k, v in fields.items() if len(v) == 1}

    def _show(self, name: str) -> None:
        """The page itself, whose name is empty, or a document below it."""
        if not name:
            self._answered(lambda: self.pages.page(self.guard.form))
        elif (found := self.pages.document(name)) is not None:
            self._send(HTTPStatus.OK, found, ("Content-Security-Policy", _DOCUMENT))
        else:
            self._refuse(_CLOSED)

    def _answered(self, page: Callable[[], str]) -> None:
        try:
            text = page()
        except (FedlearnError, OSError) as error:
            text = self._note("The page cannot be shown", str(error))
        self._send_page(HTTPStatus.OK, text)

    def _refuse(self, text: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> None:
        self.close_connection = True
        self._send_page(status, self._note("Not here", text))

    def _note(self, title: str, text: str) -> str:
        command = self.pages.command
        return note(title, text.replace("{command}", command), command)

    def _go_to_page(self, *more: tuple[str, str]) -> None:
        self._send_page(HTTPStatus.SEE_OTHER, "", ("Location", self.guard.path), *more)

    def _send_page(self, status: HTTPStatus, text: str, *more: tuple[str, str]) -> None:
        self._send(status, text.encode(), ("Content-Security-Policy", _policy()), *more)

    def _send(self, status: HTTPStatus, body: bytes, *more: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*_HEADERS, *more):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request that we know: outcome without a word of what it was."""
        self._refuse(_CLOSED, HTTPStatus(code))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: paths are secret."""


_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # Not `no-referrer`: a form would be sent with the origin `null`.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

_DOCUMENT: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""For what was written earlier: no script runs in it, it sends nothing, and it is none of ours."""


def _policy() -> str:
    """No script and nothing fetched; the style that is in the page, and forms that come to us."""
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash()}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


class PageServer(ThreadingHTTPServer):
    """Bound to loopback, or not at all."""

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, pages: Pages, address: str, port: int) -> None:
        if not ipaddress.ip_address(address).is_loopback:
            raise ConfigError(f"--address={address}: the page is on loopback alone")
        if not 0 <= port < 65536:
            raise ConfigError(f"--port={port}: must be from 1 to 65535")
        if ":" in address:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((address, port), PageHandler)
        except OSError as error:
            raise ConfigError(
                f"--port={port}: cannot be listened on ({error.strerror}); choose another"
            ) from None
        shown = f"[{address}]" if ":" in address else address
        self.pages, self.guard = pages, Guard(f"{shown}:{self.server_port}")

    def server_bind(self) -> None:
        """Without asking the network for the name of loopback, as the standard library does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle is no error; others are for the log."""
        log.debug("a connection ended", exc_info=True)


def serve(
    pages: Pages, what: str, address: str, port: int, say: Callable[[Sequence[str]], None]
) -> None:
    """Serve pages until that is interrupted; `say` is given what to print first.

    Raises:
        ConfigError: the port cannot be had.
    """
    with PageServer(pages, address, port) as server:
        say(
            (
                f"{what}: open this link in a browser on this machine; it works once",
                server.guard.link,
                "Ctrl-C ends it",
            )
        )
        server.serve_forever()
