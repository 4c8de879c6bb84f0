"""Sites that cannot take part in a run: the end of its start, or a start without them.

In a simulation all sites are one user's, and what one of them refuses is the user's to mend: all
reasons come together as one error. In a deployment a site that is misconfigured, or that lies,
would hold up everybody else. There it is as one that is not online: set aside by its name, with
the reason, while `strategy.min_sites` (and as many as a sum needs) are left.

Nobody takes part under a list of sites that has somebody on it who does not: noise in shares,
masks and thresholds follow from the sites of a run. So those who are left are invited anew, to a
run of themselves, before anything is paid for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedlearn.config import RunConfig
from fedlearn.core.errors import (
    ConfigError,
    DataError,
    FedlearnError,
    PrivacyError,
    ProtocolError,
)
from fedlearn.flower.grid import Replies
from fedlearn.rounds import Hello, Refusal
from server.admission import Admission

log = logging.getLogger(__name__)


class FailingSitesError(Exception):
    """Some of the sites that were asked cannot take part.

    `reasons` are theirs, in sentences; `error` is that of the start, where it ends for them;
    `private` whether a budget or a policy is the reason at each of them.
    """

    def __init__(
        self, reasons: Mapping[str, Sequence[str]], error: FedlearnError, *, private: bool = False
    ) -> None:
        super().__init__(str(error))
        self.reasons, self.error, self.private = reasons, error, private


@dataclass(frozen=True)
class Invited:
    """Who is asked to take part, and why others are not any more."""

    hellos: Mapping[str, Hello]
    node_of: Mapping[str, int]
    aside: tuple[str, ...] = ()
    """Sentences on sites that take no part."""

    def without(
        self, failing: FailingSitesError, config: RunConfig, admission: Admission
    ) -> Invited:
        """Those that are left, where they may start without the others.

        Raises:
            FedlearnError: they may not, or are too few.
        """
        left = [site for site in self.hellos if site not in failing.reasons]
        allowed = admission.sets_aside or (failing.private and config.privacy.drops_sites)
        if not allowed or len(left) < fewest(config):
            for sentence in self.aside:
                failing.error.add_note(f"set aside before: {sentence}")
            raise failing.error
        found = sentences(failing.reasons)
        for sentence in found:
            log.warning("goes on without a site: %s", sentence)
        return replace(
            self,
            hellos={site: self.hellos[site] for site in left},
            node_of={site: self.node_of[site] for site in left},
            aside=(*self.aside, *found),
        )


def fewest(config: RunConfig) -> int:
    """The sites without which a run does not start."""
    return max(config.strategy.min_sites, config.secagg.least)


def sentences(reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Every reason with the name of its site, once."""
    return [
        reason if reason.startswith(f"site {site}:") else f"site {site}: {reason}"
        for site, found in reasons.items()
        for reason in found
    ]


def check(replies: Replies, step: str) -> None:
    """Refuse an exchange in which not all have answered.

    Raises:
        FailingSitesError: some sites refused, or did not answer.
    """
    if failing := failing_in(replies, step):
        raise failing


def failing_in(replies: Replies, step: str) -> FailingSitesError | None:
    """Sites that refused in an exchange, or did not answer as they should, if there are any."""
    reasons = {one.site: one.reason.splitlines() for one in replies.refusals}
    reasons |= {site: [reason] for site, reason in replies.failures.items()}
    if not reasons:
        return None
    error = refusal_of(replies.refusals) or ProtocolError("", step, listed(replies.failures))
    private = not replies.failures and all(
        one.exit_code == PrivacyError.exit_code for one in replies.refusals
    )
    return FailingSitesError(reasons, error, private=private)


def raise_refusals(refusals: Sequence[Refusal]) -> None:
    """One error for all refusals, if there are any."""
    if error := refusal_of(refusals):
        raise error


def refusal_of(refusals: Sequence[Refusal]) -> FedlearnError | None:
    """One error for all: of the kind that most needs the user, with every reason."""
    if not refusals:
        return None
    code = min(refusal.exit_code for refusal in refusals)
    reasons = dict.fromkeys(
        reason for refusal in refusals for reason in refusal.reason.splitlines()
    )
    if code == ConfigError.exit_code:
        return ConfigError(list(reasons))
    for kind in (PrivacyError, DataError):
        if code == kind.exit_code:
            return kind("\n".join(reasons))
    return ProtocolError("", "refused", "; ".join(reasons))


def listed(failures: Mapping[str, str]) -> str:
    """`site: reason` of every failure, in one line."""
    return "; ".join(f"{site}: {reason}" for site, reason in failures.items()) or "no failures"
