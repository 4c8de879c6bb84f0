"""Texts that everybody knows: what queries are told from in training, and found among in tests.

None of them is a site's, so a loss or a rank that compares a record with them is about that record
alone. Those of tests are of the kind that sites have: among others, of another style, a model would
find its own documents by their style and not by what was asked.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fedlearn.data.datasets.contracts import Clause, is_small, site_of_drafter, stored_clauses

LICENSORS: Final = frozenset({"creative-commons", "osi-open-source-initiative", "unattributed"})
"""Whose clauses anybody may take and nobody has drafted for a client."""
_SET_ASIDE: Final = 0.16
"""Of small drafters: so many are nobody's clients, so that tests have documents like a firm's."""


@dataclass(frozen=True)
class PublicTexts:
    """How many there are of each kind, and how they are read; what is said needs no reading."""

    training: int
    tests: int
    read: Callable[[Path], tuple[Sequence[str], Sequence[str]]]

    @property
    def count(self) -> int:
        """Of both."""
        return self.training + self.tests


def parts_of(clauses: Sequence[Clause]) -> list[str]:
    """What becomes of every clause: public in `training` or in `tests`, or `` for a site's own.

    A drafter is set aside by its name alone, whoever else there is.
    """
    sizes = Counter(clause.drafter for clause in clauses)
    return [_part(clause.drafter, sizes) for clause in clauses]


def _part(drafter: str, sizes: Mapping[str, int]) -> str:
    if site_of_drafter(drafter) in LICENSORS:
        return "training"
    drawn = int.from_bytes(hashlib.sha256(f"public/{drafter}".encode()).digest()[:8], "big")
    return "tests" if is_small(drafter, sizes) and drawn < _SET_ASIDE * 2**64 else ""


def _clauses(cache: Path) -> tuple[Sequence[str], Sequence[str]]:
    clauses = stored_clauses(cache)
    parts = parts_of(clauses)
    training, tests = (
        [clause.text for clause, part in zip(clauses, parts, strict=True) if part == wanted]
        for wanted in ("training", "tests")
    )
    return training, tests


PUBLIC: Final[Mapping[str, PublicTexts]] = MappingProxyType(
    {"contracts": PublicTexts(training=526, tests=289, read=_clauses)}
)
"""By the name that a model has for them."""


@lru_cache(maxsize=2)
def public_documents(name: str, cache: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of training and of tests, each in one order for everybody: of their hashes, so
    that any number of them from the start is a fair sample.

    Raises:
        DataError: they are neither cached nor to be had.
    """
    training, tests = PUBLIC[name].read(cache)
    if (len(training), len(tests)) != (PUBLIC[name].training, PUBLIC[name].tests):
        raise ValueError(f"{len(training)} and {len(tests)} public texts of {name}: not as said")
    return _in_order(training), _in_order(tests)


def _in_order(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest()))
