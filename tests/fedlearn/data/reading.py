"""How tests read a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedlearn.core.rng import Streams
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario


def loaded(scenario: Scenario, cache: Path = Path(), seed: int = 0, **how: Any) -> Pool:
    """All records of a scenario, under the streams of `seed`."""
    return scenario.load(Reading(streams=Streams(seed), cache=cache, **how))
