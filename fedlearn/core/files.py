"""Files that are there whole, or not at all: for whoever reads while they are written, and after
a crash, a full disk or a loss of power."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ListedError

PRIVATE: Final = 0o600
"""The mode of a file that only its user may read."""

DAMAGED_ARRAYS: Final = (
    *(KeyError, ValueError, EOFError, RuntimeError, SyntaxError),
    *(zlib.error, BadZipFile, TokenError),
)
"""What reading a `.npz` file leads to that is none: NumPy parses a header as Python."""


@contextmanager
def possible(what: str, path: object, kind: type[ListedError], way_out: str = "") -> Iterator[None]:
    """Say of what the system refuses meanwhile that `path` cannot be `what`, and why.

    Raises:
        ListedError: of this `kind`, in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: cannot be {what} ({error.strerror}){way_out}") from error


def named_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """The arrays of a file `.npz` that have these names.

    Raises:
        OSError: the file cannot be read.
        DAMAGED_ARRAYS: it is none, or holds no such arrays.
    """
    with path.open("rb") as content:  # numpy would leave a damaged one open
        file = np.load(content, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with file:
            found = [file[name] for name in names]
    if not all(isinstance(one, np.ndarray) for one in found):  # NumPy gives other files as bytes
        raise ValueError("something else than arrays")
    return found


def shortest(path: Path) -> str:
    """`path`, or how it is reached from the current folder where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def try_out(folder: Path) -> None:
    """Write and remove an unnamed file in a folder, or where it would be made; leaves nothing.

    Raises:
        OSError: it could not, and nothing could be written into this folder.
    """
    there = next(one for one in (folder, *folder.parents) if one.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace `path` by `content` in one step; on return it has reached the disk.

    `mode` is as for `os.open`: what the process masks is taken away.

    Raises:
        OSError: it could not, and what was there is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
