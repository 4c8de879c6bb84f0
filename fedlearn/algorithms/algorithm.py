"""An algorithm of federated learning: pure functions at the site and at the coordinator.

Between the two stands everything that protects an update (clipping, noise, masks), and no
algorithm knows of it: what a site sends is one vector, the change of its model followed by
what the algorithm lets travel besides, and what the coordinator gets is the mean of these
vectors. So a second vector is clipped together with the first, paid for, and masked with it.

The shape of it (pure functions over frozen state, one module for each algorithm) is that of
FedJAX (Ro, Suresh and Wu 2021, "FedJAX: Federated learning simulation with JAX").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlearn.core.settings import Count, Rate, config
from fedlearn.core.vector import Vector

Vectors = Mapping[str, Vector]
"""Vectors as long as the model's, by name."""

State = Mapping[str, NDArray[Any]]
"""What an algorithm carries from round to round, as named arrays; empty before the first."""

Correction = Callable[[nn.Module], None]
"""Adds to the gradient of a step. It sees no record: under privacy the gradient that it finds
is clipped and noised already, so that it costs nothing."""


@dataclass(frozen=True, kw_only=True)
class LocalRound:
    """What a site knows in a round, besides its records.

    `start` is the global model, `received` what came along with it, `own` the site's state
    (all of length d); `trained: bool[d]` tells the parameters that are trained from running
    statistics and audit slots. A round is `steps` steps at `learning_rate`. `own_end` is where a
    training of the site's own model has come to, where there is one and it is over.
    """

    start: Vector
    received: Vectors
    own: Vectors
    trained: NDArray[np.bool_]
    steps: int
    learning_rate: float
    own_end: Vector | None = None


@dataclass(frozen=True, kw_only=True)
class RoundMean:
    """What a round came to, after every protection.

    `before` and `model` are the global model and the mean of the sites' models, `extra` the
    means of what travels besides; `number` counts rounds from 1. `share` is that of the sites
    that the mean stands for among all: weights in the mean over weights of all sites. `noise` is
    the standard deviation of what privacy has added to each value of `model`, which is public; 0
    where there is none, or nothing is known of it.
    """

    number: int
    before: Vector
    model: Vector
    extra: Vectors
    share: float
    noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """What an algorithm may ask of a run: how its sites train.

    `shares_gradients` where there is no training at a site: the sites add up the gradients of
    one step (`privacy=distributed` for records).
    """

    optimizer: str
    momentum: float
    shares_gradients: bool
    noised_alone: bool = True
    """Whether what a site trains is protected by noise of its own, or nothing is to be."""
    learning_rate: float = 0.0


@config
class Algorithm:
    """Base of all: FedAvg, which another algorithm changes where it differs.

    A subclass is a config class (`fedlearn.core.settings.config`) of the algorithm's settings,
    with the name that it is chosen by as the default of `kind`. Every method is a function of
    its arguments and these settings alone.
    """

    kind: str
    fraction: Rate
    """Share of the sites that is invited in a round, rounded up."""
    min_sites: Count
    """A round with fewer replies ends the run; nothing of it is used."""

    travels: ClassVar[tuple[str, ...]] = ()
    """Names of the vectors that leave a site beside the change of its model."""
    sends: ClassVar[tuple[str, ...]] = ()
    """Names of the vectors that go to the sites beside the model."""
    remembers: ClassVar[bool] = False
    """Whether a site keeps a state of its own from round to round."""
    takes_mean: ClassVar[bool] = False
    """Whether the next model is the mean as it is."""
    personal: ClassVar[bool] = False
    """Whether a site has a model of its own beside the shared one (`own_model`)."""
    sends_own: ClassVar[bool] = False
    """Whether what leaves a site are the changes of its own model: whoever sees them can add up."""
    trainings: ClassVar[int] = 1
    """How often a site trains in a round, each time in `training.local_steps`: the first time for
    what it sends, a second time for its own model."""

    @property
    def corrects(self) -> bool:
        """Whether it moves the steps of a site, or lets more travel than their change."""
        return bool(self.travels) or type(self).correction is not Algorithm.correction

    def problems(self, settings: LocalSettings) -> list[str]:
        """What rules the algorithm out in a run, as `dotted.path: reason and way out`."""
        return []

    def prepare(self) -> None:
        """Refuse at the coordinator, before a run, what it could not do.

        Raises:
            ConfigError: with the way out.
        """

    def broadcast(self, state: State, size: int) -> Vectors:
        """What goes to the sites with the model, `float32[size]` each: exactly `sends`."""
        return {}

    def correction(self, model: nn.Module, here: LocalRound) -> Correction | None:
        """What is added to the gradient of every local step; `model` holds `here.start`."""
        return None

    def begin(self, here: LocalRound) -> Vector:
        """Where the steps of a site begin."""
        return here.start

    def given(self, here: LocalRound, end: Vector) -> Vector:
        """The model that leaves a site whose steps have come to `end`; its change is that from
        `here.start`."""
        return end

    def extra(self, here: LocalRound, end: Vector) -> Vectors:
        """What leaves a site beside the change of its model: exactly `travels`.

        In units of the model, for one norm clips both.
        """
        return {}

    def own_model(self, start: Vector, own: Vectors) -> Vector:
        """A site's own model, from the shared one and its state: where a second training begins."""
        return start

    def own_correction(self, model: nn.Module, here: LocalRound) -> Correction | None:
        """As `correction`, of a second training."""
        return None

    def kept(self, here: LocalRound, sent: Vectors) -> Vectors:
        """The site's state after a round.

        `sent` is what left of its changes once they were clipped: of the model (under `model`) and
        of `extra`.
        """
        return {}

    def deviation(self, state: State) -> Vector | None:
        """The standard deviation of the noise of privacy in each value of the model; None where it
        is not known or there is none."""
        return None

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        """The next global model, `float32[d]`, and the next state."""
        return mean.model, state


def cohort_size(algorithm: Algorithm, sites: int) -> int:
    """How many of `sites` sites a round invites: the fraction, and never fewer than `min_sites`."""
    wanted = math.ceil(algorithm.fraction * sites - 1e-9)
    return min(sites, max(wanted, algorithm.min_sites))
