"""From which commit the running code comes, where that can be known.

The hash of the source (`fedlearn.core.code`) says what ran; a commit says where to find it.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from fedlearn.core.code import PACKAGES


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
