"""Sums over groups, as the coordinator keeps them: what they were, and who is left out for them.

From what is opened anyway it is told who pulls against the others or gives more than honest sites
can (`fedlearn.robust.evidence`), and who must have been in the sums that were refused. Whoever is
named is left out from there on, and the model becomes what it would be without the sums that he
was in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedlearn.results.folder import Checkpoint, SumOf
from fedlearn.results.result import Suspect
from fedlearn.robust import Evidence, Robust, Sizes, explained
from fedlearn.robust.evidence import Finding, recurring, set_aside, surely, window


@dataclass(frozen=True, eq=False)
class GroupChange:
    """What one sum of round `number` comes to: the mean change over `sites`, `float32[d]`."""

    number: int
    sites: tuple[str, ...]
    change: NDArray[np.float32]


@dataclass
class Suspicion:
    """All that was opened in a run, and who is named for it; grows in place."""

    rule: Robust
    sites: tuple[str, ...]
    looks: int
    """How many rounds the run has, at most."""
    reach: float | None = None
    """The norm of what an honest site gives at most, where that is known."""
    changes: list[GroupChange] = field(default_factory=list)
    named: list[Suspect] = field(default_factory=list)
    findings: list[Finding | None] = field(default_factory=list)
    """What was found in each of the rounds since somebody was named last."""
    blamed: tuple[str, ...] = ()
    """Who all sums together speak against, though others may have put that on them: not named."""

    @property
    def without(self) -> tuple[str, ...]:
        """Who is left out."""
        return tuple(sorted(one.site for one in self.named))

    @property
    def _left(self) -> int:
        """How many more may be left out."""
        sizes = Sizes(len(self.sites), self.rule.together(len(self.sites)))
        return sizes.most_left_out - len(self.named)

    def checkpoint(self, before: Checkpoint) -> Checkpoint:
        """A checkpoint with what was opened in it."""
        changes = [one.change for one in self.changes]
        return replace(
            before,
            sums=[SumOf(one.number, one.sites) for one in self.changes],
            findings=list(self.findings),
            changes=np.stack(changes) if changes else None,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        rows: Iterable[NDArray[np.float32]] = () if saved.changes is None else saved.changes
        self.changes = [
            GroupChange(head.number, head.sites, change)
            for head, change in zip(saved.sums, rows, strict=True)
        ]
        self.findings = list(saved.findings)
        self.named = [one for each in saved.rounds for one in each.named]

    def take(
        self, number: int, groups: Sequence[tuple[str, ...]], changes: NDArray[np.float64]
    ) -> None:
        """Keep what the sums of a round have come to, `float64[m, d]`."""
        self.changes += [
            GroupChange(number, sites, np.asarray(change, np.float32))
            for sites, change in zip(groups, changes, strict=True)
        ]

    def look(self, number: int, refused: Sequence[Sequence[str]]) -> list[Suspect]:
        """Who is named after round `number`; `refused` are the sites of all sums that were refused.

        Once for every round.
        """
        sums = [one for one in refused if not set(one) & set(self.without)]
        liars = explained(sums, self._left)[: self._left]
        found = [
            Suspect(
                site=site, round=number, reason="is in every account of the sums that were refused"
            )
            for site in liars
        ]
        if not found and self._left > 0:
            self.findings.append(self._finding())
            if (again := recurring(self.findings)) is not None:
                found = [Suspect(site=again.site, round=number, reason=again.reason)]
        if found:
            self.named += found
            self.findings.clear()
        return found

    def _finding(self) -> Finding | None:
        """Who pulls against the others in all sums together, or else gives too much in the latest.

        Of the latest alone no pull is told: where a model is nearly trained, honest sites that
        differ pull against each other.
        """
        there = [site for site in self.sites if site not in self.without]
        changes = [one for one in self.changes if set(one.sites) <= set(there)]
        if not changes:
            return None
        evidence, left = _evidence(changes, there), self._left
        liars = set_aside(len(there), left)

        def against(them: Evidence) -> list[int]:
            return them.against(self.rule.false_alarm, self.looks, left)

        site = surely(evidence, against, liars)
        self.blamed = () if site is not None else tuple(there[one] for one in against(evidence))
        if site is not None:
            return Finding(there[site], "pulls against all others")
        if self.reach is None:
            return None
        reach = self.reach

        def beyond(them: Evidence) -> list[int]:
            lately = them.latest(window(them.members.shape[1]))
            return them.beyond(reach, left) or lately.beyond(reach, left)

        site = surely(evidence, beyond, liars)
        return None if site is None else Finding(there[site], "gives more than honest sites can")

    def clean(self) -> Iterator[tuple[int, list[GroupChange]]]:
        """The rounds with sums that nobody was in who is named, and those sums."""
        left = set(self.without)
        clean = [one for one in self.changes if not left & set(one.sites)]
        for number in sorted({one.number for one in clean}):
            yield number, [one for one in clean if one.number == number]


def _evidence(changes: Sequence[GroupChange], sites: Sequence[str]) -> Evidence:
    members = np.array([[site in one.sites for site in sites] for one in changes])
    vectors = np.stack([one.change for one in changes]).astype(np.float64)
    return Evidence(members, vectors @ vectors.T, vectors.shape[1])
