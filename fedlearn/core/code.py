"""Which fedlearn is running: one hash over its source, so that parties can name it.

A data owner who has read (or had read) a version approves its hash; parties
whose hashes differ run different protocols and say so. Dependencies are not in
the hash: they are pinned where fedlearn is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("clients", "configs", "fedlearn", "server", "simulations")
SUFFIXES = (".py", ".yaml", ".j2", ".md")


@cache
def code_digest(root: Path | None = None) -> str:
    """SHA-256 (hex) of the source files of the project below `root`, by path and contents.

    **Guarantees:** equal for equal sources, wherever they lie and whenever they
    were written; another byte in any of them, or another file, gives another.
    """
    root = root or Path(__file__).resolve().parents[2]
    digest = hashlib.sha256(b"fedlearn/code/v1\n")
    for path in sorted(_sources(root), key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _sources(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from (path for path in (root / package).rglob("*") if path.suffix in SUFFIXES)
