"""A model for every site: Ditto, MR-MTL, and parts of a model that stay with their owner.

With `w` the shared model at the start of a round, `v` a site's own, and `lambda` how much of
the others' a site's model is to have (0: nothing, each site is by itself; without end: all):

    Ditto (Li et al. 2021, algorithm 1)            MR-MTL (Liu et al. 2022, algorithm 1)
    u   <- u - rate g(u)            from u = w      v'  <- v' - rate (g(v') + lambda (v' - w))
    v'  <- v' - rate (g(v') + lambda (v' - w))                        from v' = v
    w'  <- mean(u)                                  w'  <- mean(v')

each in the `training.local_steps` of a round. The term reads no record: it is added to a gradient
that was clipped and noised already.

- **MR-MTL** trains once. What leaves a site is the change of its own model, `v' - v`, so that the
  shared model is the mean of all sites' own, whoever takes part in a round; what the site keeps is
  the same vector, noise included. So it costs what `fedavg` does.
- **Ditto** trains twice on the same records, for the shared model and for its own. Both count: a
  plan has twice the steps, and its noise is found for all of them.
- **Parts** (`training.personal`): the head, or the layers that normalise, are trained with all the
  rest, in the same clipped and noised steps, and of these numbers no change leaves the site
  (FedPer: Arivazhagan et al. 2019; FedBN: Li et al. 2021). It costs what is trained without it.

All this holds where a site's steps have all of their noise, `privacy=record`. Noise in shares, or
at the coordinator, is for what is summed: a model that stays at its site would have none.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlearn.algorithms.algorithm import (
    Algorithm,
    Correction,
    LocalRound,
    LocalSettings,
    RoundMean,
    State,
    Vectors,
)
from fedlearn.algorithms.pull import pull
from fedlearn.core.settings import NonNegative, config
from fedlearn.core.vector import Vector

OWN: Final = "own"
"""The name of a site's own model in its state."""


@config
class Personal(Algorithm, ABC):
    """What both have in common: a model at every site, near the shared one as `lambda` says."""

    proximal_lambda: NonNegative
    """Weight of `lambda/2 * |v - w|^2` in the loss of a site's own model; 0: by itself."""

    remembers: ClassVar[bool] = True
    personal: ClassVar[bool] = True

    def problems(self, settings: LocalSettings) -> list[str]:
        """A site's own model is private only where the noise of its steps is all its own."""
        found = [] if settings.noised_alone else [unprotected(f"strategy={self.kind}")]
        rate, weight = settings.learning_rate, self.proximal_lambda
        if settings.optimizer == "sgd" and rate * weight > 1:
            found.append(
                f"strategy.proximal_lambda={weight:g}: with training.learning_rate={rate:g} a step "
                "goes beyond the shared model that it is to be near. Set it to "
                f"{1 / rate:.3g} or less, or strategy=fedavg for the shared model alone"
            )
        return found

    def own_model(self, start: Vector, own: Vectors) -> Vector:
        """The site's own, which begins as the shared model that it first gets."""
        return own.get(OWN, start)

    def _near(self, model: nn.Module, here: LocalRound) -> Correction | None:
        return pull(model, here.start, self.proximal_lambda) if self.proximal_lambda else None


@config
class Ditto(Personal):
    """FedAvg, and beside it a model of every site's own."""

    kind: Literal["ditto"] = "ditto"
    takes_mean: ClassVar[bool] = True
    trainings: ClassVar[int] = 2

    def own_correction(self, model: nn.Module, here: LocalRound) -> Correction | None:
        """Towards the shared model that the round started from."""
        return self._near(model, here)

    def kept(self, here: LocalRound, sent: Vectors) -> Vectors:
        """The site's own model after its own training."""
        return {OWN: self.own_model(here.start, here.own) if here.own_end is None else here.own_end}


@config
class MrMtl(Personal):
    """Mean-regularised multi-task learning: the shared model is the mean of the sites' own."""

    kind: Literal["mr_mtl"] = "mr_mtl"
    sends_own: ClassVar[bool] = True

    def begin(self, here: LocalRound) -> Vector:
        """The site's own model."""
        return self.own_model(here.start, here.own)

    def correction(self, model: nn.Module, here: LocalRound) -> Correction | None:
        """Towards the mean of all sites' models."""
        return self._near(model, here)

    def given(self, here: LocalRound, end: Vector) -> Vector:
        """The change of the site's own model, on the shared one."""
        return here.start + (end - self.begin(here))

    def kept(self, here: LocalRound, sent: Vectors) -> Vectors:
        """It moves by what enters the sum, so that the shared model stays the mean of all."""
        return {OWN: self.begin(here) + sent[MODEL]}

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        """The mean over all sites, of which those that took no part have stayed where they were."""
        moved = mean.before + np.float32(mean.share) * (mean.model - mean.before)
        return mean.model if mean.share == 1 else moved, state


MODEL: Final = "model"
"""The first vector of what is sent, as `fedlearn.stages` names it."""


@dataclass(frozen=True, eq=False)
class OwnParts:
    """A part of the model, `mask: bool[d]`, that stays at its site; all else is as in FedAvg."""

    mask: NDArray[np.bool_]

    def own_model(self, start: Vector, own: Vectors) -> Vector:
        """The shared model with the site's own part in it."""
        return np.where(self.mask, own[OWN], start) if OWN in own else start

    def given(self, start: Vector, end: Vector) -> Vector:
        """What leaves: of the site's own part no change, whatever it is."""
        return np.where(self.mask, start, end)

    def kept(self, end: Vector) -> Vectors:
        """The site's own part, zero elsewhere."""
        return {OWN: np.where(self.mask, end, np.float32(0))}


def unprotected(setting: str) -> str:
    """Why a site's own model would have no protection, and the way out."""
    return (
        f"{setting}: a site's own model has the noise that it needs only where the site adds all "
        "of it to every step; noise in shares, or at the coordinator, is for what is summed. Set "
        "privacy=record, or strategy=fedavg and training.personal=none"
    )
