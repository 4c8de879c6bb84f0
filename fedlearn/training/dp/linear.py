"""Per-sample gradients of `nn.Linear`: x of any leading axes, W of shape [p, d].

The gradient of sample i is sum_t g_it x_it^T over its T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlearn.training.dp.contribution import (
    Contribution,
    ghost_squared_norms,
    instantiated,
    outer_squared_norms,
    scaled,
)
from fedlearn.training.dp.layer import Call, Layer, PerSample, Rule


def _contributions(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
    pairs = [_positions(call) for call in calls if isinstance(call, Call)]
    # Two calls of one layer are one call on twice the positions.
    x = pairs[0][0] if len(pairs) == 1 else torch.cat([x for x, _ in pairs], 1)
    g = pairs[0][1] if len(pairs) == 1 else torch.cat([g for _, g in pairs], 1)
    found = []
    if bias := layer.parameters.get("bias"):
        found.append(instantiated(bias, g.sum(1)))
    if weight := layer.parameters.get("weight"):
        found.append(product(weight, x, g))
    return found


def _positions(call: Call) -> tuple[Tensor, Tensor]:
    """Views with all axes between sample and feature as one: [batch, T, d] and [batch, T, p]."""
    x, g = call.inputs[0].to(call.gradient.dtype), call.gradient
    batch, width_x, width_g = g.shape[0], x.shape[-1], g.shape[-1]
    positions = g[0, ..., 0].numel()
    return x.reshape(batch, positions, width_x), g.reshape(batch, positions, width_g)


def product(parameter: str, x: Tensor, g: Tensor) -> Contribution:
    """The contribution of sum_t g_t x_t^T: x float[batch, T, d], g float[batch, T, p].

    Whatever is smaller is kept: d p numbers of the gradient, or T (d + p) of
    its factors. Where the factors are smaller, so is the cost of the ghost norm.
    """
    _, length, d = x.shape
    p = g.shape[2]
    if length == 1:
        norms = outer_squared_norms(x[:, 0], g[:, 0])
    elif d * p <= length * (d + p):
        return instantiated(parameter, torch.bmm(g.transpose(1, 2), x))
    else:
        gram_x = torch.bmm(x, x.transpose(1, 2))
        norms = ghost_squared_norms(gram_x, torch.bmm(g, g.transpose(1, 2)), (d, p))
    return Contribution(parameter=parameter, squared_norms=norms, rows=(x, g), combine=_sum)


def _sum(factors: Tensor, x: Tensor, g: Tensor) -> Tensor:
    # Scaling is a pass over memory, so the narrower factor is scaled.
    if x.shape[2] < g.shape[2]:
        x = scaled(factors, x)
    else:
        g = scaled(factors, g)
    return g.flatten(0, 1).T @ x.flatten(0, 1)


LINEAR = Rule(name="linear", contributions=_contributions)
