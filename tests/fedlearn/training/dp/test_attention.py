"""torch's attention, opened up by the engine, is torch's attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlearn.training.dp import ClippedGradients
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import losses_of


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention__drops_the_same_entries_as_torch(need_weights: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    model = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True, dtype=torch.float64)
    x = torch.randn(6, 5, 8, generator=generator, dtype=torch.float64)

    def losses() -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            return losses_of(model(x, x, x, need_weights=need_weights)[0])

    clipped = ClippedGradients(model, clip_norm=1e9).step(losses)
    plain = torch.autograd.grad(losses().sum(), list(model.parameters()))
    truth = dict(zip(dict(model.named_parameters()), plain, strict=True))
    assert oracle.difference(clipped.sums, truth) < 1e-12


def test_attention__is_itself_again_after_a_step() -> None:
    model = nn.MultiheadAttention(8, 2)
    x = torch.ones(5, 3, 8)
    ClippedGradients(model, clip_norm=1.0).step(lambda: losses_of(model(x, x, x)[0], 1))
    assert "forward" not in vars(model)


def test_attention__refuses_one_sequence_without_a_batch() -> None:
    model = nn.MultiheadAttention(8, 2)
    x = torch.ones(5, 8)
    with pytest.raises(ValueError, match="got 2 axes; pass a batch of sequences"):
        ClippedGradients(model, clip_norm=1.0).step(lambda: losses_of(model(x, x, x)[0]))


def test_attention__refuses_a_causal_hint_without_its_mask() -> None:
    model = nn.MultiheadAttention(8, 2)
    x = torch.ones(5, 3, 8)
    with pytest.raises(ValueError, match="is_causal needs attn_mask"):
        ClippedGradients(model, clip_norm=1.0).step(
            lambda: losses_of(model(x, x, x, is_causal=True)[0], 1)
        )
