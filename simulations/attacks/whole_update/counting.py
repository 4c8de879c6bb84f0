"""A model on which every record, and every canary, has a coordinate of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.canaries import TrainingSet
from fedlearn.auditing.draw_laws import Draws
from fedlearn.models.slots import attach
from fedlearn.training.device import home
from fedlearn.training.persons import People
from simulations.attacks.whole_update.bench import Bench

_DRAWN: Final = 32
"""Of the made-up records whose draws are counted, so many take part in a step on the average."""
_FEWEST, _MOST = 256, 4096
"""How many they may be; as many as the run counts on, between these."""
_CANARIES: Final = 32
"""Besides."""
_SINGLE, _SEVERAL = 64, 8
"""Steps, and rounds of steps, in which they are."""

_STEEP: Final = (10.0, 20.0, 50.0)
"""Gradients over the clip norm: a clip that is missing shows, and a sampler that looks at them."""

_RECORDS: Final = 4
"""Of a made-up person, at most."""

_PAYLOAD: Final = 4
"""Numbers of a made-up record of which no gradient depends."""


class _Coordinates(nn.Module):
    """Of a record: its number, how long its gradient is, and what goes into a buffer alone."""

    seen: Tensor

    def __init__(self, records: int) -> None:
        super().__init__()
        self.table = nn.Embedding(records, 1)
        nn.init.zeros_(self.table.weight)
        self.register_buffer("seen", torch.zeros(_PAYLOAD))

    def forward(self, values: Tensor) -> Tensor:
        self.seen += values[:, 2:].sum(0)
        found: Tensor = self.table(values[:, 0].long()) * values[:, 1:2]
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Counting:
    """Made-up records, each with a coordinate of its own: the first ones of an update."""

    bench: Bench
    records: int
    labels: Tensor
    """From which theirs are drawn: a sampler may look at them."""

    @classmethod
    def beside(cls, bench: Bench) -> Counting:
        """With the settings and the plan of a bench, and about as many as the run counts on."""
        wanted = max(_FEWEST, _DRAWN / bench.plan.sample_rate, bench.own.nominal_records)
        records = int(min(_MOST, wanted))
        model = _Coordinates(records)
        attach(model, _CANARIES)
        made = bench.on(model.to(home(bench.model)))
        return cls(bench=made, records=records, labels=bench.records.labels)

    def given(self, lengths: Tensor | None = None) -> TrainingSet:
        """Them and the canaries, with labels and a payload that are drawn anew.

        `lengths: float32[records]` are those of their gradients, in clip norms. Where persons are
        protected, persons with a coordinate each, and several records on it.
        """
        coins, device = np.random.default_rng(), home(self.bench.model)
        owners = self._owners
        numbers, many = torch.from_numpy(owners).float(), len(owners)
        if lengths is None:
            lengths = torch.from_numpy(coins.choice(_STEEP, many)).float()
        else:
            lengths = lengths[torch.from_numpy(owners)]
        payload = torch.from_numpy(coins.normal(size=(many, _PAYLOAD))).float()
        slopes = self.bench.plan.clip_norm * lengths
        features = torch.cat([torch.stack([numbers, slopes], 1), payload], 1)
        drawn = torch.from_numpy(coins.integers(len(self.labels), size=many))
        return TrainingSet(
            features=features.to(device),
            labels=self.labels[drawn.to(self.labels.device)],
            slots=torch.arange(_CANARIES),
            people=self._people,
        )

    @property
    def _owners(self) -> NDArray[np.int64]:
        """Whose coordinate each record is on: its own, or that of a person of one or several."""
        everybody, people = np.arange(self.records), self.bench.site.people
        if people is None:
            return everybody
        return np.repeat(everybody, 1 + everybody % min(people.most, _RECORDS))

    @property
    def _people(self) -> People | None:
        """Made of their records as the site's own are made of its own."""
        people = self.bench.site.people
        if people is None:
            return None
        width = len(str(self.records))
        keys = np.array([f"{owner:0{width}d}" for owner in self._owners])
        return People.of(keys, people.most)

    def loss(self, outputs: Tensor, _: Tensor) -> Tensor:
        """Whose gradient does not depend on the weights."""
        return outputs.squeeze(-1)

    def draws(self) -> Draws:
        """How often records took part, by what each has left on its own coordinate."""
        given, steps = self.given(), self.bench.steps

        def counts(number: int, steps: int) -> NDArray[np.int64]:
            found = self.bench.update(given, self.loss, steps=steps, silent=True, number=number)
            found = found[: self.records + _CANARIES]
            # A gradient that is clipped to less or more than one norm is no whole number.
            return np.asarray(np.where(np.abs(found - np.rint(found)) < 1e-2, np.rint(found), -1))

        singles = _SINGLE if self.bench.plan.sample_rate < 1 else _SEVERAL
        single = np.stack([counts(1 + i % 4, 1) for i in range(singles)]).astype(np.int64)
        several = np.stack([counts(1 + i, steps) for i in range(_SEVERAL)]).astype(np.int64)
        return Draws(single=single, several=several, steps=steps)
