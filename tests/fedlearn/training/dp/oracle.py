"""The slow truth: one sample at a time, ordinary autograd, float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def gradients(
    model: nn.Module, losses: Callable[[Tensor], Tensor], x: Tensor, axis: int = 0
) -> list[dict[str, Tensor]]:
    """The gradient of every sample's loss, each from a batch of one."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = []
    for i in range(x.shape[axis]):
        loss = losses(model(x.narrow(axis, i, 1))).sum()
        values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        found.append(
            {
                name: torch.zeros_like(p) if g is None else g
                for (name, p), g in zip(parameters.items(), values, strict=True)
            }
        )
    return found


def norm(gradient: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters together."""
    return sum(float(g.double().square().sum()) for g in gradient.values()) ** 0.5


def clipped_sum(found: list[dict[str, Tensor]], bound: float) -> dict[str, Tensor]:
    """Sum of the gradients, each scaled down to `bound` where it is longer."""
    factors = [min(1.0, bound / (norm(gradient) or bound)) for gradient in found]
    return {
        name: sum((f * g[name] for f, g in zip(factors, found, strict=True)), torch.zeros(()))
        for name in found[0]
    }


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Relative difference of two gradients as one vector."""
    assert one.keys() == other.keys()
    apart = norm({name: one[name].double() - other[name].double() for name in one})
    return apart / max(norm(other), 1e-30)
