"""Rules that look at every single update: what they ask of a run, and what they make of it.

They need updates in clear (`secagg=off`): a coordinator that sees a sum has nothing to choose
among. Their arithmetic is Flower's own, handed in by who runs the rounds (`Aggregation`), so that
a run means by a name what the field means by it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, counted
from fedlearn.core.settings import config
from fedlearn.mechanisms import Privacy, StudyTerms
from fedlearn.robust.rule import Robust

Updates = Sequence[NDArray[Any]]
"""One vector `float[d]` for each site."""


class Aggregation(Protocol):
    """The aggregations of Flower that rules go by; `fedlearn.flower.aggregation` has them."""

    def krum(self, updates: Updates, liars: int, keep: int) -> NDArray[Any]:
        """The mean of the `keep` updates that are nearest to their neighbours."""

    def bulyan(self, updates: Updates, liars: int) -> NDArray[Any]:
        """The trimmed mean of what Krum chooses again and again."""

    def trimmed_mean(self, updates: Updates, share: float) -> NDArray[Any]:
        """Value by value, the mean without a share of the largest and as many of the smallest."""

    def median(self, updates: Updates) -> NDArray[Any]:
        """Value by value, the one in the middle."""


@config
class InClear(Robust):
    """Base of these rules. Every site counts as one, however many records it has."""

    in_clear: ClassVar[bool] = True

    @property
    @abstractmethod
    def fewest(self) -> int:
        """With fewer updates the rule promises nothing."""

    @property
    @abstractmethod
    def assumes(self) -> str:
        """What it takes for granted, as the part of a sentence."""

    @abstractmethod
    def chosen(self, updates: Updates, by: Aggregation) -> NDArray[Any]:
        """What stands for the mean of the updates: `float[d]`."""

    def conflicts(self, terms: StudyTerms, privacy: Privacy) -> list[str]:
        """A sum shows no single update; noise that is planned for a sum covers nothing else."""
        found = list[str]()
        if terms.summed:
            found.append(
                f"robust={self.kind}: chooses among single updates, and secagg={terms.secagg} "
                "opens their sum alone. Choose a rule for sums: robust=bounded, groups or fltrust"
            )
        if privacy.noise_from in ("shares", "coordinator"):
            found.append(
                f"robust={self.kind}: the noise of privacy={privacy.kind} is planned for a sum, "
                "and a choice among updates can move further than a sum when one of them changes. "
                "Choose privacy=record, where every update has its noise before it is chosen, or "
                "robust=bounded"
            )
        return found

    def check(self, sites: int) -> None:
        """Refuse a run whose rounds have too few sites.

        Raises:
            ConfigError: with the way out.
        """
        if sites < self.fewest:
            raise ConfigError(
                f"robust={self.kind}: {self.assumes}, which takes "
                f"{counted(self.fewest, 'site')} in a round, "
                f"and there are {sites}. Invite more, or choose another rule"
            )
