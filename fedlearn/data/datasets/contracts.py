"""Scenario `contracts`: clauses of software agreements, 18 kinds, sites are who drafted them.

3,041 clauses of 320 drafters: as LEDGAR did for filings (Tuggener et al. 2020), the heading
that a drafter gave a section is its label and is taken out of the text. Headings are mapped
to families by the patterns below: the words are the drafters', the mapping is ours. Documents
are the licence texts collected by ScanCode (AboutCode). What comes out is about software and
services, not about law at large. A drafter with 30 clauses or more is a site; smaller
ones are grouped at random into firms, as lawyers with several clients. Test
clauses are of small drafters whom no site has in training: what is measured is
how a model does on the paper of somebody new. Texts without a known drafter
are at a site called `unattributed`; they are never test clauses.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.rng import Streams
from fedlearn.core.settings import Count, Natural, Probability, config
from fedlearn.data.datasets.archives import ARCHIVES, fetch, keep
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.texts.documents import held_out_groups, numbered, pool_of
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
_OF_SMALL = 1712
"""Clauses of small drafters: a constant, so that no clause decides where another one goes."""
_LARGE_FROM = 30
SITES = (*_LARGE, *(f"firm-{i + 1:02d}" for i in range(_FIRMS)), _UNATTRIBUTED)
"""The sites as they are unless the config says otherwise."""

_FORM = "fedlearn/clauses/v2"  # raise it when `clauses` finds others


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
        records=SIZE,
        sites=SITES,
        classes=CLASSES,
        source="clauses of software agreements collected by ScanCode, by their headings",
        archive=ARCHIVES["contracts"],
    )
    firms: Count = _FIRMS
    test_fraction: Probability = 0.2
    split: Natural = 0
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def load(self, reading: Reading) -> Pool:
        """The 3,041 clauses, fetched when they are not in the cache, dealt out as `dealt` says."""
        found = stored_clauses(reading.cache)
        is_train, sites = dealt(found, self.firms, self.test_fraction, self.split)
        classes, labels = numbered([clause.family for clause in found])
        return pool_of(
            self.tokenizer,
            reading.cache,
            name="contracts",
            texts=[clause.text for clause in found],
            classes=classes,
            labels=labels,
            is_train=is_train,
            sites=sites,
        )


def dealt(
    found: Sequence[Clause], firms: int, test_fraction: float, split: int
) -> tuple[NDArray[np.bool_], NDArray[np.str_]]:
    """Whether each clause is trained on, `bool[n]`, and its site, `str[n]`.

    For the test small drafters are drawn, each by its name, so that they have about
    `test_fraction` of all clauses, and about half of those of small drafters at most.
    """
    rng = Streams(split).get("contracts")
    drafters = np.array([clause.drafter for clause in found])
    sizes = Counter(drafters.tolist())
    small = np.array([is_small(name, sizes) for name in drafters])
    share = min(0.5, test_fraction * SIZE / _OF_SMALL)
    is_test = np.zeros(len(found), dtype=np.bool_)
    is_test[small] = held_out_groups(drafters[small], share, Streams(split))
    return ~is_test, _sites(drafters, small, is_test, firms, rng)


def is_small(drafter: str, sizes: Mapping[str, int]) -> bool:
    """Whether a drafter is known and has too few of the clauses to be a site of its own."""
    return sizes[drafter] < _LARGE_FROM and drafter not in _UNKNOWN


def _sites(
    drafters: NDArray[np.str_],
    small: NDArray[np.bool_],
    is_test: NDArray[np.bool_],
    firms: int,
    rng: np.random.Generator,
) -> NDArray[np.str_]:
    """The site of every clause; drafters to learn from and to test on are dealt out evenly."""
    names = {d: site_of_drafter(d) for d in drafters[~small]}
    for part in (small & ~is_test, small & is_test):
        dealt = rng.permutation(np.unique(drafters[part]))
        names |= {drafter: f"firm-{i % firms + 1:02d}" for i, drafter in enumerate(dealt)}
    return np.array([names[drafter] for drafter in drafters])


def site_of_drafter(drafter: str) -> str:
    """The site that a drafter is, or `unattributed` for nobody in particular."""
    if drafter in _UNKNOWN:
        return _UNATTRIBUTED
    return re.sub(r"[^a-z0-9]+", "-", drafter.lower()).strip("-")


# --- out of the documents -----------------------------------------------------------

FAMILIES = {
    "limitation_of_liability": r"(limitation|exclusion|disclaimer|limit)s? (of|on)"
    r"( and exclusion of)? (liabilit|remed|damage)|consequential damages|limitations? of remed"
    r"|^liability",
    "warranty": r"warrant",
    "termination": r"^terminat|term and terminat|effect of terminat|acceptance and terminat|^term$"
    r"|duration",
    "governing_law_disputes": r"governing|applicable law|jurisdiction|dispute|choice of law"
    r"|arbitration|venue",
    "definitions": r"definition|^defined terms|interpretation",
    "indemnification": r"indemn|responsibility for claims",
    "confidentiality": r"confidential|nondisclosure",
    "export_compliance": r"export",
    "government_use": r"government",
    "patents": r"patent",
    "trademarks_publicity": r"trademark|logos|publicity|branding|endorsement",
    "payment_fees": r"\bfees?\b|payment|tax|price|pricing|royalt",
    "assignment": r"assign|transfer|sublicens",
    "severability_waiver": r"severab|waiver|survival",
    "entire_agreement": r"entire agreement|integration|complete agreement|merger",
    "support_updates": r"support|maintenance|updates?$|upgrade",
    "data_privacy": r"privacy|personal data|data protection|collection of|consent to use of data"
    r"|data collection",
    "audit_records": r"audit|records|verification|inspection",
    "restrictions": r"restriction|prohibited|limitations on use|you may not",
    "license_grant": r"licen[sc]e grant|grant of (rights|licen|copyright|source)|right to use"
    r"|scope of licen|licen[sc]e to use|installation and use|permitted use|^grants?$"
    r"|contributor grant|initial developer grant",
    "ip_ownership": r"owner|intellectual property|^title|proprietary rights"
    r"|reservation of rights|reserved rights",
    "redistribution_source": r"redistribut|source code|distribution|derivative|modif|conveying"
    r"|copying",
    "notices_amendment": r"notices?$|amendment|changes to|modification of this|new versions"
    r"|revised versions",
    "third_party": r"third[- ]?part|open source",
}
"""Families of headings; a heading belongs to the first one that it matches."""

_LEAST_OF_A_FAMILY = 60
_NEAR = 0.8  # cosine of TF-IDF vectors, from which on two clauses count as one
_LENGTHS = (80, 6000)  # characters of a clause
_SHORTEST_LICENCE, _SHORTEST_RULE = 200, 3000

_PATTERNS = {family: re.compile(pattern) for family, pattern in FAMILIES.items()}
_FENCE = re.compile(r"^---\s*$", re.M)
_HEADING = re.compile(
    r"""^\s{0,12}(?:(?:Section|SECTION|Article|ARTICLE)\s+)?
    (?:\(?\d{1,2}(?:\.\d{1,2}){0,2}[.)]?|\(?[A-Z][.)]|[IVX]{1,5}[.)])  # its number
    \s+["“*]*(?P<heading>[A-Z][A-Za-z'’/&,\- ]{3,70}?)["”*]*
    \s*(?:[.:;—–]|\s-\s|--|$)\s*(?P<rest>.*)$""",
    re.X,
)
_MOST_WORDS = 8


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One section of an agreement, `text` without its heading; `drafter` is whose it is."""

    drafter: str
    family: str
    heading: str
    text: str


def clauses(wheel: Path) -> list[Clause]:
    """All clauses of the families that have 60 or more, in the order of the documents.

    Copies are left out, also near ones, within a family.
    """
    found = [clause for drafter, text in _documents(wheel) for clause in _sections(drafter, text)]
    kept = _without_near_copies(_without_copies(found))
    sizes = {family: sum(c.family == family for c in kept) for family in FAMILIES}
    return [clause for clause in kept if sizes[clause.family] >= _LEAST_OF_A_FAMILY]


def stored_clauses(cache: Path) -> Sequence[Clause]:
    """The clauses, from the cache where they have been taken out of this archive before.

    Comparing all clauses of a family with each other takes several seconds.
    """
    archive = ARCHIVES["contracts"]
    path = cache / "derived" / f"clauses-{archive.sha256[:16]}.json"
    kept = _read(path)
    if kept is None:
        kept = clauses(fetch(archive, cache))
        body = json.dumps([asdict(clause) for clause in kept])
        keep("contracts", path, f"{_head(body)}\n{body}".encode())
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


def _head(body: str) -> str:
    return f"{_FORM} {hashlib.sha256(body.encode()).hexdigest()}"


def _documents(wheel: Path) -> Iterator[tuple[str, str]]:
    """Drafter and text of English licences in use, and of long rules (texts met in the wild)."""
    with zipfile.ZipFile(wheel) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            rule = info.filename.endswith(".RULE")
            if not rule and not info.filename.endswith(".LICENSE"):
                continue
            if rule and info.file_size < _SHORTEST_RULE:  # nearly all; not worth unpacking
                continue
            text = archive.read(info).decode("utf-8", "replace")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            parts = _FENCE.split(text, maxsplit=2)
            if len(parts) == 3 and _wanted(parts[1], len(text), len(parts[2].strip()), rule):
                drafter = _field(parts[1], "license_expression" if rule else "owner")
                yield drafter or "", parts[2].strip()


def _wanted(head: str, file_length: int, length: int, rule: bool) -> bool:
    if rule:
        return file_length >= _SHORTEST_RULE and "language:" not in head
    english = (_field(head, "language") or "en") == "en"
    return english and length > _SHORTEST_LICENCE and "is_deprecated: yes" not in head


def _field(head: str, name: str) -> str | None:
    found = re.search(rf"^{name}: (.*)$", head, re.M)
    return found.group(1) if found else None


def _sections(drafter: str, text: str) -> Iterator[Clause]:
    heading, lines = "", list[str]()
    for line in [*text.split("\n"), None]:
        found = _HEADING.match(line) if line is not None else None
        begins = found is not None and len(found["heading"].split()) <= _MOST_WORDS
        if line is None or begins:
            clause = _clause(drafter, heading, " ".join(lines))
            if clause:
                yield clause
        if found is not None and begins:
            heading, lines = found["heading"], [found["rest"]]
        elif line is not None:
            lines.append(line)


def _clause(drafter: str, heading: str, text: str) -> Clause | None:
    body = " ".join(text.split())
    plain = re.sub(r"[^a-z ]", "", heading.lower()).strip()
    family = next((name for name, p in _PATTERNS.items() if p.search(plain)), None)
    if not heading or family is None or not _LENGTHS[0] <= len(body) <= _LENGTHS[1]:
        return None
    return Clause(drafter=drafter, family=family, heading=heading, text=body)


def _letters(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[^a-z ]", " ", text.lower()))


def _without_copies(found: Sequence[Clause]) -> list[Clause]:
    first: dict[str, Clause] = {}
    for clause in found:
        first.setdefault(_letters(clause.text), clause)
    return list(first.values())


def _without_near_copies(found: Sequence[Clause]) -> list[Clause]:
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import

    kept: list[int] = []
    for family in FAMILIES:
        rows = [i for i, clause in enumerate(found) if clause.family == family]
        if not rows:
            continue
        vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(
            [_letters(found[i].text) for i in rows]
        )
        near = (vectors @ vectors.T).toarray() >= _NEAR
        mine: list[int] = []
        for place in range(len(rows)):
            if not np.any(near[place, mine]):
                mine.append(place)
        kept += [rows[place] for place in mine]
    return [found[i] for i in sorted(kept)]
