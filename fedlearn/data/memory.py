"""Whether a table or texts fit into memory, asked before they are read.

Data is read whole. What would not fit is refused with its size, where
the operating system would otherwise end the process without a word.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedlearn.core.errors import DataError

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CELL_BYTES = 80
"""A number of a Parquet file, up to the features that are made of it: measured, 58 to 80, half
of which reading takes. What is there more than once takes less."""
TEXT_FACTOR = 28
"""Bytes in memory for a byte of a text file, up to the features: measured, 7 for numbers of 18
digits, 11 to 25 for short ones."""

PROSE_FACTOR = 8
"""The same for a file of whole texts, whose cells are long."""


def installed() -> int:
    """Bytes of memory that this process may ever have: the machine's, or its container's."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return 2**62
    try:
        limit = _CGROUP_LIMIT.read_text(encoding="utf-8").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def require(path: Path, needed: int) -> None:
    """Raises `DataError` where reading `path` would take more memory than there is."""
    there = installed()
    if needed > there:
        raise DataError(
            f"{path}: would take about {gigabytes(needed)} of memory, and there are "
            f"{gigabytes(there)}; take fewer columns, shorter texts, or a sample of the records"
        )


def gigabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 2**30:.3g} GiB"
