"""Logs for machines: one JSON object a line, with the fields of an event."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Final

EVENTS: Final = logging.getLogger("events")
"""What happens to a program and to those that it talks to: never a figure of a run. It reaches the
log for machines whatever a run does with all others, which go to the run's own log."""

LOG_BYTES: Final = 5_000_000
"""Of a log; what is beyond begins a new file, and `NAME.1` is the one before."""

LOGS_KEPT: Final = 4
"""Older files of a log."""


class JsonLines(logging.Formatter):
    """`{"time", "level", "event", "logger", **constant, **fields}`.

    An event is the message; what it is about comes as `extra={"fields": {...}}`.
    """

    def __init__(self, **constant: str) -> None:
        super().__init__()
        self._constant = constant

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **self._constant,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def log_json(stream: IO[str], **constant: str) -> None:
    """Send all logs of this process from INFO upwards to `stream`, Flower's warnings included."""
    _send_to(logging.StreamHandler(stream), constant)


@contextmanager
def logged_json(path: Path, **constant: str) -> Iterator[None]:
    """While this lasts, the same to the file `path`, which is begun anew at `LOG_BYTES`."""
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8")
    _send_to(handler, constant)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def turned(path: Path) -> bool:
    """Begin the log of another process anew where it is too long; whether it was.

    That process appends to the file, which stays the same: the one before is a copy.
    """
    with suppress(OSError):
        if path.stat().st_size > LOG_BYTES:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)
            return True
    return False


def _send_to(handler: logging.Handler, constant: dict[str, str]) -> None:
    handler.setFormatter(JsonLines(**constant))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("flwr", "httpx", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
