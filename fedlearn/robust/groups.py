"""Several sums in a round, each over a few sites that nobody has chosen, and a rule over them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, counted
from fedlearn.core.settings import Natural, Probability, config
from fedlearn.mechanisms import Privacy, StudyTerms
from fedlearn.robust.bounds import Bounds

Combine = Literal["trimmed_mean", "median", "geometric_median", "mean"]

_STEPS: Final = 2000
"""Of Weiszfeld's algorithm, which leaves a change that is nearly the median in small steps."""
_SMOOTH: Final = 1e-6
"""A distance counts as no less than this share of a usual one."""


@config
class Grouped(Bounds):
    """What `bounded` does, for sums over random groups of `size` sites or a few more.

    Of three groups or more, a change that is longer than those of half of them is shortened to
    these (`shortened`); then `combine` takes the mean over groups without its ends (`trimmed_mean`:
    of every value the `trim` largest and smallest shares are left out), the median of every value,
    or the geometric median. Of fewer than three groups, as where others have too few sites left,
    it is their mean.

    Over rounds every site is in many groups. Whoever pulls against all others, beyond what noise
    explains and whichever few others are set aside with their sums, is named and left out from
    there on, and the rounds with it are taken back: with a chance of `alarm` in a run for sites
    that do not. A quarter of the sites at most.

    With `proofs` every site proves its norm besides, as with `robust=proofs`: who sends more than
    an honest site may is left out of the round by name, and no sum is refused for it.
    """

    size: Annotated[int, Ge(3)] = 3
    combine: Combine = "trimmed_mean"
    trim: Annotated[float, Ge(0), Lt(0.5)] = 0.25
    alarm: Probability = 1e-3
    repeats: Natural = 8
    proofs: bool = False

    @property
    def group_size(self) -> int:
        """As set."""
        return self.size

    @property
    def proves(self) -> bool:
        """As set."""
        return self.proofs

    @property
    def false_alarm(self) -> float:
        """As set."""
        return self.alarm

    @property
    def fewest(self) -> int:
        """One group."""
        return self.size

    @property
    def enough(self) -> int:
        """So many sites make three groups: of two nothing says which is right."""
        return 3 * self.size

    def conflicts(self, terms: StudyTerms, privacy: Privacy) -> list[str]:
        """Sums are needed, of all sites, that can be taken back."""
        found, name = list[str](), f"robust={self.kind}"
        if not terms.summed:
            found.append(
                f"{name}: sums groups of sites, and secagg={terms.secagg} shows every update by "
                "itself. Choose secagg=masked, or a rule for single updates"
            )
        if terms.fraction < 1:
            found.append(
                f"strategy.fraction={terms.fraction:g}: {name} puts all sites into groups in every "
                "round. Set strategy.fraction=1.0"
            )
        if privacy.chooses_sites:
            found.append(
                f"privacy.client_sample_rate: chooses sites by secret coins, and {name} puts all "
                "of them into groups. Set privacy.client_sample_rate=1.0"
            )
        if terms.remembers:
            found.append(
                f"{name}: takes rounds back that a liar was in, and the state that the strategy "
                "keeps at the sites cannot follow. Choose a strategy without one, or robust=bounded"
            )
        return found

    def combined(
        self, changes: NDArray[np.float64], direction: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """By the chosen rule, of changes none of which is longer than half of them are."""
        return self.middle(shortened(changes))

    def middle(self, changes: NDArray[np.float64]) -> NDArray[np.float64]:
        """By the chosen rule, of changes as they are."""
        if len(changes) < 3 or self.combine == "mean":
            return np.asarray(changes.mean(axis=0))
        if self.combine == "median":
            return np.asarray(np.median(changes, axis=0))
        if self.combine == "geometric_median":
            return geometric_median(changes)
        return trimmed_mean(changes, self.trim)


@config
class Groups(Grouped):
    """Nothing but the sums themselves says what is right."""

    kind: Literal["groups"] = "groups"

    @property
    def open_to(self) -> str:
        """What half of the groups may bring about."""
        return (
            "Sites that lie can turn the model round where they are in half of the groups of most "
            "rounds, as two of twelve sites are; robust=fltrust, with public records, holds then."
        )

    def together(self, sites: int) -> int:
        """As set."""
        return self.size

    def check(self, sites: int) -> None:
        """Refuse a run that has no three groups.

        Raises:
            ConfigError: with the way out.
        """
        if sites < self.enough:
            raise ConfigError(
                f"robust.size={self.size}: robust=groups needs three groups, "
                f"{counted(self.enough, 'site')}, "
                f"and there are {sites}. Invite more, or choose robust=bounded, robust=fltrust "
                "with public records, or robust=proofs"
            )


def shortened(changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The changes, `float64[m, d]`, each no longer than the lower median of their lengths.

    As they are where they are fewer than three. So half of the groups, if others send too much in
    them, have no more say than the other half; a direction is not told from another by it.

    Source: Sun, Kairouz, Suresh and McMahan 2019, "Can you really backdoor federated learning?"
    (norm thresholding), with a bound that follows from the round.
    """
    if len(changes) < 3:
        return changes
    lengths = np.linalg.norm(changes, axis=1)
    most = float(np.sort(lengths)[(len(lengths) - 1) // 2])
    return np.asarray(changes * (most / np.maximum(lengths, max(most, 1e-300)))[:, None])


def trimmed_mean(changes: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The mean of every value without its largest and smallest `share`, one of each at least.

    Source: Yin, Chen, Ramchandran and Bartlett, ICML 2018, "Byzantine-robust distributed learning:
    towards optimal statistical rates", definition 2.
    """
    count = len(changes)
    cut = min(max(1, int(share * count)), (count - 1) // 2)
    return np.asarray(np.sort(changes, axis=0)[cut : count - cut].mean(axis=0))


def geometric_median(changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point with the least sum of distances, by Weiszfeld's algorithm with a smoothed norm.

    Source: Pillutla, Kakade and Harchaoui 2022, "Robust aggregation for federated learning".
    """
    middle = np.median(changes, axis=0)
    products = (changes - middle) @ (changes - middle).T
    smallest = (_SMOOTH**2) * float(np.median(np.diagonal(products))) + 1e-300
    weights = np.full(len(changes), 1 / len(changes))
    for _ in range(_STEPS):
        # Distances to a mean of the changes, by their products alone: a step costs nothing.
        to_mean = products @ weights
        squares = np.diagonal(products) - 2 * to_mean + weights @ to_mean
        distances = np.sqrt(np.maximum(squares, smallest))
        weights = (1 / distances) / (1 / distances).sum()
    return np.asarray(weights @ changes)
