"""Every way to write out the gradients of a linear layer gives them and their norms."""

from __future__ import annotations

import pytest
import torch

from fedlearn.training.dp.clipping import SAFETY
from fedlearn.training.dp.linear import product

SHAPES = {
    "several samples at once": (20, 6, 5),
    "one row": (9, 40, 1),
    "turned, several samples at once": (40, 20, 70),
    "in parts": (120, 1000, 300),
    "turned, in parts": (120, 300, 1000),
    "long enough to be computed whole": (300, 520, 530),
    "rows of several blocks": (200, 2048, 130),
    "turned, rows of several blocks": (120, 150, 3072),
    "rows without a fitting block": (100, 1031, 80),
    "factors, by their Gram matrices": (3, 70, 50),
}


@pytest.mark.parametrize(("length", "d", "p"), SHAPES.values(), ids=SHAPES)
def test_product__equals_double_precision(length: int, d: int, p: int) -> None:
    generator = torch.Generator().manual_seed(length)
    x, g = (torch.randn(5, length, width, generator=generator) for width in (d, p))
    factors = torch.rand(5, generator=generator)
    found = product("weight", [(x, g)])
    true = torch.einsum("bti,btj->bij", g.double(), x.double())
    squares = true.square().sum((1, 2))
    torch.testing.assert_close(found.squared_norms.double(), squares, rtol=3e-6, atol=0)
    dropped = torch.tensor([False, True, False, False, False])
    for left_out, kept in ((None, factors), (dropped, factors.masked_fill(dropped, 0))):
        total = torch.einsum("b,bij->ij", kept.double(), true)
        by = found.weighted_sum(kept, left_out)
        assert by.shape == (p, d)
        assert by.is_contiguous()
        assert (by - total).norm() < 1e-6 * total.norm()


@pytest.mark.parametrize(("length", "d", "p"), SHAPES.values(), ids=SHAPES)
def test_product__norms_fall_short_by_less_than_clipping_spares(
    length: int, d: int, p: int
) -> None:
    # Equal numbers are the worst for adding up in single precision: all round the same way.
    for value in torch.linspace(0.5, 1.5, 7):
        x, g = (value.expand(1, length, width).contiguous() for width in (d, p))
        found = product("weight", [(x, g)])
        (gradient,) = torch.bmm(g.transpose(1, 2), x)
        norm = float(found.squared_norms.sqrt())
        assert norm >= float(gradient.double().norm()) * (1 - SAFETY * 2**-23 / 2)
