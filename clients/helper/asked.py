"""The config of a study that the owner of a second server has not approved yet, to be looked at.

Its hash stands beside it, for whoever approves of a hash approves of this config and of no other
that a coordinator has shown before or after. It is the coordinator's, and of nobody's records, but
not everybody's to read: a private file in the helper's own folder. It goes once its terms are
approved, and is not kept for longer than a month.
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


def keep(state: Path, terms: str, config: str) -> Path:
    """Write a config down, which is JSON, with the `terms` that it stands for; where.

    In the place of the one before.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path_in(state), _text(terms, config), PRIVATE)
    return path_in(state)


def _text(terms: str, config: str) -> bytes:
    return f'{{"terms": "{terms}", "config": {config}}}'.encode()


def forget(state: Path, terms: str, config: str) -> None:
    """Remove this config, which is approved now, and whatever has been there for too long."""
    path = path_in(state)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == _text(terms, config):
            path.unlink()
    forget_old(state)


def forget_old(state: Path) -> None:
    """Remove what has been there for too long."""
    path = path_in(state)
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > MOST_DAYS * _DAY_SECONDS:
            path.unlink()
