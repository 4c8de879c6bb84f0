"""The config of a study that the owner of a second server has not approved yet, to be looked at.

It is the coordinator's, and of nobody's records, but not everybody's to read: a private file in
the helper's own folder. It goes once its terms are approved, and is not kept for longer than a
month.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from fedlearn.core.files import PRIVATE, write_atomically

MOST_DAYS: Final = 30
"""For so long its owner may look at what was asked."""

_DAY_SECONDS: Final = 86_400.0


def path_in(state: Path) -> Path:
    """Where it is."""
    return state / "asked.json"


def keep(state: Path, config: str) -> Path:
    """Write a config down, in the place of the one before; where."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path_in(state), config.encode(), PRIVATE)
    return path_in(state)


def forget(state: Path, config: str) -> None:
    """Remove this config, which is approved now, and whatever has been there for too long."""
    path = path_in(state)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == config.encode():
            path.unlink()
    forget_old(state)


def forget_old(state: Path) -> None:
    """Remove what has been there for too long."""
    path = path_in(state)
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > MOST_DAYS * _DAY_SECONDS:
            path.unlink()
