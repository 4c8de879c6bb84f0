"""The encoder for texts, where a text is empty or short."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from .cases import CASES, TEXT, perturb

(BLOCKS,) = (case for case in CASES if case.name == "text-blocks")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_text__hides_padding_by_numbers_that_stay_finite(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's attention multiplies them by log2(e), autocast rounds them to bfloat16 before; of a
    row of minus infinities it makes NaN."""
    real, seen = functional.scaled_dot_product_attention, []

    def attention(*args: Any, attn_mask: torch.Tensor, **named: Any) -> torch.Tensor:
        seen.append(attn_mask)
        return real(*args, attn_mask=attn_mask, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    BLOCKS.build()(BLOCKS.inputs(4))
    assert seen
    for mask in seen:
        assert (mask.to(dtype).float() * math.log2(math.e)).isfinite().all()
        assert (mask.to(dtype).float() < -1e37).any()


@pytest.mark.parametrize("bf16", [False, True])
def test_text__without_a_token_has_a_finite_gradient(bf16: bool) -> None:
    model = BLOCKS.build()
    perturb(model)
    nothing = torch.full((2, TEXT.max_length), TEXT.pad_id)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(nothing)
    logits.float().square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
