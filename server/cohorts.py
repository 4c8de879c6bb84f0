"""How many sites a round has, and whether these are enough for a sum."""

from __future__ import annotations

from collections.abc import Iterator

from fedlearn.algorithms import cohort_size
from fedlearn.config import RunConfig
from fedlearn.core.errors import counted


def cohort_problems(config: RunConfig, least: int, sites: int) -> Iterator[str]:
    """Why no round of a run with so many sites may be summed, where `least` have to be in a sum."""
    cohort = cohort_size(config.strategy, sites)
    if cohort < least:
        way_out = "invite more" if sites < least else "raise strategy.fraction"
        yield (
            f"secagg.min_cohort={least}: a round has {cohort} of "
            f"{counted(sites, 'site')}; {way_out}"
        )
