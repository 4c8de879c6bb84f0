"""A public file at a fixed address, brought into the cache once and checked.

For data whose authors publish an address and an MD5. An MD5 finds damage and
a set that was exchanged for another by mistake; who can forge one could give
other data. The file is data all the same: it is never run.
"""

from __future__ import annotations

import hashlib
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from fedlearn.core.errors import DataError

_SECONDS = 30.0
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file: `name` is what users type, `file_name` what it is called in the cache."""

    name: str
    address: str
    file_name: str
    md5: str
    licence: str


def cached_path(file: Download, cache: Path) -> Path:
    """Where the file lies, or would lie, in the cache."""
    return cache / "downloads" / file.file_name


def fetch(file: Download, cache: Path) -> Path:
    """The path of the file in the cache; downloads it when it is not there.

    **Guarantees:** its MD5 was checked just now; the cache never holds half a
    file; a file that fails the check is removed.

    Raises:
        DataError: the file is altered, or is not cached and cannot be had.
    """
    path = cached_path(file, cache)
    if not path.is_file():
        _download(file, path)
    _check(file, path)
    return path


def _download(file: Download, path: Path) -> None:
    if not file.address.startswith("https://"):
        raise ValueError(f"{file.address}: only https is fetched")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
            part = Path(folder) / file.file_name
            # The scheme is checked above.
            with (
                urllib.request.urlopen(file.address, timeout=_SECONDS) as reply,
                part.open("wb") as target,
            ):
                while piece := reply.read(_PIECE):
                    target.write(piece)
            _check(file, part)
            part.replace(path)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{file.name}: not in the cache, and {file.address} could not be fetched ({reason}). "
            f"Where there is a network, download it there and copy it to {path} (MD5 {file.md5})"
        ) from error
    except OSError as error:
        raise DataError(
            f"{file.name}: the cache folder {path.parent} cannot be written ({error.strerror}); "
            "set FEDLEARN_CACHE to a folder that can"
        ) from error


def _check(file: Download, path: Path) -> None:
    with path.open("rb") as content:
        got = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != file.md5:
        path.unlink(missing_ok=True)
        raise DataError(
            f"{file.name}: {path}, now removed, is not the published file: expected MD5 "
            f"{file.md5}, got {got}; fetch it again"
        )
