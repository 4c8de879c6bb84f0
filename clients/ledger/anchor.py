"""What an owner decided of studies, in the ledger of the data: the hash of its last line.

Receipts that a site signs of its ledger so hold its decisions as well, and a file of decisions
that was put back from a backup, without a withdrawal that it had held, is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

from clients.ledger import hash_chain
from clients.ledger.ledger import load
from clients.ledger.state import replay, utc
from fedlearn.core.errors import DataError, PrivacyError


def note_decisions(path: Path, lines: Sequence[str], *, now: datetime) -> None:
    """Write the hash of the last decision into a ledger, where it is not there yet.

    Args:
        path: the ledger; where there is none yet, or it is in use, nothing is written this time.
        lines: the hashes (hex) of all lines of the file of decisions.
        now: the time of the entry.

    Raises:
        DataError: the ledger holds a decision that the file has not.
    """
    if not path.exists():
        return
    try:
        noted = load(path)[1].decided
    except DataError:
        return  # what a ledger itself is worth is asked where it is spent from
    if noted and noted not in lines:
        raise DataError(
            f"{path}: holds a decision on studies that is not in the file beside it: that was "
            "removed, or put back from an older copy. Restore the newer one"
        )
    if lines and noted != lines[-1]:
        _append(path, lines[-1], now)


def _append(path: Path, line: str, now: datetime) -> None:
    with suppress(PrivacyError), closing(hash_chain.ChainFile(path)) as file:
        state = replay(file.entries, str(path), file.hashes)
        if file.torn or not state.opened or (state.last is not None and now < state.last):
            return  # the next run that spends mends the file, or refuses a clock set back
        entry = {"kind": "decision", "line": line, "time": utc(now)}
        state.after(entry)
        file.append(entry)
