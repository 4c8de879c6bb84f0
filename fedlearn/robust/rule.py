"""What a rule against poisoning is to the rest of the house: its settings, and what it does.

A rule stands in the terms of a study. It knows the bound of an honest sum, and says of a sum
that was opened why no honest sites can have made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.rng import Streams
from fedlearn.mechanisms import Privacy, StudyTerms
from fedlearn.mechanisms.norms import clipped
from fedlearn.mechanisms.reach import Reach, SumBound
from fedlearn.stages import Round, Stage, Total, Update


class Robust:
    """The settings of one rule, as `config.robust`; a frozen dataclass with `kind`.

    What a rule leaves out is not done: no update is bounded and no sum is refused.
    """

    idle: ClassVar[bool] = False
    """Whether it does nothing, whatever the run."""
    in_clear: ClassVar[bool] = False
    """Whether it needs every single update (`fedlearn.robust.in_clear`), so that it works with
    `secagg=off` alone."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """What chooses it: `robust=KIND`."""

    @property
    def open_to(self) -> str:
        """What a site that lies can still do under it, in a sentence or two for whoever relies on
        the model; docs/threat-model.md, section 6, has the numbers."""
        return ""

    @property
    def proves(self) -> bool:
        """Whether every site proves that its update is within the bound, before it is in a sum."""
        return False

    @property
    def step_share(self) -> float | None:
        """What a site's sum of clipped gradients may be, over that of the records of a step."""
        return None

    @property
    def change_norm(self) -> float | None:
        """The norm of a change that nothing else bounds."""
        return None

    @property
    def most_refused(self) -> int:
        """So many rounds of a run may be refused; one more ends it."""
        return 0

    @property
    def fewest(self) -> int:
        """With fewer sites in a round it cannot do what it is for."""
        return 0

    def conflicts(self, terms: StudyTerms, privacy: Privacy) -> list[str]:
        """What is wrong together with the rest of the config, `robust=KIND: why and way out`."""
        return []

    def check(self, sites: int) -> None:
        """Refuse before the first round a run whose rounds have `sites` sites.

        Raises:
            ConfigError: with the way out.
        """

    @property
    def group_size(self) -> int | None:
        """The fewest sites that are summed together, where a round has several sums; None: all."""
        return None

    def together(self, sites: int) -> int:
        """The fewest of `sites` that are summed together."""
        return sites

    @property
    def false_alarm(self) -> float:
        """The chance, in a run, that a site is named which never pulls against the others."""
        return 0.0

    @property
    def public_path(self) -> str:
        """A file of public records that the coordinator trains on; empty for none."""
        return ""

    @property
    def public_share(self) -> float:
        """The share of training records that is public in a simulation, and belongs to no site."""
        return 0.0

    def combined(
        self, changes: NDArray[np.float64], direction: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """The change of a round, `float64[d]`, from those of its groups, `float64[m, d]`.

        `direction` is what the public records alone would change, no longer than one site may.
        """
        return np.asarray(changes.mean(axis=0))

    def refuses(self, bound: SumBound, total: Total, before: Total) -> str | None:
        """Why honest sites cannot have made `total`; None where they can.

        Its weight is that of its sites. `before` is the sum of all that was taken before it.
        """
        return None


@dataclass(frozen=True)
class Within(Stage):
    """A change that is longer than any honest one is scaled down, after its noise."""

    reach: Reach
    rounds: int

    def forward(self, update: Update, at: Round) -> Update:
        """Of the norm of an honest one at most."""
        return Update(
            values=self.bounded(update.values, at), weight=update.weight, counters=update.counters
        )

    def bounded(self, change: NDArray[Any], at: Round) -> NDArray[Any]:
        """The same vector where it is within the norm, as it is for the honest."""
        norm = SumBound(reach=self.reach, size=change.size, rounds=self.rounds).site_norm
        # A float32 sum of squares is good to far less than the slack.
        if float(np.linalg.norm(change)) <= norm * (1 - 1e-4):
            return change
        return clipped(change, norm).astype(change.dtype)


def suspects(refused: Sequence[Sequence[str]]) -> list[str]:
    """The sites that were in every sum that was refused: one of them has lied, if only one has."""
    common = set.intersection(*map(set, refused)) if refused else set()
    return sorted(common)


def left_out(refused: Sequence[Sequence[str]], seed: int) -> str | None:
    """The site that the next round goes without: one that was in every refused sum.

    Who is left out stays so while rounds pass. If one is refused without it, the lie was not
    its own, and it comes back: a refused sum holds a liar. So a site that lies in every round
    is found after as many rounds as there are sites, at most; the order is of the run's seed.

    Args:
        refused: the sites of every sum that was refused.
        seed: that of the run.
    """
    sites = sorted({site for each in refused for site in each})
    order = Streams(seed).get("left-out").permutation(len(sites))
    left = set(suspects(refused))
    return next((sites[i] for i in order if sites[i] in left), None)


def explained(refused: Sequence[Sequence[str]], most: int) -> list[str]:
    """The sites that have lied whoever else has, if no more than `most` have.

    Every refused sum holds a liar; so these are in every choice of so many sites that leaves none
    of the sums without one.
    """
    if not refused or not _covered(refused, most, ""):
        return []
    return [site for site in sorted(set(refused[0])) if not _covered(refused, most, site)]


def _covered(refused: Sequence[Sequence[str]], most: int, innocent: str) -> bool:
    """Whether `most` sites, without `innocent`, can account for every sum."""
    if not refused:
        return True
    if most == 0:
        return False
    return any(
        _covered([one for one in refused if site not in one], most - 1, innocent)
        for site in refused[0]
        if site != innocent
    )
