"""What a deployed site remembers of a run when its process dies.

Flower keeps an app's state in memory. Here it reaches the disk before an answer
leaves: a site that crashed comes back with its channel and its session as they were,
so it neither answers a step twice nor uses a key twice, and says at once which
message it will not answer, so that nobody waits for it.

The files hold keys of the run. They are readable by their owner alone and are
removed when a later run begins.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict

from fedlearn.flower.private import content_from_bytes, content_to_bytes


@dataclass(frozen=True)
class Memory:
    """A folder of one site; one process at a time."""

    folder: Path

    def node(self) -> int | None:
        """The id under which this site was online last."""
        data = self._read("node")
        return int(data) if data else None

    def set_node(self, node_id: int) -> None:
        """Remember it."""
        self._write("node", str(node_id).encode())

    def state(self, run_id: int) -> RecordDict:
        """The app's state in a run; fresh where there was none.

        Raises:
            ValueError: the file is not one that `set_state` wrote.
        """
        data = self._read(_state_name(run_id))
        return RecordDict() if data is None else content_from_bytes(data)

    def set_state(self, run_id: int, state: RecordDict) -> None:
        """Write the state down; on return it has reached the disk.

        Raises:
            OSError: it could not, and the old state is still there.
        """
        self._write(_state_name(run_id), content_to_bytes(state))

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
        fresh = self.folder / f".{name}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.folder / name)


def _state_name(run_id: int) -> str:
    return f"run-{run_id}"
