"""Per-sample gradients of `nn.Linear`: x of any leading axes, W of shape [p, d].

The gradient of sample i is sum_t g_it x_it^T over its T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlearn.training.dp.contribution import (
    BLOCK,
    IN_CACHE,
    Contribution,
    ghost_squared_norms,
    instantiated,
    outer_squared_norms,
    pieces,
    scaled,
    squared_norms,
    weighted_sum,
)
from fedlearn.training.dp.layer import Call, Layer, PerSample, Rule

_KEEP = 2.0
"""Gradients are written out up to this many times the size of their factors."""


_SHORT = 128
"""Up to so many positions, writing a large gradient takes longer than computing it..."""

_ROWS = 128
"""... unless it is computed in parts of half the cache, of at least so many rows."""

_SHORTEST = 64
"""Norms of shorter parts of a row would be a list as long as what they are the norms of."""

_LONG = 4
"""So many times more of a product at once, or its sum would be read and written too often."""


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
    # Long rows are written faster; where g is wider, the gradients are kept transposed.
    turned = g.shape[2] > x.shape[2]
    left, right = (x, g) if turned else (g, x)
    gradients = g.new_empty(len(g), left.shape[2], right.shape[2])
    norms = _multiply(left.transpose(1, 2), right, gradients)
    if not turned:
        return instantiated(parameter, gradients, norms)

    def combine(factors: Tensor, gradients: Tensor) -> Tensor:
        return weighted_sum(factors, gradients).T.contiguous()

    return Contribution(
        parameter=parameter, squared_norms=norms, rows=(gradients,), combine=combine
    )


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Write the products of all samples' matrices to `out`; returns their squared norms."""
    batch, rows, columns = out.shape
    block = _block(columns)
    if block is None or out.is_cuda:
        return squared_norms(torch.bmm(left, right, out=out))
    samples = max(1, IN_CACHE // (rows * columns))
    if right.shape[1] <= _SHORT and rows * columns >= IN_CACHE:
        rows = max(_ROWS, IN_CACHE // (2 * columns))
    blocks = out.view(batch, out.shape[1], -1, block)
    norms = out.new_empty(blocks.shape[:3])
    sides = torch.split(left, samples), torch.split(right, samples)
    places = (torch.split(value, samples) for value in (out, blocks, norms))
    for of_left, of_right, *of_places in zip(*sides, *places, strict=True):
        parts = (torch.split(value, rows, 1) for value in (of_left, *of_places))
        for one, product, of_blocks, norm in zip(*parts, strict=True):
            torch.bmm(one, of_right, out=product)
            torch.linalg.vector_norm(of_blocks, dim=3, out=norm)
    return norms.flatten(1).square().sum(1)


def _block(columns: int) -> int | None:
    """The longest part of a row that divides it and whose squares add up without harm.

    Nothing where that is too short to be worth its place in the list of norms.
    """
    fitting = (n for n in range(min(columns, BLOCK), 0, -1) if columns % n == 0)
    found = next(fitting, 1)
    return found if found == columns or found >= _SHORTEST else None


def _sum(factors: Tensor, x: Tensor, g: Tensor) -> Tensor:
    total = g.new_zeros((g.shape[2], x.shape[2]), dtype=torch.float64)
    for some in pieces(len(g), (x[0].numel() + g[0].numel()) // _LONG or 1, g):
        wide = scaled(factors[some], g[some])
        total.addmm_(wide.flatten(0, 1).T, x[some].double().flatten(0, 1))
    return total


LINEAR = Rule(name="linear", contributions=_contributions)
