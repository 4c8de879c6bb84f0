"""Three sites of unequal size whose records differ: who is ill at one is well at the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clients.owner import owner_of
from clients.site import Site, open_site
from fedlearn.config import RunConfig, compose
from server.federation import Federation

from .relay import Relay, federate

SITES = ("amber", "birch", "cedar")
STEPS, RATE = 5, 0.4


def words_of(folder: Path) -> list[str]:
    """Overrides of a run on them, in a new file of `folder`: no privacy, no masks."""
    rng = np.random.default_rng(1)
    rows = [
        f"{x:.4f},{y:.4f},{site},{int(x * (i - 1) + y + 0.3 * rng.normal() > 0)}"
        for i, (site, count) in enumerate(zip(SITES, (15, 30, 55), strict=True))
        for x, y in rng.normal(size=(count, 2))
    ]
    path = folder / "my.csv"
    path.write_text("\n".join(["x,y,site,ill", *rows]))
    return [
        "scenario=csv", f"scenario.path={path}", "scenario.label=ill", "scenario.site=site",
        "model.architecture=linear", "privacy=none", "secagg=off", "transport=plain", "rounds=6",
        f"training.local_steps={STEPS}", "training.sample_rate=1.0",
        f"training.learning_rate={RATE}", "training.nominal_records=30",
        f"out={folder / 'run'}",
    ]  # fmt: skip


def config_of(words: list[str], *changes: str) -> RunConfig:
    """The run of these words, but for what is changed."""
    keys = {change.split("=")[0] for change in changes}
    return compose([*(word for word in words if word.split("=")[0] not in keys), *changes])


def start(config: RunConfig) -> tuple[Federation, Relay]:
    """The real apps, before the first round."""
    relay = Relay(config)
    return federate(config, relay), relay


def site_of(config: RunConfig, name: str) -> Site:
    """One of its sites."""
    return open_site(owner_of(config, name), config)
