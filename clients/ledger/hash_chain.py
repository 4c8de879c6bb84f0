"""An append-only file of JSON lines in which every line vouches for the one before.

A line is `{"entry": ..., "hash": ..., "previous": ...}` in canonical JSON
(sorted keys, no spaces), `hash` the SHA-256 of `{"entry": ..., "previous": ...}`
and `previous` the hash of the line above, 64 zeros in the first line. Beside
the file lies `NAME.head` with the number of lines and the last hash, replaced
after every line has reached the disk: a file with fewer lines has been cut.

What it finds: lines edited, reordered, inserted, taken out, or cut off. What it
cannot find: that file and head were both replaced by older copies, or written
anew as a whole. Whoever must exclude that keeps the head hash elsewhere.

This module knows nothing of what the entries mean.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlearn.core.errors import DataError, PrivacyError
from fedlearn.core.files import PRIVATE, write_atomically
from fedlearn.core.recent import Recent

Entry = Mapping[str, object]

_START: Final = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What a chained file holds: its entries, and the hash of the line of each.

    `torn` is what a crash left of a line that was being appended, without its
    end; `intact_bytes` is the length of the file without it. `ended` is false
    if the last entry is whole and lacks only its line end.
    """

    entries: tuple[Entry, ...]
    hashes: tuple[str, ...]
    intact_bytes: int
    ended: bool
    torn: bytes

    @property
    def head(self) -> str:
        """The hash of the last line, or what the first line says of the one before."""
        return self.hashes[-1] if self.hashes else _START


@dataclass(frozen=True)
class _Known:
    """Whole lines that this process has found to be intact, from the start of a file."""

    content: bytes = b""
    entries: tuple[Entry, ...] = ()
    hashes: tuple[str, ...] = ()


_known: Final = Recent[Path, _Known](64)
# A site opens its ledger a dozen times a round: what it reads again byte for byte it does not
# check again, or a run would take the square of its rounds.


def read(path: Path) -> Chain:
    """Read and check a chained file, changing nothing; a missing file is an empty chain.

    Raises DataError, with the number of the line, for anything but an intact
    chain with at most one torn line at its end.
    """
    # The head first: a writer may add lines meanwhile, and those must not look cut off.
    head_count, head_hash = _read_head(path)
    content = path.read_bytes() if path.exists() else b""
    known = _known.get(path, _Known())
    if not content.startswith(known.content):
        known = _Known()
    entries, hashes = [*known.entries], [*known.hashes]
    *lines, torn = content[len(known.content) :].split(b"\n")
    for number, line in enumerate(lines, start=len(entries) + 1):
        try:
            entry, digest = _parse(line, hashes[-1] if hashes else _START)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        entries.append(entry)
        hashes.append(digest)
    _known.keep(path, _Known(content[: len(content) - len(torn)], (*entries,), (*hashes,)))
    unended = False
    with suppress(ValueError):  # a last line may lack nothing but its end
        entry, digest = _parse(torn, hashes[-1] if hashes else _START)
        entries.append(entry)
        hashes.append(digest)
        torn, unended = b"", True
    _check_head(path, hashes, head_count, head_hash)
    return Chain(
        entries=tuple(entries),
        hashes=tuple(hashes),
        intact_bytes=len(content) - len(torn),
        ended=not unended,
        torn=torn,
    )


class ChainFile:
    """A chained file open for appending, by one process at a time.

    Guarantees: when `append` has returned, the entry and the head are on the
    disk; a crash at any moment leaves a file that `read` accepts.

    Raises PrivacyError if another process has it open, DataError if it is not
    intact; `append` lets OSError through and closes the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._lock()
            chain = read(path)
            self.entries, self.torn = chain.entries, chain.torn
            self._hashes = [*chain.hashes]
            self._unmended: Chain | None = chain
        except BaseException:
            os.close(self._file)
            raise

    def append(self, entry: Entry) -> None:
        """Add one entry at the end; on return it has reached the disk."""
        if self._file < 0:
            raise RuntimeError("append to a closed file")
        line, head = _line(entry, self._hashes[-1] if self._hashes else _START)
        try:
            self._mend()
            _write(self._file, line)
            os.fsync(self._file)
            self._hashes.append(head)
            self._write_head()
        except BaseException:
            # A line may be half written (disk full): opening the file again repairs it.
            self.close()
            raise

    @property
    def hashes(self) -> Sequence[str]:
        """The hash of every line, those that were appended included."""
        return self._hashes

    def close(self) -> None:
        """Give the file back; nothing is lost by never getting here."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _mend(self) -> None:
        """Before the first append, finish or take back what a crash left half done."""
        if self._unmended is not None:
            os.ftruncate(self._file, self._unmended.intact_bytes)
            if not self._unmended.ended:
                _write(self._file, b"\n")
            self._unmended = None

    def _write_head(self) -> None:
        """Replace the head, so that after a crash either the old or the new one is there."""
        head = _canonical({"hash": self._hashes[-1], "lines": len(self._hashes)})
        write_atomically(_head_path(self._path), head, PRIVATE)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PrivacyError(
                f"{self._path}: in use by another run on the same data. "
                "Wait until it has ended: two runs cannot spend one budget at once"
            ) from error


def _parse(line: bytes, previous: str) -> tuple[Entry, str]:
    """The entry of a line and its hash; ValueError unless we would have written it there."""
    try:
        entry = json.loads(line)["entry"]
        expected, head = _line(entry, previous)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("is not a line of such a file") from error
    if not isinstance(entry, dict) or expected != line + b"\n":
        raise ValueError(
            "was changed, moved or inserted after it had been written, or the line before it was. "
            "Restore the file from a backup; nothing can be spent from it"
        )
    return entry, head


def _read_head(path: Path) -> tuple[int, str]:
    """Number of lines and last hash that were written down; 0 lines if there is no head."""
    head_path = _head_path(path)
    if not head_path.exists():
        return 0, _START
    try:
        head = json.loads(head_path.read_bytes())
        return int(head["lines"]), str(head["hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{head_path}: cannot be read") from error


def _check_head(path: Path, hashes: Sequence[str], count: int, head: str) -> None:
    # A crash while the very first line was written leaves no head; nothing else does.
    if count == 0 and len(hashes) > 1:
        raise DataError(f"{_head_path(path)}: is missing, so lines may be missing from {path.name}")
    if count > len(hashes):
        raise DataError(
            f"{path}: has {len(hashes)} lines where {count} were written; the end was cut off. "
            "Restore the file from a backup; nothing can be spent from it"
        )
    if count > 0 and hashes[count - 1] != head:
        raise DataError(f"{path}: does not belong to {_head_path(path).name}")


def _line(entry: Entry, previous: str) -> tuple[bytes, str]:
    head = hashlib.sha256(_canonical({"entry": entry, "previous": previous})).hexdigest()
    return _canonical({"entry": entry, "hash": head, "previous": previous}) + b"\n", head


def _canonical(value: Entry) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
