"""What an owner sees of the studies on his data, by the file of his site; and what he decides."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from clients import sitefile
from clients.ledger.report import LedgerReport, verify
from clients.ledger.state import plain
from clients.sitefile import SimulatedSite
from clients.studies import asked, decisions
from clients.studies.asked import SHORTEST, AskedStudy
from clients.studies.decisions import CHOICES, Decision, Decisions, Standing, Verb
from clients.studies.words import TermsPart, in_words, title_of
from fedlearn.core.errors import ConfigError, FedlearnError
from fedlearn.crypto.identity import fingerprint
from fedlearn.crypto.keyring import load_pinned
from fedlearn.crypto.roster import Roster

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """One study as its owner sees it; `problem` says why its terms cannot be put into words."""

    asked: AskedStudy
    standing: Standing
    history: tuple[Decision, ...]
    title: str
    parts: tuple[TermsPart, ...]
    problem: str = ""

    @property
    def terms(self) -> str:
        """The hash of its terms."""
        return self.asked.terms

    @property
    def choices(self) -> tuple[Verb, ...]:
        """What can be decided of it: nobody approves of what cannot be put into words."""
        can = CHOICES[self.standing]
        return tuple(one for one in can if one != "approve" or not self.problem)


@dataclass(frozen=True, kw_only=True)
class OwnersView:
    """A site's studies, the last that was asked for first; `wrong` is what is amiss beside them."""

    site: SimulatedSite
    asks: bool
    studies: tuple[StudyView, ...]
    wrong: tuple[str, ...]
    ledger: LedgerReport | None
    roster: str
    """The hash of the pinned list of sites, as it was looked at."""

    def study(self, name: str) -> StudyView:
        """The study whose hash begins so.

        Raises:
            ConfigError: there is none or several, or the begin is too short to be sure of.
        """
        if len(name) < SHORTEST or not set(name) <= set("0123456789abcdef"):
            raise ConfigError(
                f"study {plain(name, 64)}: give the {SHORTEST} digits that `fedlearn studies list` "
                "shows, or more of them; a name may be that of two studies"
            )
        found = [one for one in self.studies if one.terms.startswith(name)]
        if len(found) != 1:
            there = "there is none" if not found else "there are several; give more digits"
            raise ConfigError(f"study {name}: {there}; see `fedlearn studies list`")
        return found[0]


def look(path: Path) -> OwnersView:
    """The studies of the site of a file; changes nothing.

    Raises:
        ConfigError: the file of the site is wrong.
        DataError: the decisions are not intact.
    """
    site = sitefile.load_simulated(path)
    made, (studies, wrong) = decisions.read(site.ledger), asked.all_beside(site.ledger)
    roster, problems = _roster(site)
    asks, digest = site.policy.approval == "ask", decisions.roster_digest(site.roster)
    views = [_viewed(one, made, roster, digest, asks=asks) for one in studies]
    report = None
    if site.ledger.exists():
        try:
            report = verify(site.ledger)
        except FedlearnError as error:
            problems = (*problems, str(error))
    return OwnersView(
        site=site, asks=asks, studies=tuple(views), wrong=(*wrong, *problems), ledger=report,
        roster=digest,
    )  # fmt: skip


def decide(path: Path, verb: Verb, name: str, now: datetime, seen: str | None = None) -> StudyView:
    """Write down what the owner decides of a study; how it stands then.

    `seen` is the hash of the pinned list of sites that the owner has looked at, where that was
    some time ago: an approval is of who takes part as well.

    Raises:
        ConfigError: there is no such study, nothing of the kind can be decided of it, or another
            list of sites is pinned by now.
        DataError: the decisions are not intact.
    """
    view = look(path)
    study, site = view.study(name), view.site
    if verb == "approve" and study.problem:
        raise ConfigError(study.problem)
    if seen not in (None, view.roster):
        raise ConfigError("another list of sites is pinned by now: look again who takes part")
    decisions.decide(
        site.ledger, site.name, verb, study.terms, view.roster, asks=view.asks, now=now
    )
    return look(path).study(study.terms)


def _roster(site: SimulatedSite) -> tuple[Roster | None, tuple[str, ...]]:
    """The pinned list, where the site has one, and what is wrong with it."""
    if site.roster is None or not site.roster.exists():
        return None, ()
    try:
        return load_pinned(site.roster), ()
    except FedlearnError as error:
        return None, (str(error),)


def _viewed(
    one: AskedStudy, made: Decisions, roster: Roster | None, digest: str, *, asks: bool
) -> StudyView:
    title, parts, problem = "", tuple[TermsPart, ...](), ""
    try:
        config = one.config()
        names = tuple(roster.sites()) if roster else ()
        coordinator = fingerprint(roster.coordinator) if roster and roster.coordinator else ""
        title, parts = title_of(config), in_words(config, names, coordinator)
    except FedlearnError as error:
        title, problem = "terms of another release", str(error)
    except Exception as error:  # of an installed package that has no words for its kind
        log.debug("terms %s", one.terms, exc_info=True)
        title, problem = "terms without words", f"cannot be put into words ({type(error).__name__})"
    return StudyView(
        asked=one,
        standing=made.standing(one.terms, digest, asks=asks),
        history=made.of(one.terms),
        title=title,
        parts=parts,
        problem=problem,
    )
