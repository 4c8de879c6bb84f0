"""A site with canaries among its records, which also keeps the model of every round.

In all else it is the site that it was: its keys, its ledger, its noise, its messages. What it
keeps every member of the run is sent, and the coordinator has.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from flwr.clientapp import ClientApp

from clients.conduct import Conduct
from clients.site import Site
from clients.work import SiteRound
from fedlearn.core.vector import Vector
from fedlearn.data import Records, SiteData
from fedlearn.rounds import TrainRequest
from simulations.attacks.exposure.canaries import together
from simulations.attacks.trials import OtherConduct

_MODELS: Final = "models"


@dataclass(frozen=True, kw_only=True, eq=False)
class Carrier:
    """Which site has the canaries, by its `number`, and what they are."""

    number: int
    canaries: Records

    def __call__(self) -> ClientApp:
        """The program that answers for all sites of the run."""
        return OtherConduct((self.number,), _Carrying(self.canaries))


@dataclass(eq=False)
class _Carrying(Conduct):
    canaries: Records
    data: SiteData | None = field(default=None)
    """With the canaries; made once, since what is computed of records is kept with them."""

    def begin(self, site: Site, request: TrainRequest) -> SiteRound:
        """The site with its canaries."""
        if self.data is None:
            mine = site.data
            self.data = replace(mine, train=together(mine.train, self.canaries))
        folder = Path(site.config.out) / _MODELS
        folder.mkdir(parents=True, exist_ok=True)
        np.save(_file(folder, request.round), request.model)
        return _Carried(replace(site, data=self.data), request, len(site.data.train))


@dataclass(frozen=True, eq=False)
class _Carried(SiteRound):
    """A round whose weight in a sum is that of the records that the site has described: another
    one would be refused, as no honest site has it."""

    described: int

    @property
    def records(self) -> int:
        """As described; it trains on its canaries besides."""
        return self.described


def models_of_rounds(out: Path) -> list[Vector]:
    """The models that the rounds of a run began with, in order, but for the first: that is of
    nobody's records."""
    paths = sorted((out / _MODELS).glob("*.npy"))
    return [np.load(path, allow_pickle=False) for path in paths[1:]]


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npy"
