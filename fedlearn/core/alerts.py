"""A command of the owner's that is started when something happens that people should know.

The command is a list of words in the owner's own file, and is started as such: no shell reads it,
and nothing that came from outside is among its words but the kind of the alert, which is ours. What
the alert is about it reads on its standard input: one JSON object.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal

from fedlearn.core.logs import EVENTS
from fedlearn.core.names import printable

Kind = Literal["site_down", "run_ended", "budget", "study_waits"]

BUDGET_SHARE: Final = 0.8
"""Of a budget: whoever has spent as much is told."""

SECONDS: Final = 30.0
"""A command that takes longer is ended."""

_END_SECONDS: Final = 10.0
"""For a command that was ended."""

_MOST_AT_ONCE: Final = 4
"""Commands that run at one time; what comes beyond is written down as not delivered."""


class Alerts(logging.Handler):
    """Looks at the events of this process, and starts the command for those that are alerts."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(logging.INFO)
        self._command = tuple(command)
        self._free = threading.Semaphore(_MOST_AT_ONCE)
        self._running: list[threading.Thread] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Start the command for an event that is an alert; waits for nothing."""
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        kind = _kind(record.getMessage(), fields) if record.name == EVENTS.name else None
        if kind is None:
            return
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        about = {"alert": kind, "time": time, "event": record.getMessage(), **fields}
        if not self._free.acquire(blocking=False):
            _failed(kind, "too many commands are running")
            return
        thread = threading.Thread(target=self._run, args=(kind, _text(about)), daemon=True)
        self._running = [*(one for one in self._running if one.is_alive()), thread]
        thread.start()

    def close(self) -> None:
        """Wait for commands that are running: the last alert is often that of the end."""
        for thread in self._running:
            thread.join(SECONDS + _END_SECONDS)
        super().close()

    def _run(self, kind: Kind, text: str) -> None:
        try:
            done = subprocess.run(
                [*self._command, kind],
                input=text.encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                check=False,
            )
            if done.returncode:
                _failed(kind, f"the command ended with {done.returncode}")
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = error.strerror if isinstance(error, OSError) else "it took too long"
            _failed(kind, f"the command could not be carried out: {reason}")
        finally:
            self._free.release()


@contextmanager
def alerting(command: Sequence[str]) -> Iterator[None]:
    """While this lasts, events of this process are looked at, where there is a `command`."""
    if not command:
        yield
        return
    handler, root = Alerts(command), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


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


def _text(about: Mapping[str, Any]) -> str:
    """Strings that others have written in it draw nothing where they are shown."""
    plain = {key: printable(one) if isinstance(one, str) else one for key, one in about.items()}
    return json.dumps(plain, default=str, ensure_ascii=True)


def _failed(kind: Kind, reason: str) -> None:
    EVENTS.warning("alert_failed", extra={"fields": {"alert": kind, "reason": reason}})
