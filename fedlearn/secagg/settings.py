"""What a user sets about aggregation; unions are told apart by `kind`.

`ring`, `masked` and `two_server` share their first five fields and, for equal
fields and equal rounding, give the same sum bit for bit: they differ only in
who could see what on the way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal

from annotated_types import Ge, Le

from fedlearn.core.ring import FixedPoint, Ring, Rounding
from fedlearn.core.settings import Count, Natural, Portion, Positive, config

LEAST_BITS: Final = 8
MOST_BITS: Final = 64

Bits = Annotated[int, Ge(LEAST_BITS), Le(MOST_BITS)]
"""Width of one value in the sum: 8 to 64 bits; what a value costs on the wire."""

DEFAULT_BITS: Final = 32
"""Where nobody has set them and no rule knows what honest sums need."""

Cohort = Annotated[int, Ge(3)]
"""The least number of clients whose sum may be seen; with two, each learns the other's update."""


@config
class SecAggOff:
    """No aggregation protocol: the server sees every update."""

    kind: Literal["off"] = "off"
    hides: ClassVar[bool] = False
    """Whether nobody sees a single update."""

    two_servers: ClassVar[bool] = False
    least: ClassVar[int] = 1
    """The fewest sites whose sum may be opened."""
    resolution: ClassVar[float | None] = None

    def against(self, colluders: int, least: int = 0) -> None:
        """There are no masks."""


@config
class SecAggRing:
    """The arithmetic of `masked` without masks: for large simulations, not for protection."""

    kind: Literal["ring"] = "ring"
    hides: ClassVar[bool] = False
    bits: Bits | None = None
    clip: Positive = 4.0
    resolution: Positive = 2.0**-12
    max_weight: Count = 1024
    rounding: Rounding = "stochastic"

    two_servers: ClassVar[bool] = False
    least: ClassVar[int] = 1

    def against(self, colluders: int, least: int = 0) -> None:
        """There are no masks."""


@config
class SecAggMasked:
    """Pairwise and self masks after Bonawitz et al. 2017 and Bell et al. 2020.

    `corrupt_fraction` of the cohort, and at least `corrupt_sites` of it, may work with a
    malicious server, and `dropout_fraction` may vanish at any step (None: as many as the
    corrupt ones leave room for); neighbours and threshold follow (`fedlearn.secagg.graph`).
    """

    kind: Literal["masked"] = "masked"
    hides: ClassVar[bool] = True
    bits: Bits | None = None
    clip: Positive = 4.0
    resolution: Positive = 2.0**-12
    max_weight: Count = 1024
    rounding: Rounding = "stochastic"
    corrupt_fraction: Portion = 0.2
    corrupt_sites: Natural = 0
    dropout_fraction: Portion | None = None
    min_cohort: Cohort = 3

    two_servers: ClassVar[bool] = False

    @property
    def least(self) -> int:
        """The fewest sites whose sum may be opened."""
        return self.min_cohort

    def against(self, colluders: int, least: int = 0) -> SecAggMasked:
        """The same, with what the privacy of a run rests on.

        At least so many sites may work with the coordinator, and no sum of fewer than `least`
        is opened. Two more than those are in a cohort, or there is nobody to be hidden among.
        """
        sites = max(self.corrupt_sites, colluders)
        fewest = max(self.min_cohort, least, sites + 2)
        return replace(self, corrupt_sites=sites, min_cohort=fewest)


@config
class SecAggTwoServer:
    """Additive sharing between two servers, one honest; under half of the cohort may vanish."""

    kind: Literal["two_server"] = "two_server"
    hides: ClassVar[bool] = True
    bits: Bits | None = None
    clip: Positive = 4.0
    resolution: Positive = 2.0**-12
    max_weight: Count = 1024
    rounding: Rounding = "stochastic"
    min_cohort: Cohort = 3

    two_servers: ClassVar[bool] = True

    @property
    def least(self) -> int:
        """The fewest sites whose sum may be opened."""
        return self.min_cohort

    def against(self, colluders: int, least: int = 0) -> None:
        """There are no masks."""


SecAgg = SecAggOff | SecAggRing | SecAggMasked | SecAggTwoServer
SecAggSum = SecAggRing | SecAggMasked | SecAggTwoServer
"""The kinds that sum in a ring."""


def sum_of(settings: SecAgg) -> SecAggSum | None:
    """The settings of a sum; None where every update is seen."""
    return None if isinstance(settings, SecAggOff) else settings


def bits_of(settings: SecAggSum) -> int:
    """The width of a value."""
    return settings.bits or DEFAULT_BITS


def packing_of(settings: SecAggSum) -> int:
    """How many values of `bits` bits one ring element of at most 64 bits carries."""
    return 64 // bits_of(settings)


def ring_of(settings: SecAggSum) -> Ring:
    """The ring that sums run in: as many lanes of `bits` bits as fit 64, side by side."""
    return Ring(bits=packing_of(settings) * bits_of(settings))


def fixed_point_of(settings: SecAggSum) -> FixedPoint:
    """How updates become ring elements."""
    return FixedPoint(
        clip=settings.clip, resolution=settings.resolution, rounding=settings.rounding
    )
