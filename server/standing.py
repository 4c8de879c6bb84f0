"""What `result.json` says of a run at which nobody is at work: that it waits, or how it has ended.

A round that is cut off is written down as a failure, by the code that has made it. Whether the run
goes on is decided above that, and so is this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fedlearn.config import RunConfig
from fedlearn.core.errors import FedlearnError, PrivacyError, StoppedError
from fedlearn.core.files import write_atomically
from fedlearn.results.result import Status

WAITING: Final[Status] = "waiting"


def mark_waiting(config: RunConfig, reason: str) -> None:
    """Write that a run waits, and for what; of one that has no result yet there is nothing."""
    _mark(Path(config.out), WAITING, reason, unless=("finished",))


@contextmanager
def telling_how_it_ended(config: RunConfig) -> Iterator[None]:
    """Let no run that has ended be called one that waits."""
    try:
        yield
    except (FedlearnError, KeyboardInterrupt) as error:
        reason = str(error) or "stopped by the user"
        _mark(Path(config.out), _status_of(error), reason, only=WAITING)
        raise


def _status_of(error: BaseException) -> Status:
    if isinstance(error, PrivacyError):
        return "stopped_budget"
    return "interrupted" if isinstance(error, StoppedError | KeyboardInterrupt) else "failed"


def _mark(
    out: Path, status: Status, reason: str, *, unless: tuple[Status, ...] = (), only: str = ""
) -> None:
    path = out / "result.json"
    # The result of an earlier part of the run stays as it is where it cannot be written anew.
    with suppress(OSError, ValueError):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["status"] in unless or (only and result["status"] != only):
            return
        changed = {**result, "status": status, "reason": reason}
        write_atomically(path, json.dumps(changed, indent=2, allow_nan=False).encode())
