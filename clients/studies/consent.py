"""Whether an owner lets a study go on: asked at every message, before a record is read.

It comes after the policy, and beside the ledger: no decision allows what one of them refuses.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from clients.ledger.anchor import note_decisions
from clients.studies import asked, decisions
from clients.studies.decisions import TAKES_PART, Decisions, Standing
from fedlearn.config import RunConfig, to_tree
from fedlearn.config.study import study_text
from fedlearn.core.errors import DataError, PrivacyError, ProtocolError
from fedlearn.core.logs import EVENTS
from fedlearn.flower import messages as flower
from fedlearn.rounds import ByOwner

log = logging.getLogger(__name__)

_OUTSIDE: Final[Mapping[Standing, str]] = {
    "waiting": "awaiting its owner's approval",
    "paused": "paused by its owner",
    "refused": "its owner has refused the study",
    "withdrawn": "its owner has withdrawn from the study",
}
"""All that anybody else hears of a decision."""

_BY_OWNER: Final[Mapping[Standing, ByOwner]] = {
    "waiting": "undecided",
    "paused": "paused",
    "refused": "refused",
    "withdrawn": "withdrawn",
}

BEGINS_ROUND: Final = "train"
"""The step by which a round begins; an evaluation without it is one as well."""

_BEGINS: Final = frozenset({flower.HELLO, flower.JOIN, flower.SCREEN, flower.AFFORD, BEGINS_ROUND})
"""What a study that is paused is not asked: a round that has begun is finished."""


class HeldError(ProtocolError):
    """A study waits for its owner; `reason` is all that others hear of it."""

    def __init__(self, standing: Standing) -> None:
        super().__init__("", "owner", _OUTSIDE[standing])  # whose, the reader of a reply knows
        self.by_owner = _BY_OWNER[standing]


class DeclinedError(PrivacyError):
    """An owner takes no part, or no more; `reason` is all that others hear of it."""

    def __init__(self, standing: Standing) -> None:
        self.reason = _OUTSIDE[standing]
        self.by_owner = _BY_OWNER[standing]
        super().__init__(self.reason)


@dataclass(frozen=True, kw_only=True)
class Consent:
    """Who decides of studies on the data of a ledger, and under which pinned list of sites.

    `asks`: no study is taken part in before its owner has approved of it. `notes`: studies are
    written down for the owner to see, decided of or not.
    """

    site: str
    ledger: Path
    roster: Path | None
    asks: bool
    notes: bool

    def check(self, config: RunConfig, step: str, now: datetime) -> None:
        """Refuse what the owner has not decided of, or has decided against.

        Raises:
            HeldError: the study waits for a decision, or is paused.
            DeclinedError: it is refused, or withdrawn from.
            PrivacyError: what was decided cannot be read.
        """
        made = self._read(now)
        terms = config.terms.hex()
        # Anew each time: a study that goes on is never forgotten.
        is_news = step in _BEGINS and self.notes and self._note(config, now, made)
        roster = decisions.roster_digest(self.roster) if made.made else ""
        standing = made.standing(terms, roster, asks=self.asks)
        if standing in TAKES_PART or (standing == "paused" and step not in _BEGINS):
            return
        log.info("study %s: %s", terms, _OUTSIDE[standing])
        if is_news and standing == "waiting":
            EVENTS.warning("study_waits", extra={"fields": {"site": self.site, "study": terms}})
        raise (HeldError if standing in ("waiting", "paused") else DeclinedError)(standing)

    def _read(self, now: datetime) -> Decisions:
        try:
            made = decisions.read(self.ledger)
            if made.site not in ("", self.site):
                raise DataError(f"{decisions.beside(self.ledger)}: belongs to {made.site}")
            note_decisions(self.ledger, made.lines, now=now)
        except DataError as error:
            raise PrivacyError(f"site {self.site}: {error}") from None
        return made

    def _note(self, config: RunConfig, now: datetime, made: Decisions) -> bool:
        """Whether it is news to the owner, who finds in the log why one cannot be written."""
        decided = {one.terms for one in made.made}
        try:
            return asked.note(self.ledger, study_text(to_tree(config)), now, decided)[1]
        except OSError as error:
            folder = asked.folder_beside(self.ledger)
            log.warning("%s: cannot be written to (%s)", folder, error.strerror)
            return False
