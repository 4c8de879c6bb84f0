"""A table of visits: persons with one or several records, at three sites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

SITES = ("east", "north", "south")
MOST = 6
"""Visits of a person, at most."""


def visits(folder: Path, *, persons: int = 30, sites: Sequence[str] = SITES) -> list[str]:
    """Write the table; the words of a short run on it.

    Who is ill is so at every visit, and older, with a higher pressure.
    """
    rng = np.random.default_rng(5)
    lines = ["site,patient,age,pressure,ill"]
    for site in sites:
        for person in range(persons):
            ill = rng.random() < 0.5
            for _ in range(int(rng.integers(1, MOST + 1))):
                age, pressure = rng.normal(60 + 8 * ill, 5), rng.normal(125 + 25 * ill, 10)
                lines.append(f"{site},{site[0]}{person:03d},{age:.1f},{pressure:.0f},{ill}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "visits.csv").write_text("\n".join(lines) + "\n")
    return [
        "scenario=csv", f"scenario.path={folder / 'visits.csv'}", "scenario.label=ill",
        "scenario.site=site", "scenario.person=patient", "scenario.records_per_person=4",
        "scenario.scaling.columns.age=[0,100]", "scenario.scaling.columns.pressure=[60,220]",
        "partition=natural", "rounds=2", "training.nominal_records=20", "training.max_batch=128",
    ]  # fmt: skip
