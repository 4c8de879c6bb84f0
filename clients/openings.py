"""How often a deployed site has opened its share of common randomness for nothing.

A coordinator that has seen all shares knows the groups of every round, before anything is paid.
If it could break off and begin anew as often as it liked, it would choose the groups after all. So
a site counts, over all runs and terms, and opens no more until a round has been trained in between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from clients.owner import Owner
from fedlearn.core.errors import PrivacyError
from fedlearn.core.files import write_atomically

MOST: Final = 8
"""A start goes on without sites that fail, each time with new shares: a few are no sign of ill."""

_SUFFIX: Final = ".openings"


def count(owner: Owner) -> None:
    """Write down one more, before the share is shown; nothing at a site that is simulated.

    Raises:
        PrivacyError: there have been as many as may be; with the way out.
    """
    if owner.deployed is None:
        return
    path, before = _path(owner), _count(owner)
    if before >= MOST:
        raise PrivacyError(
            f"site {owner.name}: has opened its share of common randomness {before} times and "
            "trained in no round since: whoever breaks runs off before their first round draws "
            f"groups until they please. If you know why they were broken off, remove {path}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, str(before + 1).encode(), 0o600)


def forget(owner: Owner) -> None:
    """A contribution to a round is made: what was opened was of use."""
    if owner.deployed is not None:
        _path(owner).unlink(missing_ok=True)


def _count(owner: Owner) -> int:
    """How many there were; what cannot be read counts as all that may be."""
    try:
        return int(_path(owner).read_text())
    except FileNotFoundError:
        return 0
    except ValueError:
        return MOST


def _path(owner: Owner) -> Path:
    return owner.ledger.with_suffix(_SUFFIX)
