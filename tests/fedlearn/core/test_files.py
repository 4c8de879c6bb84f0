"""Files that are replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedlearn.core.files import PRIVATE, write_atomically


def test_write_atomically__leaves_the_old_file_when_it_cannot_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(file: int) -> None:
        os.ftruncate(file, 3)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, b"new and long")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "nothing half-written stays behind"


def test_write_atomically__makes_a_private_file_that_nobody_else_ever_could_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "file", list[int]()
    monkeypatch.setattr(os, "fsync", lambda file: seen.append(os.fstat(file).st_mode & 0o777))
    write_atomically(path, b"secret", PRIVATE)
    assert seen == [path.stat().st_mode & 0o777] == [PRIVATE]
