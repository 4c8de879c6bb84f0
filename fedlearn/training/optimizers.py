"""torch's optimisers for local training, without the compiler that they drag in.

Building an optimiser, and its first step, import torch's compiler (0.9 s), only
to tell it to keep away from these methods. Nothing here is ever compiled, so the
methods are used as torch wrote them, without those wrappers.
"""

from __future__ import annotations

import inspect
from typing import TypeVar, cast

import torch
from torch import nn

from fedlearn.training.settings import Training

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)


def _unwrapped(kind: type[Optimizer]) -> type[Optimizer]:
    """`kind` with the methods that torch wraps for its compiler as they are underneath.

    `functools.wraps` leaves the way back to them. `step` loses with its wrapper
    that it records no gradients, and gets that back.
    """
    methods = {
        name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad")
    }
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(type[Optimizer], type(kind.__name__, (kind,), methods))


_SGD = _unwrapped(torch.optim.SGD)
_ADAM = _unwrapped(torch.optim.Adam)


def make_optimizer(model: nn.Module, config: Training) -> torch.optim.Optimizer:
    """A fresh optimiser over the trainable parameters: no state survives a round."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    match config.optimizer:
        case "sgd":
            return _SGD(
                parameters,
                lr=config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            )
        case "adam":
            return _ADAM(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
