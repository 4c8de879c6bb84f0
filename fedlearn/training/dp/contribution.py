"""What one parameter's gradient owes to each sample of a batch, and how to add it up.

Every layer answers with `Contribution`s: the squared norm of each sample's
gradient, and the tensors from which the weighted sum over samples follows.
Those tensors are the per-sample gradients themselves where they are small, and
their two factors (what the layer saw, what came back) where those are smaller;
so no more is ever kept than an ordinary backward pass would keep.

The ghost norm, ||sum_t g_t x_t^T||^2 = sum_ts (x_t . x_s)(g_t . g_s), is from
Goodfellow 2015 and Li et al. 2021 ("Large Language Models Can Be Strong
Differentially Private Learners", section 4); re-weighting the kept factors is
the book-keeping of Bu et al. 2023 ("Differentially Private Optimization on
Large Model at Small Cost", section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

GHOST_MARGIN = 4
"""Share of the terms' absolute size, in units of rounding over the length, added to a ghost norm.

The terms of a ghost norm may cancel; their rounding errors do not. With no margin,
inputs that differ by 1e-4 between positions gave float32 sums 250 times the bound,
with half of this margin still 1 percent above it; with all of it, none above was found.
Where gradients cancel strongly it clips a little more than needed.
"""

_ONE_BY_ONE = 8
"""Entries from which the margin grows with the root of their number, as rounding does where a
product of matrices is added up term by term. A GPU does that; added up so on the CPU, gradients
of 384 x 384 numbers exceeded the bound by 9 percent without this, with it none did."""

_UNDERFLOW = 1e-31
"""Added per entry to a factor's squared size, so that a square lost to underflow is covered."""

BLOCK = 1024
"""How many squares are added up at once; torch adds up their sums in pairs."""

IN_CACHE = 2**18
"""How many numbers are best written and read again at once: a megabyte in float32."""

ON_GPU = 2**26
"""The same on a GPU, where calls should cost more than memory: a quarter of a gigabyte. An
estimate, for no GPU was at hand."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One parameter's per-sample gradients, never necessarily written out.

    `squared_norms`: float[batch], the squared norm of each sample's gradient.
    `rows`: tensors whose first axis is the sample.
    `combine(factors, *rows)`: the sum over samples of factor times gradient, shaped like
    the parameter and in float64. In float32 one sample more or less would change how the
    others are rounded: over 200 batches of 512 by 0.8 of the bound, where they are made for it.
    """

    parameter: str
    squared_norms: Tensor
    rows: tuple[Tensor, ...]
    combine: Callable[..., Tensor]

    def weighted_sum(self, factors: Tensor, dropped: Tensor | None) -> Tensor:
        """Sum over samples of `factors[i]` times gradient i; samples in `dropped` are left out.

        Leaving out is not multiplying by zero: zero times infinity is not zero.
        """
        rows = self.rows
        if dropped is not None:
            rows = tuple(row.masked_fill(_like(dropped, row), 0) for row in rows)
        total: Tensor = self.combine(factors, *rows)
        return total


def instantiated(parameter: str, gradients: Tensor, norms: Tensor | None = None) -> Contribution:
    """The contribution of a parameter whose per-sample gradients were computed.

    `gradients`: float[batch, *shape of the parameter]; `norms`: their squared norms, if known.
    """
    # What a kernel rounded to half precision is measured and added up in single.
    gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    return Contribution(
        parameter=parameter,
        squared_norms=squared_norms(gradients) if norms is None else norms,
        rows=(gradients,),
        combine=weighted_sum,
    )


def stacked(parameter: str, blocks: Sequence[Contribution]) -> Contribution:
    """The contribution of a parameter that is `blocks` one after another along its first axis."""
    ends = list(accumulate(len(block.rows) for block in blocks))

    def combine(factors: Tensor, *rows: Tensor) -> Tensor:
        parts = [
            block.combine(factors, *rows[end - len(block.rows) : end])
            for block, end in zip(blocks, ends, strict=True)
        ]
        return torch.cat(parts)

    return Contribution(
        parameter=parameter,
        squared_norms=torch.stack([block.squared_norms for block in blocks]).sum(0),
        rows=tuple(row for block in blocks for row in block.rows),
        combine=combine,
    )


def at_once(like: Tensor) -> int:
    """How many numbers are best written and read again at once where `like` is."""
    return ON_GPU if like.is_cuda else IN_CACHE


def squared_norms(gradients: Tensor) -> Tensor:
    """Squared Euclidean norm of every row: float[batch, ...] to float[batch].

    In blocks, since torch adds a row up term by term: over four million float32 numbers
    it falls 3e-5 short of the norm, and what is clipped by it exceeds its bound by as much.
    """
    rows = _flat(gradients)
    count = rows.shape[1] // BLOCK
    whole = rows[:, : count * BLOCK].view(len(rows), count, BLOCK)
    total: Tensor = torch.linalg.vector_norm(whole, dim=2).square().sum(1)
    if count * BLOCK < rows.shape[1]:
        rest = torch.linalg.vector_norm(rows[:, count * BLOCK :], dim=1)
        total = total + rest.square()
    return total


def weighted_sum(factors: Tensor, gradients: Tensor) -> Tensor:
    """Sum over samples of `factors[i] * gradients[i]`: float64, shaped like one gradient."""
    rows, wide = _flat(gradients), factors.double()
    columns = max(1, at_once(rows) // max(1, len(rows)))
    parts = [wide @ some.double() for some in torch.split(rows, columns, 1)]
    return torch.cat(parts).view(gradients.shape[1:])


def pieces(samples: int, numbers: int, like: Tensor) -> Iterator[slice]:
    """Samples of so many `numbers` each, as many as are best taken at once where `like` is."""
    some = max(1, at_once(like) // numbers)
    return (slice(start, start + some) for start in range(0, samples, some))


def scaled(factors: Tensor, row: Tensor) -> Tensor:
    """`row` with sample i multiplied by `factors[i]`, in float64.

    In place of its copy: memory that is taken anew costs as much as the product.
    """
    return row.to(torch.float64, copy=True).mul_(_like(factors, row))


def ghost_squared_norms(gram_x: Tensor, gram_g: Tensor, widths: tuple[int, int]) -> Tensor:
    """Squared norms of sum_t g_t x_t^T, from the Gram matrices of x and of g.

    `gram_x`, `gram_g`: float[batch, length, length]; `widths`: the number of
    entries of one x_t and of one g_t.

    Guarantees: not below the true value by more than rounding of the result
    itself, even where the terms cancel and whatever the order in which a Gram
    matrix was added up; above it by at most `GHOST_MARGIN` units of rounding, times
    the root of the widths over `_ONE_BY_ONE`, relative, where they do not.
    """
    batch, length, _ = gram_x.shape
    total = torch.linalg.vecdot(gram_x.reshape(batch, -1), gram_g.reshape(batch, -1))
    size_x = gram_x.diagonal(dim1=1, dim2=2) + widths[0] * _UNDERFLOW
    size_g = gram_g.diagonal(dim1=1, dim2=2) + widths[1] * _UNDERFLOW
    size = (size_x.sqrt() * size_g.sqrt()).sum(1).square()
    chain = max(1.0, max(widths) / _ONE_BY_ONE) ** 0.5
    margin = GHOST_MARGIN * chain * torch.finfo(total.dtype).eps / length
    squared: Tensor = total.clamp_min(0) + size * margin
    return squared


def outer_squared_norms(x: Tensor, g: Tensor) -> Tensor:
    """Squared norms of the outer products g x^T: float[batch, d] and [batch, p] to float[batch]."""
    size_x = squared_norms(x) + x.shape[1] * _UNDERFLOW
    size_g = squared_norms(g) + g.shape[1] * _UNDERFLOW
    return size_x * size_g


def _like(values: Tensor, row: Tensor) -> Tensor:
    return values.view(-1, *[1] * (row.dim() - 1))


def _flat(gradients: Tensor) -> Tensor:
    return gradients.reshape(gradients.shape[0], -1)  # a scalar parameter has no axis to flatten
