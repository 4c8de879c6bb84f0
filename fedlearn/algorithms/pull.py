"""What keeps a site's steps near a model: the gradient of `weight/2 * |w - anchor|^2`."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedlearn.algorithms.algorithm import Correction
from fedlearn.core.vector import Vector, layout_of
from fedlearn.models.slots import is_slot


def pull(model: nn.Module, anchor: Vector, weight: float) -> Correction:
    """Adds `weight (w - anchor)` to every gradient; `anchor`, `float32[d]`, is as `to_vector` gives
    it. It reads no record, and leaves audit slots alone, and a parameter that no gradient reaches.
    """
    parts = layout_of(model).split(anchor)
    there = {
        name: torch.from_numpy(np.array(parts[name])).to(p.device)
        for name, p in model.named_parameters()
        if p.requires_grad and not is_slot(name)
    }

    def correct(moved: nn.Module) -> None:
        for name, parameter in moved.named_parameters():
            if name in there and parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - there[name], alpha=weight)

    return correct
