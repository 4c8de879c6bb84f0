"""What is started, or sent, when something happens that people should know.

A command is a list of words in the owner's own file, and is started as such: no shell reads it, and
nothing that came from outside is among its words but the kind of the alert, which is ours. What the
alert is about it reads on its standard input: one JSON object.

A webhook is an address in the same file, to which the alert is sent as one JSON object. That leaves
the machine, often to a service of somebody else's: so it has the fields of `_PUBLIC` alone, no
reason, no path and no text that anybody has written. The address is itself a secret (who knows it
may send), and stands in no log.
"""

from __future__ import annotations

import json
import logging
import shutil
import ssl
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, Final, Literal

from fedlearn.core.logs import EVENTS
from fedlearn.core.names import printable

Kind = Literal["site_down", "run_ended", "budget", "study_waits"]

BUDGET_SHARE: Final = 0.8
"""Of a budget: whoever has spent as much is told."""

SECONDS: Final = 30.0
"""A command that takes longer is ended."""

HOOK_SECONDS: Final = 10.0
"""For every step of a webhook's answer."""

_END_SECONDS: Final = 10.0
"""For what was ended."""

_MOST_AT_ONCE: Final = 4
"""Alerts on their way at one time; what comes beyond is written down as not delivered."""

_PUBLIC: Final = (
    "site", "state", "since", "exit_code", "rounds", "round", "share", "study",
)  # fmt: skip
"""Fields of events that a webhook is sent: names of sites, numbers, and words of ours."""

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

About = Mapping[str, Any]


class UndeliveredError(Exception):
    """An alert that has reached nobody; says why, and nothing of an address."""


class AlertReceiver(ABC):
    """A way by which people are told."""

    @abstractmethod
    def deliver(self, kind: Kind, about: About) -> None:
        """Tell of an alert; takes as long as it takes.

        Raises:
            UndeliveredError: nobody was told.
        """


class CommandReceiver(AlertReceiver):
    """A program that is started, with the kind of the alert as its last word."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)

    def deliver(self, kind: Kind, about: About) -> None:
        """Start it, and wait for its end."""
        try:
            done = subprocess.run(
                [*self._words, kind],
                input=_text(about),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = error.strerror if isinstance(error, OSError) else "it took too long"
            raise UndeliveredError(f"the command could not be carried out: {reason}") from None
        if done.returncode:
            raise UndeliveredError(f"the command ended with {done.returncode}")


class WebhookReceiver(AlertReceiver):
    """An address that is sent one JSON object; it goes nowhere else, whatever it answers."""

    def __init__(self, address: str) -> None:
        self._address = address
        # A proxy is for what leaves the machine.
        proxies = None if address.startswith("https:") else urllib.request.ProxyHandler({})
        handlers = [_Stay(), urllib.request.HTTPSHandler(context=ssl.create_default_context())]
        self._opener = urllib.request.build_opener(*handlers, *([proxies] if proxies else []))

    def deliver(self, kind: Kind, about: About) -> None:
        """Send it; what is answered is not read."""
        public = {key: about[key] for key in ("alert", "time", *_PUBLIC) if key in about}
        request = urllib.request.Request(
            self._address,
            _text(public),
            {"Content-Type": "application/json", "User-Agent": "fedlearn"},
            method="POST",
        )
        try:
            self._opener.open(request, timeout=HOOK_SECONDS).close()
        except urllib.error.HTTPError as error:
            error.close()
            raise UndeliveredError(f"the webhook answered {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise UndeliveredError(f"the webhook cannot be reached: {_why(error)}") from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Sends nothing to where somebody else says."""

    def redirect_request(self, *_: object) -> None:
        """Nowhere."""


def _why(error: Exception) -> str:
    """What went wrong, in words that have no address."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate does not hold ({cause.verify_message})"
    known = cause.strerror if isinstance(cause, OSError) else None
    return known or type(cause).__name__


class Alerts(logging.Handler):
    """Looks at the events of this process, and has those that are alerts delivered."""

    def __init__(self, receiver: AlertReceiver) -> None:
        super().__init__(logging.INFO)
        self._receiver = receiver
        self._free = threading.Semaphore(_MOST_AT_ONCE)
        self._running: list[threading.Thread] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Deliver an event that is an alert; waits for nothing."""
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        kind = _kind(record.getMessage(), fields) if record.name == EVENTS.name else None
        if kind is None:
            return
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        about = {"alert": kind, "time": time, "event": record.getMessage(), **fields}
        if not self._free.acquire(blocking=False):
            _failed(kind, "too many alerts are on their way")
            return
        thread = threading.Thread(target=self._run, args=(kind, about), daemon=True)
        self._running = [*(one for one in self._running if one.is_alive()), thread]
        thread.start()

    def close(self) -> None:
        """Wait for what is on its way: the last alert is often that of the end."""
        for thread in self._running:
            thread.join(SECONDS + _END_SECONDS)
        super().close()

    def _run(self, kind: Kind, about: About) -> None:
        try:
            self._receiver.deliver(kind, about)
        except UndeliveredError as error:
            _failed(kind, str(error))
        finally:
            self._free.release()


@contextmanager
def alerting(command: Sequence[str], webhook: str | None = None) -> Iterator[None]:
    """While this lasts, events of this process are looked at, where there is somebody to tell."""
    with ExitStack() as held:
        if command:
            held.enter_context(_handling(Alerts(CommandReceiver(command))))
        if webhook:
            held.enter_context(_handling(Alerts(WebhookReceiver(webhook))))
        yield


@contextmanager
def _handling(handler: Alerts) -> Iterator[None]:
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def alert_problems(command: Sequence[str], webhook: str | None) -> Iterator[str]:
    """What keeps alerts from being delivered here."""
    yield from command_problems(command)
    if webhook is not None and (problem := _webhook_problem(webhook)):
        yield f"webhook: {problem}"


def _webhook_problem(address: str) -> str | None:
    """Why nothing is sent to an address, which is not repeated: it may be a secret."""
    try:
        found = urllib.parse.urlsplit(address)
        host, _ = found.hostname, found.port
    except ValueError:
        return "is no address; write https://HOST/PATH"
    if not host or not address.isascii() or not address.isprintable() or " " in address:
        return "is no address; write https://HOST/PATH"
    if found.username is not None or found.password is not None:
        return "has a password before its host; let its path be what nobody guesses"
    if found.scheme == "https" or (found.scheme == "http" and host in _LOOPBACK):
        return None
    return "is not encrypted; write https://..., or http:// for loopback alone"


def command_problems(command: Sequence[str]) -> Iterator[str]:
    """What keeps a command from being started here."""
    if command and shutil.which(command[0]) is None:
        yield f"alerts={command[0]}: no program of this name can be started here; give its path"


def _kind(event: str, fields: Mapping[str, Any]) -> Kind | None:
    """Which alert an event is, if any."""
    if event == "site" and fields.get("state") == "offline":
        return "site_down"
    if event in ("finished", "ended"):
        return "run_ended"
    if event == "study_waits":
        return "study_waits"
    return "budget" if event == "budget" else None


def _text(about: About) -> bytes:
    """Strings that others have written in it draw nothing where they are shown."""
    plain = {key: printable(one) if isinstance(one, str) else one for key, one in about.items()}
    return json.dumps(plain, default=str, ensure_ascii=True).encode()


def _failed(kind: Kind, reason: str) -> None:
    EVENTS.warning("alert_failed", extra={"fields": {"alert": kind, "reason": reason}})
