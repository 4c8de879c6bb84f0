"""Which fedlearn is running: one hash over its source, so that parties can name it; its commit.

A data owner who has read (or had read) a version approves its hash; parties
whose hashes differ run different protocols and say so. Dependencies are not in
the hash: they are pinned where fedlearn is installed. The hash says what ran; a commit, where it
is known, says where to find it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from fedlearn.core.errors import ConfigError, refuse

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
    refuse(problems, ConfigError)


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


@cache
def commit(root: Path | None = None) -> str:
    """The git commit of the project in the folder `root`, which is ours unless said otherwise.

    `+` follows where tracked or new source files differ from it. A copy that pip installed
    from a repository knows its commit without git. Empty where nobody knows: an archive, a
    machine without git, or a folder that lies inside somebody else's repository.
    """
    own = root or Path(__file__).resolve().parents[2]
    if (own / ".git").exists():
        head = _git(own, "rev-parse", "HEAD")
        changed = _git(own, "status", "--porcelain", "--", *PACKAGES)
        return "" if head is None else f"{head}{'+' if changed else ''}"
    return _installed() if root is None else ""


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None if it cannot."""
    # A hook or an alias of the caller may have pointed git at another repository.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True, text=True, env=environment, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _installed() -> str:
    """The commit that pip noted when it installed fedlearn (PEP 610)."""
    try:
        noted = Distribution.from_name("fedlearn").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    found = json.loads(noted or "{}").get("vcs_info", {})
    return str(found.get("commit_id", ""))
