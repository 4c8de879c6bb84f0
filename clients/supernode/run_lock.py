"""One run at a time on one data set: a lock beside the ledger, held as long as the run lasts.

The ledger's own lock is held for an entry only, because the processes of one
run take turns. Two runs in turn would both end early, each having spent what
the other counted on; so the second one is refused before it starts.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedlearn.core.errors import PrivacyError


@contextmanager
def claimed(ledgers: Sequence[Path]) -> Iterator[None]:
    """While this lasts no other run can claim any of `ledgers`; a killed process claims nothing.

    Raises:
        PrivacyError: another run has claimed one of them.
    """
    with ExitStack() as held:
        for ledger in ledgers:
            ledger.parent.mkdir(parents=True, exist_ok=True)
            lock = ledger.with_name(ledger.name + ".run")
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            held.callback(os.close, file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PrivacyError(
                    f"{ledger}: another run is spending from it. Wait for its end, then start again"
                ) from None
        yield
