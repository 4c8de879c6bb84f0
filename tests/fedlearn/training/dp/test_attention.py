"""torch's attention, opened up by the engine, is torch's attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlearn.core.errors import ConfigError
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


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _same_as_torch(model: nn.MultiheadAttention, inputs: Inputs, **more: torch.Tensor) -> None:
    """Output and sum of gradients, of a call that looks at the weights and of one that does not."""
    model, inputs = model.double(), tuple(one.double() for one in inputs)  # type: ignore[assignment]
    for needed in (True, False):

        def losses(needed: bool = needed) -> torch.Tensor:
            return losses_of(model(*inputs, need_weights=needed, **more)[0])

        clipped = ClippedGradients(model, clip_norm=1e9, trial=False).step(losses)
        plain = losses()
        assert torch.allclose(clipped.losses, plain.detach(), rtol=1e-12)
        gradients = torch.autograd.grad(plain.sum(), list(model.parameters()))
        truth = dict(zip(dict(model.named_parameters()), gradients, strict=True))
        assert oracle.difference(clipped.sums, truth) < 1e-12


class Used(nn.Module):
    """Attention whose answer is used in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        key, value = torch.sin(x), torch.cos(x[..., :8])
        answer, weights = self.attention(x, key, value, average_attn_weights=False)
        if self.how == "weights alone":
            return weights
        more, _ = self.attention(torch.tanh(x), value, key)
        return answer + 2 * more + self.attention(x, x, x)[0]


@pytest.mark.parametrize("how", ["weights alone", "three times"])
def test_attention__that_is_used_in_part_or_more_than_once(how: str) -> None:
    """By its weights the values, and what is appended to them, get no gradient at all."""
    model, x = Used(how).double(), _drawn(4, 5, 8).double()
    truth = oracle.gradients(model, losses_of, x)
    bound = sorted(map(oracle.norm, truth))[1]
    found = ClippedGradients(model, clip_norm=bound).step(lambda: losses_of(model(x)))
    assert oracle.difference(found.sums, oracle.clipped_sum(truth, bound)) < 1e-12
    if how == "weights alone":
        assert not found.sums["attention.bias_v"].any()
        assert not found.sums["attention.in_proj_weight"][16:].any()


def test_attention__whose_forward_pass_was_replaced_is_refused() -> None:
    model = nn.MultiheadAttention(8, 2)
    model.forward = lambda *x: (x[0], None)  # type: ignore[method-assign, assignment]
    with pytest.raises(ConfigError, match="has a forward pass of its own"):
        ClippedGradients(model, clip_norm=1.0)


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_attention__that_is_not_trained_now_drops_nothing() -> None:
    x = _drawn(3, 5, 8)
    _same_as_torch(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True).eval(), (x, x, x))


@pytest.mark.parametrize("bias", [True, False])
def test_attention__of_three_sequences_of_other_widths(bias: bool) -> None:
    model = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, bias=bias, batch_first=True)
    _same_as_torch(model, (_drawn(3, 5, 8), _drawn(3, 4, 3), _drawn(3, 4, 5)))
    model = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True)
    _same_as_torch(model, (_drawn(3, 5, 8), _drawn(3, 4, 8), _drawn(3, 4, 8) + 1))


@pytest.mark.parametrize("appended", [True, False])
@pytest.mark.parametrize("kind", ["heads", "numbers", "both", "padding"])
def test_attention__under_masks_of_any_form(kind: str, appended: bool) -> None:
    """One for every sample and head, one of numbers for all, and keys that are none."""
    model = nn.MultiheadAttention(
        8, 2, batch_first=True, add_bias_kv=appended, add_zero_attn=appended
    )
    x, memory = _drawn(3, 5, 8), _drawn(3, 4, 8)
    masks = {}
    if kind in ("heads", "both"):
        masks["attn_mask"] = _drawn(6, 5, 4).double()
    elif kind == "numbers":
        masks["attn_mask"] = _drawn(5, 4).double()
    if kind in ("padding", "both"):
        padding = torch.zeros(3, 4, dtype=torch.bool)
        padding[0, 2:] = padding[2, 1] = True
        masks["key_padding_mask"] = padding if kind == "padding" else padding.double() * -2
    _same_as_torch(model, (x, memory, memory), **masks)
