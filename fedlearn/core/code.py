"""Which fedlearn is running: one hash over its source, so that parties can name it.

A data owner who has read (or had read) a version approves its hash; parties
whose hashes differ run different protocols and say so. Dependencies are not in
the hash: they are pinned where fedlearn is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fedlearn.core.errors import ConfigError

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


@cache
def check_packages() -> None:
    """Refuse to go on where a file of the user's own stands in for one of our packages.

    They lie side by side with whatever else is installed, and the folder of a script, or the
    one that `python -m` is called in, is searched before that.

    Raises:
        ConfigError: with the file that is in the way.
    """
    root = Path(__file__).resolve().parents[2]
    found = ((name, _place_of(name)) for name in PACKAGES if name != "configs")
    problems = [
        f"{path}: hides the package {name} of fedlearn, which has the same name; rename it, or "
        "work in another folder"
        for name, path in found
        if path is not None and root not in path.resolve().parents
    ]
    if problems:
        raise ConfigError(problems)


def _place_of(name: str) -> Path | None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        path = getattr(loaded, "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        path = spec.origin if spec else None
    return None if path is None else Path(path)


def _sources(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from (path for path in (root / package).rglob("*") if path.suffix in SUFFIXES)
