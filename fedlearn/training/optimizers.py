"""torch's optimisers for local training, without the compiler that they drag in.

Building an optimiser, and its first step, import torch's compiler (0.9 s), only
to tell it to keep away from these methods. Nothing here is ever compiled, so the
methods are used as torch wrote them, without those wrappers.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, TypeVar, cast

import torch
from torch import nn

from fedlearn.models.slots import is_slot
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


_HUGE: Final = 1e8


def adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015) over the parameters of a model that learn."""
    return _ADAM([p for p in model.parameters() if p.requires_grad], lr=rate)


def make_optimizer(model: nn.Module, config: Training) -> torch.optim.Optimizer:
    """A fresh optimiser over the trainable parameters: no state survives a round.

    Audit slots follow plain gradient descent whatever the config says: an
    audit measures what leaves the mechanism, not how an optimiser rescales it.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for name, p in named if not is_slot(name)]}]
    slots, rate = [p for name, p in named if is_slot(name)], config.learning_rate
    match config.optimizer:
        case "sgd":
            if slots:
                groups.append({"params": slots, "momentum": 0.0, "weight_decay": 0.0})
            return _SGD(groups, lr=rate, momentum=config.momentum, weight_decay=config.weight_decay)
        case "adam":
            if slots:
                # Adam without memory and with a huge `eps` divides every gradient by `eps`.
                still = {"lr": rate * _HUGE, "eps": _HUGE, "betas": (0.0, 0.0), "weight_decay": 0.0}
                groups.append({"params": slots, **still})
            return _ADAM(groups, lr=rate, weight_decay=config.weight_decay)
