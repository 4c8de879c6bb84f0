"""What an owner decided of studies: an append-only file beside the ledger, and what it means.

A decision is of the hash of the terms that the coordinator has signed, and of no name: a study of
changed terms is another one. An approval is besides of the pinned list of sites that its owner
looked at, since that is not among the terms; a refusal holds whatever the list. Only the owner's
commands write here; the process that talks to the coordinator reads.

Entries (all with `time`, UTC in ISO 8601), in a file of `clients.ledger.hash_chain`:

| kind | says |
|---|---|
| open | `schema`, `site`: whose decisions these are; once, first |
| approve, refuse, pause, withdraw | `terms`, the hash (hex); `roster`, that of the pinned list |
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, cast, get_args

from clients.ledger import hash_chain
from clients.ledger.hash_chain import ChainFile
from clients.ledger.state import utc
from fedlearn.core.errors import ConfigError, DataError, PrivacyError

SCHEMA: Final = "fedlearn/decisions/v1"

Verb = Literal["approve", "refuse", "pause", "withdraw"]
"""What an owner can do with a study; to approve of one that is paused resumes it."""

Standing = Literal["waiting", "allowed", "approved", "paused", "refused", "withdrawn"]
"""How a study stands: it waits for a decision, or is allowed by the policy alone."""

CHOICES: Final[dict[Standing, tuple[Verb, ...]]] = {
    "waiting": ("approve", "refuse"),
    "allowed": ("pause", "withdraw"),
    "approved": ("pause", "withdraw"),
    "paused": ("approve", "withdraw"),
    "refused": (),
    "withdrawn": (),
}
"""What can be decided of a study that stands so."""

TAKES_PART: Final = frozenset({"allowed", "approved"})

_TERMS: Final = re.compile(r"[0-9a-f]{64}")
_BUSY_SECONDS: Final = 5.0
"""For a file that another command of the owner's is writing."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision; `line` is the hash of its line in the file, `time` ISO, UTC."""

    verb: Verb
    terms: str
    roster: str
    time: str
    line: str


@dataclass(frozen=True)
class Decisions:
    """All decisions of one site, in the order in which they were made; `lines` are all hashes."""

    site: str = ""
    made: tuple[Decision, ...] = ()
    lines: tuple[str, ...] = ()

    def standing(self, terms: str, roster: str, *, asks: bool) -> Standing:
        """How a study stands under a pinned list of sites; `asks`: the owner's policy wants to be
        asked."""
        last = self.last(terms)
        verb = last.verb if last else None
        if verb == "refuse":
            return "refused"
        if verb == "withdraw":
            return "withdrawn"
        if verb == "pause":
            return "paused"
        if verb == "approve" and last and last.roster == roster:
            return "approved"
        return "waiting" if asks else "allowed"

    def last(self, terms: str) -> Decision | None:
        """The last decision of a study."""
        return next((one for one in reversed(self.made) if one.terms == terms), None)

    def of(self, terms: str) -> tuple[Decision, ...]:
        """All decisions of a study."""
        return tuple(one for one in self.made if one.terms == terms)


def beside(ledger: Path) -> Path:
    """The file of decisions of the data that a ledger belongs to."""
    return ledger.with_name(f"{ledger.stem}.decisions.jsonl")


def roster_digest(roster: Path | None) -> str:
    """The hash of the pinned list as it is on the disk; empty where a simulation has none."""
    if roster is None:
        return ""
    try:
        return hashlib.sha256(roster.read_bytes()).hexdigest()
    except OSError:  # whoever needs the list says so
        return ""


def read(ledger: Path) -> Decisions:
    """The decisions beside a ledger; none where there is no file.

    Raises:
        DataError: it is not intact, or holds what this version does not know.
    """
    path = beside(ledger)
    if not path.exists() and not path.with_name(f"{path.name}.head").exists():
        return Decisions()
    try:
        chain = hash_chain.read(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return _replayed(chain.entries, chain.hashes, path)


def decide(
    ledger: Path, site: str, verb: Verb, terms: str, roster: str, *, asks: bool, now: datetime
) -> Decision:
    """Write a decision down; on return it has reached the disk.

    Raises:
        ConfigError: nothing of the kind can be decided of a study that stands as this one does.
        DataError: the file is not intact, or another site's.
    """
    path = beside(ledger)
    with closing(_opened(path)) as file:
        before = _replayed(file.entries, file.hashes, path)
        if before.site not in ("", site):
            raise DataError(f"{path}: belongs to site {before.site}, not to {site}")
        standing = before.standing(terms, roster, asks=asks)
        if verb not in CHOICES[standing]:
            raise ConfigError(f"study {terms[:16]}: is {standing}; {_way_out(standing)}")
        if not before.site:
            file.append({"kind": "open", "schema": SCHEMA, "site": site, "time": utc(now)})
        file.append({"kind": verb, "roster": roster, "terms": terms, "time": utc(now)})
        return Decision(verb=verb, terms=terms, roster=roster, time=utc(now), line=file.hashes[-1])


def _way_out(standing: Standing) -> str:
    can = CHOICES[standing]
    if not can:
        return "that holds; a coordinator who changes the terms asks for another study"
    return f"what can be done with it: {', '.join(can)}"


def _opened(path: Path) -> ChainFile:
    """The file to append to, once no other command of the owner's has it open."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return ChainFile(path)
        except PrivacyError:
            if time.monotonic() > until:
                raise ConfigError(
                    f"{path}: another command is writing a decision; try again"
                ) from None
            time.sleep(0.05)


def _replayed(entries: Sequence[hash_chain.Entry], hashes: Sequence[str], path: Path) -> Decisions:
    site, made = "", list[Decision]()
    for number, (entry, line) in enumerate(zip(entries, hashes, strict=True), start=1):
        with _named(path, number):
            texts = {key: _text(value) for key, value in entry.items()}
            if (texts["kind"] == "open") != (number == 1):
                raise ValueError("the first entry, and only that, is of kind 'open'")
            if texts["kind"] == "open":
                site = _site_of(texts)
            else:
                made.append(_decision_of(texts, line))
    return Decisions(site=site, made=tuple(made), lines=tuple(hashes))


def _site_of(texts: dict[str, str]) -> str:
    if set(texts) != {"kind", "schema", "site", "time"} or texts["schema"] != SCHEMA:
        raise ValueError(f"this version reads {SCHEMA!r}")
    return texts["site"]


def _decision_of(texts: dict[str, str], line: str) -> Decision:
    if set(texts) != {"kind", "roster", "terms", "time"} or texts["kind"] not in get_args(Verb):
        raise ValueError(f"an entry of kind {texts['kind']!r} is unknown")
    if not _TERMS.fullmatch(texts["terms"]):
        raise ValueError("terms: must be 64 hex digits")
    return Decision(
        verb=cast(Verb, texts["kind"]),
        terms=texts["terms"],
        roster=texts["roster"],
        time=texts["time"],
        line=line,
    )


@contextmanager
def _named(path: Path, number: int) -> Iterator[None]:
    """Say where in the file an entry is that is none."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}, line {number}: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r}: must be a text")
    return value
