"""The desk's web server: loopback alone, one owner, a page and a decision.

Of the standard library, which is enough for one browser; what is asked for is checked by
`clients.desk.guard` before anything is read.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Final, cast, get_args
from urllib.parse import parse_qs

from clients.desk import pages
from clients.desk.guard import Guard, Headers
from clients.studies.decisions import Verb
from clients.studies.view import decide, look
from fedlearn.core.errors import ConfigError, FedlearnError

log = logging.getLogger(__name__)

MOST_BYTES: Final = 4096
"""Of a form."""

IDLE_SECONDS: Final = 10.0
"""After which a connection that says nothing is closed."""

_CLOSED: Final = "Nothing is shown here. Open the link that `fedlearn desk` has printed."
_USED: Final = (
    "This link was opened before, or is none. Where it was not you, end `fedlearn desk` (Ctrl-C); "
    "start it again for another link."
)
_FOREIGN: Final = "This was not sent from the desk's own page. Nothing was decided."


@dataclass
class Desk:
    """What the pages show and do: the file of one site, and who may see it."""

    site: Path
    guard: Guard
    _notice: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def page(self) -> str:
        """The page, with what was decided just before it."""
        with self._lock:
            notice, self._notice = self._notice, ""
        return pages.desk(self.site, self.guard.form, notice)

    def take(self, fields: dict[str, str]) -> None:
        """Decide what a form says; the next page says how that went.

        Nothing is decided of a study that does not stand any more as the page has shown it.
        """
        verb, terms = fields.get("verb", ""), fields.get("terms", "")
        try:
            if verb not in get_args(Verb) or len(terms) != 64:
                raise ConfigError("no such decision")
            study = look(self.site).study(terms)
            if study.standing != fields.get("standing"):
                raise ConfigError(f"study {terms[:16]} is {study.standing} by now: look again")
            seen = fields.get("roster", "")
            done = decide(self.site, cast(Verb, verb), terms, datetime.now(UTC), seen)
            outcome = f"Study {terms[:16]} is {pages.STANDINGS[done.standing][1]}."
        except FedlearnError as error:
            outcome = f"Nothing was decided: {error}"
        with self._lock:
            self._notice = outcome


class DeskHandler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    timeout = IDLE_SECONDS
    server_version, sys_version = "fedlearn", ""

    @property
    def desk(self) -> Desk:
        """Whose page it is."""
        return cast(DeskServer, self.server).desk

    def do_GET(self) -> None:
        """The link, once, and then the page."""
        guard = self.desk.guard
        if not guard.is_for_us(self._headers):
            self._refuse(_CLOSED)
        elif self.path.startswith("/login/"):
            if guard.logs_in(self.path):
                self._go_to_page(("Set-Cookie", guard.cookie))
            else:
                self._refuse(_USED)
        elif self.path == guard.path and guard.knows(self._headers):
            self._answered(self.desk.page)
        else:
            self._refuse(_CLOSED)

    def do_HEAD(self) -> None:
        """As GET, but that it opens no link."""
        self._refuse(_CLOSED)

    def do_POST(self) -> None:
        """A decision."""
        guard, headers = self.desk.guard, self._headers
        known = guard.is_for_us(headers) and guard.knows(headers)
        if not known or self.path != f"{guard.path}decide":
            self._refuse(_CLOSED)
            return
        fields = self._form()
        if fields is None or not guard.comes_from_us(headers, fields.get("form", "")):
            self._refuse(_FOREIGN)
            return
        self.desk.take(fields)
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
        if not (size.isascii() and size.isdigit()) or int(size) > MOST_BYTES:
            return None
        try:
            text = self.rfile.read(int(size)).decode("ascii")
            fields = parse_qs(text, strict_parsing=True, max_num_fields=8)
        except (ValueError, OSError):
            return None
        return {k: v[0] for k, v in fields.items() if len(v) == 1}

    def _answered(self, page: Callable[[], str]) -> None:
        try:
            self._send(HTTPStatus.OK, page())
        except FedlearnError as error:
            self._send(HTTPStatus.OK, pages.note("The desk cannot be shown", str(error)))

    def _refuse(self, text: str) -> None:
        self.close_connection = True
        self._send(HTTPStatus.FORBIDDEN, pages.note("Not here", text))

    def _go_to_page(self, *more: tuple[str, str]) -> None:
        self._send(HTTPStatus.SEE_OTHER, "", ("Location", self.desk.guard.path), *more)

    def _send(self, status: HTTPStatus, text: str, *more: tuple[str, str]) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in (*_HEADERS, ("Content-Security-Policy", _policy()), *more):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request that we know: outcome without a word of what it was."""
        self.close_connection = True
        self._send(HTTPStatus(code), pages.note("Not here", _CLOSED))

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


def _policy() -> str:
    """No script and nothing fetched; the style that is in the page, and forms that come to us."""
    return (
        f"default-src 'none'; style-src 'sha256-{pages.style_hash()}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


class DeskServer(ThreadingHTTPServer):
    """Bound to loopback, or not at all."""

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, site: Path, address: str, port: int) -> None:
        if not ipaddress.ip_address(address).is_loopback:
            raise ConfigError(f"--address={address}: the desk is on loopback alone")
        if ":" in address:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((address, port), DeskHandler)
        except OSError as error:
            raise ConfigError(
                f"--port={port}: cannot be listened on ({error.strerror}); choose another"
            ) from None
        shown = f"[{address}]" if ":" in address else address
        self.desk = Desk(site, Guard(f"{shown}:{self.server_port}"))

    def server_bind(self) -> None:
        """Without asking the network for the name of loopback, as the standard library does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle is no error; others are for the log."""
        log.debug("a connection ended", exc_info=True)


def serve(site: Path, address: str, port: int, say: Callable[[Sequence[str]], None]) -> None:
    """Serve the desk of a site until it is interrupted; `say` is given what to print first.

    Raises:
        ConfigError: the file of the site is wrong, or the port cannot be had.
        DataError: its decisions are not intact.
    """
    view = look(site)
    with DeskServer(site, address, port) as server:
        say(
            (
                f"desk of {view.site.name}: open this link in a browser on this machine; it works "
                "once",
                server.desk.guard.link,
                "Ctrl-C ends it",
            )
        )
        server.serve_forever()
