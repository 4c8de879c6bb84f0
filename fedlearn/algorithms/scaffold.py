"""SCAFFOLD: sites whose data differ no longer drift apart (Karimireddy et al. 2020, algorithm 1).

Every site keeps a control variate `c_i`, the mean gradient of its last round (option II), and
the coordinator keeps their mean `c`. A site adds `c - c_i` to every gradient: it walks as if
it knew what the others see. A change of `c_i` leaves the site beside the change of the model:

    y     <- y - rate (g(y) + c - c_i)                       K times, from y = x
    c_i'  <- c_i - c + (x - y) / (K rate)
    x'    <- x + server_rate mean(y - x)
    c'    <- c + share mean(c_i' - c_i)

Here control variates are kept in units of the model, `C = K rate c`. So the two halves of what
travels, `y - x` and `C_i' - C_i = (x - y) - C`, are of one size: one norm clips both fairly, and
one range of whole numbers holds both under secure aggregation.

What it costs, by kind of privacy:

- `record`: nothing more. `y` is private when local training ends, for every step clips and
  noises its gradient before `c - c_i` is added. The control variate is computed from `y`, from
  `x` and `c`, which are public, and from `c_i`, which was computed so before: post-processing
  of what has been paid for. (Option I would take a gradient of its own at `x`, and pay for it.)
- `client`: one release more would be one cost more, so there is one release. The two halves are
  one vector of 2d values, clipped to one norm, noised at every coordinate, and paid for once:
  the sensitivity of the pair is the clip norm. The noise of a round stays in `c` ever after.
- `distributed`, for clients: the same, with the noise in shares.
- `distributed`, for records: refused. The sites add up the gradients of one step, nobody drifts
  in one step, and `strategy=fedavg` gives the same model.

A site's own state moves by what left of the change after the clip, so that `c` stays the mean
of all `c_i`, but for noise. It never leaves the site; without privacy it is a mean gradient of
the records, and as secret as they are. A round in which a site was not in the sum moves
neither, whatever the site has sent: with the next request the coordinator says which round
counted last.

The sums of both halves are linked: `C_i' - C_i` is a function of `y - x` and of what the
coordinator sent. Whoever sees the one learns nothing from the other.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import numpy as np
import torch
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
from fedlearn.core.settings import Positive, config
from fedlearn.core.vector import Vector, layout_of
from fedlearn.models.slots import is_slot

CONTROL: Final = "control"


@config
class Scaffold(Algorithm):
    """SCAFFOLD with option II for the control variates of the sites."""

    kind: Literal["scaffold"] = "scaffold"
    server_learning_rate: Positive
    """The new model is the old one plus so much of the mean update."""

    travels: ClassVar[tuple[str, ...]] = (CONTROL,)
    sends: ClassVar[tuple[str, ...]] = (CONTROL,)
    remembers: ClassVar[bool] = True

    def problems(self, settings: LocalSettings) -> list[str]:
        """The mean gradient is read from the change of the model: only plain SGD shows it."""
        found = []
        if settings.optimizer != "sgd" or settings.momentum:
            found.append(
                "strategy=scaffold: reads a site's mean gradient from the change of its model, "
                f"and training.optimizer={settings.optimizer} with training.momentum="
                f"{settings.momentum:g} hides it. Set training.optimizer=sgd training.momentum=0.0"
            )
        if settings.shares_gradients:
            found.append(
                "strategy=scaffold: here the sites add up the gradients of one step, in which none "
                "drifts. Set strategy=fedavg, which gives the same model, or choose privacy=record"
            )
        return found

    def broadcast(self, state: State, size: int) -> Vectors:
        """The mean of the control variates; zero before the first round."""
        return {CONTROL: _of(state, size)}

    def correction(self, model: nn.Module, here: LocalRound) -> Correction | None:
        """Adds `c - c_i`."""
        mean, own = here.received[CONTROL], _of(here.own, here.start.size)
        return constant(model, (mean - own) / np.float32(here.steps * here.learning_rate))

    def extra(self, here: LocalRound, end: Vector) -> Vectors:
        """The change of the site's control variate; zero for what is not trained by gradients."""
        change = here.start - end - here.received[CONTROL]
        return {CONTROL: np.where(here.trained, change, np.float32(0))}

    def kept(self, here: LocalRound, sent: Vectors) -> Vectors:
        """The control variate of the next round."""
        return {CONTROL: _of(here.own, here.start.size) + sent[CONTROL]}

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        """A step along the mean update; `c` moves by the share of the sites that came."""
        control = _of(state, mean.model.size) + np.float32(mean.share) * mean.extra[CONTROL]
        model = mean.model
        if self.server_learning_rate != 1:
            model = mean.before + self.server_learning_rate * (mean.model - mean.before)
        return model, {CONTROL: control}


def _of(state: State, size: int) -> Vector:
    found: Vector = state[CONTROL] if CONTROL in state else np.zeros(size, np.float32)
    return found


def constant(model: nn.Module, vector: Vector) -> Correction:
    """Adds the same to every gradient: `vector`, `float32[d]`, in the order of the model's own.

    Audit slots are left alone, and so is a parameter that no gradient reaches.
    """
    parts = layout_of(model).split(vector)
    added = {
        name: torch.from_numpy(np.array(parts[name])).to(p.device)
        for name, p in model.named_parameters()
        if p.requires_grad and not is_slot(name)
    }

    def correct(moved: nn.Module) -> None:
        for name, parameter in moved.named_parameters():
            if name in added and parameter.grad is not None:
                parameter.grad.add_(added[name])

    return correct
