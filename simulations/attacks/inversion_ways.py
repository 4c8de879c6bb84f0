"""What the demonstration of reconstruction runs: its settings, and the ways to protect updates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from annotated_types import Ge, Le

from fedlearn.config import RunConfig, load
from fedlearn.config.composition import compose_tree
from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Count, Name, Natural, Positive, Probability
from fedlearn.crypto.settings import TransportPlain
from fedlearn.data import Csv
from fedlearn.mechanisms import NoPrivacy
from fedlearn.results.result import ResultFile
from fedlearn.secagg.settings import SecAggOff, sum_of
from simulations.attacks.images import DIGITS

FEWEST_SITES: Final = 4
"""With two classes, and two images of each, there is something to learn."""
MOST_SITES: Final = 20
ROUNDS: Final = 3
"""One as always, one that is watched, one in which the coordinator lies."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `fedlearn audit demo=inversion` takes as `key=value`."""

    images: Name = DIGITS
    """`digits`, or an `.npz` file (see `simulations.attacks.images`)."""
    sites: Annotated[int, Ge(FEWEST_SITES), Le(MOST_SITES)] = 8
    records: Count = 1
    """Images that every site trains on; one is the worst case for a record."""
    epsilon: Positive = 8.0
    delta: Probability = 1e-5
    seed: Natural = 0
    """Chooses the images, the first weights and the planted ones; noise and keys are secret."""
    out: Name = "runs/inversion"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to protect updates."""

    name: str
    config: RunConfig
    run: ResultFile | None = None
    """The run that has this protection, if it is not the demonstration's own."""

    def within(self, folder: Path, scenario: Csv) -> Way:
        """The same way for those records, with the ledgers of the sites in `folder`."""
        return replace(self, config=replace(self.config, scenario=scenario, out=str(folder)))


def ways(settings: Settings) -> list[Way]:
    """From nothing to everything."""
    full = _base(settings)
    open_wire, unsummed, unnoised = TransportPlain(), SecAggOff(), NoPrivacy()
    return [
        Way(
            name="in clear",
            config=replace(full, transport=open_wire, secagg=unsummed, privacy=unnoised),
        ),
        Way(name="sealed", config=replace(full, secagg=unsummed, privacy=unnoised)),
        Way(name="masked", config=replace(full, privacy=unnoised)),
        Way(name="private", config=replace(full, secagg=unsummed)),
        Way(name="masked and private", config=full),
    ]


def way_of(result: ResultFile, settings: Settings) -> Way:
    """The protection of a run, with as much noise in an update as that run has added.

    Raises:
        ConfigError: it protects nobody.
    """
    run, base = load(result.config), _base(settings)
    if sum_of(run.secagg) and not run.secagg.hides:
        raise ConfigError(
            [
                f"secagg={run.secagg.kind}: is the arithmetic of masked without masks, so there is "
                "nothing to show of it that demo=inversion does not show of updates in clear"
            ]
        )
    privacy = run.privacy.measured(result.privacy.noise_multiplier)
    config = replace(base, transport=run.transport, secagg=run.secagg, privacy=privacy)
    return Way(name="as in this run", config=config, run=result)


def _base(settings: Settings) -> RunConfig:
    """Masked, sealed and private, on a network of which every layer can be attacked."""
    tree = compose_tree(
        [
            "scenario=csv", "scenario.path=images.csv", "scenario.label=label",
            "model.architecture=mlp", "model.width=256", "model.depth=1", "model.norm=none",
            "training.local_steps=1", "training.sample_rate=1.0", "training.learning_rate=0.5",
            "privacy=record", f"privacy.epsilon={settings.epsilon!r}",
            f"privacy.delta={settings.delta!r}", "privacy.clip_norm=1.0",
            f"training.nominal_records={settings.records}",
            f"strategy.min_sites={settings.sites}", f"seed={settings.seed}",
            f"rounds={ROUNDS}", f"evaluate_every={ROUNDS}",
        ]
    )  # fmt: skip
    return load(tree)
