"""What a site's process, or a second server's, must remember between two messages of a run.

Whatever is in it was true once. A copy of an hour ago would have a site sign a second list of
survivors, use the number of a sealed message twice, or train a round again, and a second server
add up seeds that it has added up before: two sums that differ by one site. So the state of a run
says when it was written, by the clock of the disk, and the disk says when the file came to be
there. One that was put there again, from a backup or another disk, is as one that is lost: the
run goes on without the site, or begins anew. A disk that is set back as a whole, as with a machine
that goes back to a snapshot, is not found.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flwr.app import RecordDict

from fedlearn.core.files import PRIVATE, write_atomically
from fedlearn.flower.private import content_from_bytes, content_to_bytes

log = logging.getLogger(__name__)

MOST_SECONDS: Final = 60.0
"""A file may take so long to reach the disk."""

_STAMP_BYTES: Final = 8

_RESTORED: Final = (
    "{path} was not written here when it says: it was restored, copied, moved, or given other "
    "rights or owners. What is older than the last message of a run must not be gone on from, so "
    "it counts as lost; start the run again"
)


@dataclass(frozen=True)
class Memory:
    """A folder of one site, or of a second server; one process at a time."""

    folder: Path

    def node(self) -> int | None:
        """The id under which this site was online last."""
        data = self._read("node")
        return int(data) if data else None

    def set_node(self, node_id: int) -> None:
        """Remember it."""
        self._write("node", str(node_id).encode())

    def state(self, run_id: int) -> RecordDict:
        """The app's state in a run; fresh where there was none, or where it was put there again.

        Raises:
            ValueError: the file is not one that `set_state` wrote.
        """
        data = self._read(_state_name(run_id))
        if data is None:
            return RecordDict()
        written, rest = int.from_bytes(data[:_STAMP_BYTES], "big"), data[_STAMP_BYTES:]
        path = self.folder / _state_name(run_id)
        if path.stat().st_ctime_ns - written > MOST_SECONDS * 1e9:
            log.warning("%s", _RESTORED.format(path=path))
            return RecordDict()
        return content_from_bytes(rest)

    def set_state(self, run_id: int, state: RecordDict) -> None:
        """Write the state down; on return it has reached the disk.

        Raises:
            OSError: it could not, and the old state is still there.
        """
        stamp = self._now().to_bytes(_STAMP_BYTES, "big")
        self._write(_state_name(run_id), stamp + content_to_bytes(state))

    def _now(self) -> int:
        """The time, in nanoseconds, by the clock of the disk: another machine's may be wrong."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as probe:
            return os.fstat(probe.fileno()).st_mtime_ns

    def forget_others(self, run_id: int) -> None:
        """Remove what is left of other runs."""
        for path in self.folder.glob("run-*"):
            if path.name != _state_name(run_id):
                path.unlink(missing_ok=True)

    def open_message(self) -> bytes | None:
        """The message that was being answered when the process died."""
        return self._read("open")

    def set_open(self, head: bytes) -> None:
        """A message is about to be answered."""
        self._write("open", head)

    def clear_open(self) -> None:
        """It has been answered, or nobody waits any more."""
        (self.folder / "open").unlink(missing_ok=True)

    def _read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name).read_bytes()
        return None

    def _write(self, name: str, data: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self.folder / name, data, PRIVATE)


def _state_name(run_id: int) -> str:
    return f"run-{run_id}"
