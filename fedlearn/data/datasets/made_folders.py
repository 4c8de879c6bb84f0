"""Folders of models, made once in a cache out of a pinned archive, and checked when read."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from fedlearn.core.errors import DataError
from fedlearn.core.files import possible

WEIGHTS: Final = "model.safetensors"


def made_folder(
    place: Path, hashes: Mapping[str, str], files: Callable[[], Mapping[str, bytes]], name: str
) -> Path:
    """The folder `place`, made where it is not there or not what was made.

    Args:
        place: where it is kept.
        hashes: the SHA-256 of every file of it.
        files: makes their contents.
        name: what messages call it.

    Raises:
        DataError: `files` raises it, or the folder cannot be written.
    """
    if not _is_whole(place, hashes):
        contents = files()
        with possible("written", place, DataError, "; set FEDLEARN_CACHE to a folder that can"):
            _write(place, contents)
        if not _is_whole(place, hashes):
            raise DataError(f"{name}: {place} is not what was written into it; the disk fails")
    return place


def _is_whole(place: Path, hashes: Mapping[str, str]) -> bool:
    return all(_sha256_of(place / name) == wanted for name, wanted in hashes.items())


def _sha256_of(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        found = path.stat()
        return _sha256(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return ""


@lru_cache(maxsize=32)
def _sha256(path: Path, _changed: int, _size: int) -> str:
    """Of half a gigabyte: once a process, unless the file changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(place: Path, files: Mapping[str, bytes]) -> None:
    """All files, the weights last and each in one step: a folder with weights is whole."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".made-") as folder:
        for name in sorted(files, key=WEIGHTS.__eq__):
            made = Path(folder) / name
            made.write_bytes(files[name])
            made.replace(place / name)
