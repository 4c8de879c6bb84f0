"""Logs for machines: one JSON object a line, with the fields of an event."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import IO, Final

EVENTS: Final = logging.getLogger("events")
"""What happens to a program and to those that it talks to: never a figure of a run. It reaches the
log for machines whatever a run does with all others, which go to the run's own log."""


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
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(**constant))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("flwr", "httpx", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
