"""Scenario `contracts`: clauses of software agreements, 18 kinds, sites are who drafted them.

3,041 clauses of 320 drafters (`fedlearn.data.texts.clauses` says where they and
their labels come from). A drafter with 30 clauses or more is a site; smaller
ones are grouped at random into firms, as lawyers with several clients. Test
clauses are of small drafters whom no site has in training: what is measured is
how a model does on the paper of somebody new. Texts without a known drafter
are at a site called `unattributed`; they are never test clauses.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.core.settings import Count, Natural, Probability, config
from fedlearn.data.datasets.archives import ARCHIVES, fetch
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.texts.clauses import Clause, clauses
from fedlearn.data.texts.documents import Documents, held_out_groups, numbered, pool_of
from fedlearn.data.texts.tokens import Tokenizer

SIZE = 3041
CLASSES = (
    "assignment", "definitions", "entire_agreement", "export_compliance",
    "governing_law_disputes", "indemnification", "ip_ownership", "license_grant",
    "limitation_of_liability", "notices_amendment", "redistribution_source", "restrictions",
    "severability_waiver", "support_updates", "termination", "third_party",
    "trademarks_publicity", "warranty",
)  # fmt: skip
_LARGE = (
    "adobe-systems", "apple", "creative-commons", "google", "ibm", "intel-corporation",
    "microsoft", "nvidia", "oracle-corporation", "oracle-sun", "osi-open-source-initiative",
    "splunk",
)  # fmt: skip
_UNATTRIBUTED = "unattributed"
_FIRMS = 8
_UNKNOWN = ("proprietary-license", "commercial-license", "")  # kinds of licences, not drafters
_LARGE_FROM = 30
SITES = (*_LARGE, *(f"firm-{i + 1:02d}" for i in range(_FIRMS)), _UNATTRIBUTED)
"""The sites as they are unless the config says otherwise."""

_FORM = "fedlearn/clauses/v1"  # raise it when `fedlearn.data.texts.clauses` finds others


@config
class Contracts(Scenario):
    """Clauses with their kind; `firms` share the small drafters, some of whom are for the test.

    `split` is which draw of test drafters, and of firms, it is: the same for
    every seed of a run, so that what a pretrained model makes of a site's
    clauses is computed once.
    """

    kind: Literal["contracts"] = "contracts"
    tells = "nothing"
    dataset = Dataset(
        name="contracts",
        records=SIZE,
        sites=SITES,
        classes=CLASSES,
        licence=ARCHIVES["contracts"].licence,
        source="clauses of software agreements collected by ScanCode, by their headings",
        archive=ARCHIVES["contracts"],
    )
    firms: Count = _FIRMS
    test_fraction: Probability = 0.2
    split: Natural = 0
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def load(self, reading: Reading) -> Pool:
        """The 3,041 clauses, fetched when they are not in the cache."""
        return load(self, reading.cache)


def load(config: Contracts, cache: Path) -> Pool:
    """The 3,041 clauses, fetched when they are not in the cache.

    For the test drafters are drawn until they have about `test_fraction` of
    all clauses, and at most half of those of small drafters.

    Raises:
        DataError: the archive is altered, or neither cached nor to be had.
    """
    rng = Streams(config.split).get("contracts")
    found = _clauses(cache)
    drafters = np.array([clause.drafter for clause in found])
    sizes = Counter(drafters.tolist())
    small = np.array([_is_small(name, sizes) for name in drafters])
    share = min(0.5, config.test_fraction * len(found) / small.sum())
    is_test = np.zeros(len(found), dtype=np.bool_)
    is_test[small] = held_out_groups(drafters[small], share, rng)
    classes, labels = numbered([clause.family for clause in found])
    return pool_of(
        Documents(
            name="contracts",
            texts=[clause.text for clause in found],
            classes=classes,
            labels=labels,
            is_train=~is_test,
            sites=_sites(drafters, small, is_test, config.firms, rng),
        ),
        config.tokenizer,
        cache,
    )


def _is_small(drafter: str, sizes: Counter[str]) -> bool:
    return sizes[drafter] < _LARGE_FROM and drafter not in _UNKNOWN


def _sites(
    drafters: NDArray[np.str_],
    small: NDArray[np.bool_],
    is_test: NDArray[np.bool_],
    firms: int,
    rng: np.random.Generator,
) -> NDArray[np.str_]:
    """The site of every clause; drafters to learn from and to test on are dealt out evenly."""
    names = {d: _slug(d) for d in drafters[~small]}
    for part in (small & ~is_test, small & is_test):
        dealt = rng.permutation(np.unique(drafters[part]))
        names |= {drafter: f"firm-{i % firms + 1:02d}" for i, drafter in enumerate(dealt)}
    return np.array([names[drafter] for drafter in drafters])


def _slug(drafter: str) -> str:
    if drafter in _UNKNOWN:
        return _UNATTRIBUTED
    return re.sub(r"[^a-z0-9]+", "-", drafter.lower()).strip("-")


def _clauses(cache: Path) -> Sequence[Clause]:
    """The clauses, from the cache where they have been taken out of this archive before.

    Comparing all clauses of a family with each other takes several seconds.
    """
    archive = ARCHIVES["contracts"]
    path = cache / "derived" / f"contracts-{archive.sha256[:16]}.json"
    kept = _read(path)
    if kept is None:
        kept = clauses(fetch(archive, cache))
        _store(path, kept)
    return kept


def _read(path: Path) -> list[Clause] | None:
    """What was stored; None where nothing is, or not what was stored."""
    try:
        head, _, body = path.read_text("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if head != _head(body):
        return None
    return [Clause(**row) for row in json.loads(body)]


def _store(path: Path, found: Sequence[Clause]) -> None:
    body = json.dumps([asdict(clause) for clause in found])
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(f"{_head(body)}\n{body}", "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"contracts: {path.parent} cannot be written ({error.strerror}); set FEDLEARN_CACHE "
            "to a folder that can"
        ) from error


def _head(body: str) -> str:
    return f"{_FORM} {hashlib.sha256(body.encode()).hexdigest()}"
