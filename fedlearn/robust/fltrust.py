"""A small public set at the coordinator says which way a model gets better."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from fedlearn.core.settings import config
from fedlearn.mechanisms import Privacy, StudyTerms
from fedlearn.mechanisms.norms import clipped
from fedlearn.robust.groups import Grouped, shortened


@config
class FlTrust(Grouped):
    """What `groups` does, held to a direction that the coordinator learns from public records.

    In every round it trains on them as a site does, and what comes of it is the direction. A
    group whose change goes against it has no say where most do not: at least half of the groups
    and two of them have one in every round, or else all have, each without the part that goes
    against. So no group comes to stand for all while noise turns the others. The change of the
    round goes along the direction at least `floor` times as far as the public records alone would,
    and no less than that part of what one site may give. The rest of it, in which sites know more
    than the public records, goes across the direction at most `across` times as far as these
    alone would go along it. With too few sites for three groups a round has one sum of all, which
    is held to the same; then nobody is named.

    That holds a round, and no run: a server optimiser remembers what went across in earlier rounds,
    and steps are long. So the coordinator also trains on the public records alone, by the same
    algorithm, and after every round holds the model to what that is worth: on the public records
    it loses no more than training on half of them loses on the other half. A model that does is
    moved towards that of the public records alone, as far as it must be. So a liar can bring about
    at most, on these records, what a model without the sites would be.

    `public_file` are the public records, of the form of the run's; in a simulation `public` is the
    share of all training records that is public, and belongs to no site.

    Source: Cao, Fang, Liu and Gong, NDSS 2021, "FLTrust: Byzantine-robust federated learning via
    trust bootstrapping". There every update is weighed by its angle and brought to the length of
    the direction. Of a sum with noise the angle says little, its projection much; and a single
    sum that is weighed by nothing stays where a liar has brought it. To try a step on records of
    the coordinator's: Xie, Koyejo and Gupta, ICML 2019, "Zeno".
    """

    kind: Literal["fltrust"] = "fltrust"
    public_file: str = ""
    public: Annotated[float, Ge(0), Lt(1)] = 0.1
    floor: Annotated[float, Ge(0)] = 0.5
    across: Annotated[float, Ge(0)] = 1.0

    @property
    def open_to(self) -> str:
        """What public records alone are worth."""
        return (
            "By its loss on the public records the model is never poorer than what they alone "
            "teach; a site that lies can bring it down to that. What they do not show can come "
            "in, such as a backdoor, in a sum of few sites."
        )

    @property
    def public_path(self) -> str:
        """As set."""
        return self.public_file

    @property
    def public_share(self) -> float:
        """As set, where no file is."""
        return 0.0 if self.public_file else self.public

    def together(self, sites: int) -> int:
        """As set; all of them where there are too few for three groups."""
        return self.size if sites >= self.enough else sites

    def conflicts(self, terms: StudyTerms, privacy: Privacy) -> list[str]:
        """Those of groups; and public records are needed."""
        found = super().conflicts(terms, privacy)
        if not self.public_file and not self.public:
            found.append(
                "robust.public_file: robust=fltrust needs public records. Give a file, or, in a "
                "simulation, robust.public as the share of training records that is public"
            )
        return found

    def combined(
        self, changes: NDArray[np.float64], direction: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """By the rule of groups, of those that do not go against `direction`; as far along it, and
        no further across it, as the public records let it."""
        length = 0.0 if direction is None else float(np.linalg.norm(direction))
        if direction is None or not length:
            return super().combined(changes)
        unit = direction / length
        changes = shortened(changes)
        along = changes @ unit
        change = self.middle(_heard(changes, along, unit))
        forward = float(change @ unit)
        rest = clipped(change - forward * unit, self.across * length)
        return max(forward, self.floor * length) * unit + rest


def _heard(
    changes: NDArray[np.float64], along: NDArray[np.float64], unit: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The changes that have a say, of all `float64[m, d]`: of half, and of two, at least."""
    with_it = along > 0
    if with_it.sum() >= max(2, (len(changes) + 1) // 2):
        return changes[with_it]
    return changes - np.minimum(along, 0.0)[:, None] * unit
