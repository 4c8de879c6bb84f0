"""Per-sample gradients of `nn.Linear`: x of any leading axes, W of shape [p, d].

The gradient of sample i is sum_t g_it x_it^T over its T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlearn.training.dp.contribution import (
    IN_CACHE,
    Contribution,
    ghost_squared_norms,
    instantiated,
    outer_squared_norms,
    scaled,
    squared_norms,
)
from fedlearn.training.dp.layer import Call, Layer, PerSample, Rule

_KEEP = 2.0
"""Gradients are written out up to this many times the size of their factors."""


def _contributions(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
    pairs = [positions(call) for call in calls if isinstance(call, Call)]
    found = []
    if bias := layer.parameters.get("bias"):
        sums = [g.sum(1) for _, g in pairs]
        found.append(instantiated(bias, sum(sums[1:], start=sums[0])))
    if weight := layer.parameters.get("weight"):
        found.append(product(weight, pairs))
    return found


Pair = tuple[Tensor, Tensor]
"""What went into a linear layer, [batch, T, d], and the gradient at its output, [batch, T, p]."""


def positions(call: Call) -> Pair:
    """Views with all axes between sample and feature as one: [batch, T, d] and [batch, T, p]."""
    x, g = call.inputs[0].to(call.gradient.dtype), call.gradient
    batch, width_x, width_g = g.shape[0], x.shape[-1], g.shape[-1]
    count = g[0, ..., 0].numel()
    return x.reshape(batch, count, width_x), g.reshape(batch, count, width_g)


def product(parameter: str, pairs: Sequence[Pair]) -> Contribution:
    """The contribution of sum_t g_t x_t^T, over the positions of all pairs.

    Kept are the d p numbers of each sample's gradient, unless the T (d + p) of
    its factors are far fewer: only then does the ghost norm cost less than what
    is written and read.
    """
    # Two calls of one layer are one call on twice the positions.
    x = pairs[0][0] if len(pairs) == 1 else torch.cat([x for x, _ in pairs], 1)
    g = pairs[0][1] if len(pairs) == 1 else torch.cat([g for _, g in pairs], 1)
    _, length, d = x.shape
    p = g.shape[2]
    if length == 1:
        norms = outer_squared_norms(x[:, 0], g[:, 0])
    elif d * p <= _KEEP * length * (d + p):
        return _written_out(parameter, x, g)
    else:
        gram_x = torch.bmm(x, x.transpose(1, 2))
        norms = ghost_squared_norms(gram_x, torch.bmm(g, g.transpose(1, 2)), (d, p))
    return Contribution(parameter=parameter, squared_norms=norms, rows=(x, g), combine=_sum)


def _written_out(parameter: str, x: Tensor, g: Tensor) -> Contribution:
    """Every sample's gradient, and its norm while it is still in the cache."""
    batch, entries = len(x), x.shape[2] * g.shape[2]
    gradients = g.new_empty(batch, g.shape[2], x.shape[2])
    norms = g.new_empty(batch)
    chunk = max(1, IN_CACHE // entries)
    for start in range(0, batch, chunk):
        part = slice(start, start + chunk)
        torch.bmm(g[part].transpose(1, 2), x[part], out=gradients[part])
        norms[part] = squared_norms(gradients[part])
    return instantiated(parameter, gradients, norms)


def _sum(factors: Tensor, x: Tensor, g: Tensor) -> Tensor:
    # Scaling is a pass over memory, so the narrower factor is scaled.
    if x.shape[2] < g.shape[2]:
        x = scaled(factors, x)
    else:
        g = scaled(factors, g)
    return g.flatten(0, 1).T @ x.flatten(0, 1)


LINEAR = Rule(name="linear", contributions=_contributions)
