"""What both sides of a protected Flower app agree on: public constants.

Nothing here depends on anybody's data. Server and sites each hold a `Protection`, in code of
their own; what follows from it is compared by hash in every sum, so that a server cannot
talk a site into a wider clip, a smaller cohort, or an update in clear.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from fedlearn.config import encode
from fedlearn.core.errors import ConfigError, counted, refuse
from fedlearn.secagg.layout import SumLayout
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.settings import SecAggMasked

Evaluation = Literal["per_site", "pooled"]

LIMBS: Final = 2
"""Counters that carry one metric: it is exact over more digits than one counter has."""


@dataclass(frozen=True, kw_only=True)
class Protection:
    """How the messages of a Flower app are protected; the same on the server and at every site.

    Args:
        masked: train replies leave a site under masks, and only their weighted mean is opened.
            False: messages are sealed all the same, and the server sees every update.
        evaluation: "per_site": the server sees each site's evaluation metrics; "pooled":
            their weighted mean alone, under masks as well.
        clip: the largest change of one value of the model in one round; more is cut, counted
            and told to the server as one number over all sites.
        resolution: the step to which changes are rounded (stochastically, so without bias).
        max_weight: the largest `weighted_by` of a site. A site with more refuses.
        metrics: numbers that a reply's metrics may hold, at most.
        weighted_by: the metric that replies are weighted by, as the strategy's `weighted_by_key`.
        min_cohort: the fewest sites whose sum may be opened, at least 3.
        corrupt_fraction: of the cohort may work together with a server that breaks the rules.
        corrupt_sites: and at least so many, however small the cohort.
        dropout_fraction: of the cohort may vanish at any step without ending the round; None: as
            many as the corrupt ones leave room for.

    Raises:
        ConfigError: values that cannot be, all of them.

    Example:
        >>> Protection(clip=4.0, evaluation="pooled").min_cohort
        3
    """

    masked: bool = True
    evaluation: Evaluation = "per_site"
    clip: float = 16.0
    resolution: float = 2.0**-16
    max_weight: int = 2**20
    metrics: int = 32
    weighted_by: str = "num-examples"
    min_cohort: int = 3
    corrupt_fraction: float = 0.2
    corrupt_sites: int = 0
    dropout_fraction: float | None = None

    def __post_init__(self) -> None:
        refuse(self._problems(), ConfigError)

    def _problems(self) -> list[str]:
        least = {"min_cohort": 3, "metrics": 0, "max_weight": 1, "corrupt_sites": 0}
        whole = {name: getattr(self, name) for name in least}
        fractions = ["corrupt_fraction"]
        if self.dropout_fraction is not None:
            fractions.append("dropout_fraction")
        rules = [
            (self.evaluation in get_args(Evaluation), "evaluation", "per_site or pooled"),
            (_positive(self.clip), "clip", "a number above 0"),
            (_positive(self.resolution), "resolution", "a number above 0"),
            *(
                (isinstance(value, int) and value >= least[name], name, f"{least[name]} or more")
                for name, value in whole.items()
            ),
            *(
                (_number(getattr(self, name)) and 0 <= getattr(self, name) < 1, name, "in [0, 1)")
                for name in fractions
            ),
        ]
        found = [
            f"protection.{name}={getattr(self, name)!r}: must be {rule}"
            for holds, name, rule in rules
            if not holds
        ]
        if not found and not self.resolution <= self.clip < self.resolution * 2**40:
            found = [
                f"protection.resolution={self.resolution:g}: must be at most clip={self.clip:g}, "
                "with at most 2^40 steps between the two"
            ]
        return found

    def secagg(self, sites: int) -> SecAggMasked:
        """The settings of a sum among `sites`: as few bits as their largest sum needs.

        Raises:
            ConfigError: more than 64 would be needed.
        """
        largest = sites * self.max_weight * max(1, round(self.clip / self.resolution))
        bits = max(8, largest.bit_length() + 1)
        if bits > 64:
            raise ConfigError(
                f"protection: {counted(sites, 'site')} with weights up to {self.max_weight} need "
                f"{bits} bits a value, and a sum has 64: lower max_weight or clip, or raise "
                "resolution"
            )
        return SecAggMasked(
            bits=bits,
            clip=self.clip,
            resolution=self.resolution,
            max_weight=self.max_weight,
            corrupt_fraction=self.corrupt_fraction,
            corrupt_sites=self.corrupt_sites,
            dropout_fraction=self.dropout_fraction,
            min_cohort=max(self.min_cohort, self.corrupt_sites + 2),
        )

    def payload(self, sites: int, layout: SumLayout) -> Payload:
        """The form of one site's part of a sum over arrays of that layout, and metrics.

        Its counters: values that were cut, the metrics, the arrays of whole numbers.
        """
        return Payload.plan(
            self.secagg(sites),
            num_clients=sites,
            num_values=layout.num_reals,
            num_counters=1 + LIMBS * self.metrics + layout.num_integers,
        )

    def plan_hash(self, sites: int, message_type: str) -> bytes:
        """SHA-256 of all that is done to replies of that type before they are summed."""
        text = f"fedlearn/flower/v1\n{message_type}\n{sites}\n{encode(self)}"
        return hashlib.sha256(text.encode()).digest()

    def sums(self, message_type: str) -> bool:
        """Whether replies of that type are summed under masks."""
        category = message_type.partition(".")[0]
        pooled = category == "evaluate" and self.evaluation == "pooled"
        return self.masked and (category == "train" or pooled)

    def differences(self, other: Protection) -> list[str]:
        """`field: mine and theirs` for every field in which two of them differ."""
        names = [field.name for field in dataclasses.fields(self)]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name}: {mine!r} and {own!r}" for name, mine, own in pairs if mine != own]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _positive(value: float) -> bool:
    return _number(value) and value > 0


STANDARD: Final = Protection()
"""What `protect` and `secure` take where nothing is said."""
