"""What cannot be exact is refused, with the layer's name and the way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from opacus.layers import DPLSTM
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

from fedlearn.core.errors import ConfigError
from fedlearn.training.dp import ClippedGradients
from tests.fedlearn.training.dp.cases import losses_of


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


class BareToken(nn.Module):
    """Learns a tensor outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.linear = nn.Parameter(torch.zeros(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.token)


class OwnAttention(nn.MultiheadAttention):
    """Computes something else from the same parameters."""

    def forward(self, *args: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return args[0] @ self.in_proj_weight.T, None


def test_engine__refuses_inputs_with_a_gradient_that_goes_past_its_layers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    inputs = torch.ones(2, 4, requires_grad=True)
    with pytest.raises(ValueError, match="detach the model's inputs"):
        ClippedGradients(model, clip_norm=1.0).step(lambda: model(inputs).square().sum(1))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), r"1 \(BatchNorm1d\).*nn.GroupNorm"),
        (OwnAttention(4, 2), "opacus.layers.DPMultiheadAttention"),
        (nn.LSTM(4, 4), "opacus.layers.DPLSTM"),
        (nn.GRU(4, 4), "opacus.layers.DPGRU"),
        (nn.EmbeddingBag(4, 4), "nn.Embedding and a sum"),
        (nn.Embedding(4, 4, max_norm=1.0), "max_norm"),
        (nn.Embedding(4, 4, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (_tied(), "0.weight is shared by 0, 1: untie"),
        (BareToken(), "SampleParameter"),
        (nn.Sequential(weight_norm(nn.Linear(4, 4))), "remove_parametrizations"),
        (nn.Linear(4, 4).requires_grad_(False), "no trainable parameter"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_engine__refuses_what_cannot_be_exact_and_names_the_way_out(
    model: nn.Module, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        ClippedGradients(model, clip_norm=1.0)


def test_engine__lists_all_refusals_together() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.LSTM(4, 4), nn.Embedding(4, 4, max_norm=1.0))
    with pytest.raises(ConfigError) as caught:
        ClippedGradients(model, clip_norm=1.0)
    assert len(caught.value.problems) == 3


def test_engine__refuses_frozen_batch_norm_only_while_it_trains() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).requires_grad_(False))
    engine = ClippedGradients(model, clip_norm=1.0)
    x = torch.ones(3, 4)
    with pytest.raises(ConfigError, match="1: BatchNorm"):
        engine.step(lambda: losses_of(model(x)))
    model.eval()
    assert engine.step(lambda: losses_of(model(x))).norms.shape == (3,)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_engine__refuses_a_loss_that_is_not_one_per_sample(reduction: str) -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="one loss per sample"):
        ClippedGradients(model, clip_norm=1.0).step(
            lambda: functional.cross_entropy(
                model(torch.ones(2, 4)), torch.zeros(2, dtype=torch.long), reduction=reduction
            )
        )


def test_engine__refuses_a_loss_for_each_position() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="saw 4 rows for 8 samples"):
        ClippedGradients(model, clip_norm=1.0).step(
            lambda: model(torch.ones(4, 2, 4)).sum(2).flatten()
        )


def test_engine__refuses_losses_that_do_not_depend_on_the_model() -> None:
    with pytest.raises(ValueError, match="do not depend"):
        ClippedGradients(nn.Linear(4, 3), clip_norm=1.0).step(lambda: torch.ones(2))


def test_engine__refuses_losses_of_another_model() -> None:
    other = nn.Linear(4, 3)
    clipper = ClippedGradients(nn.Linear(4, 3), clip_norm=1.0)
    with pytest.raises(ValueError, match="come of no layer of this model"):
        clipper.step(lambda: other(torch.ones(2, 4)).sum(1))


def test_engine__refuses_losses_that_were_computed_before() -> None:
    model = nn.Linear(4, 3)
    losses: Any = model(torch.ones(2, 4)).sum(1)
    with pytest.raises(TypeError, match=r"a function that runs the model.*lambda"):
        ClippedGradients(model, clip_norm=1.0).step(losses)


def test_engine__refuses_ids_that_samples_share() -> None:
    table = nn.Embedding(5, 4)
    x = torch.ones(3, 5, 4)
    with pytest.raises(ValueError, match=r"Embedding: saw 1 rows for 3 samples.*position ids"):
        ClippedGradients(table, clip_norm=1.0).step(
            lambda: losses_of(x * table(torch.arange(5).unsqueeze(0)))
        )


def test_engine__refuses_rows_that_are_not_samples_in_a_group_norm() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Flatten(0, 1), nn.Unflatten(0, (1, -1)))
    model.append(nn.GroupNorm(2, 12))
    with pytest.raises(ValueError, match="3: saw 1 rows for 3 samples"):
        ClippedGradients(model, clip_norm=1.0).step(
            lambda: losses_of(model(torch.ones(3, 2, 5)).view(3, -1))
        )


def test_engine__refuses_a_weight_used_behind_its_layer() -> None:
    table = nn.Embedding(5, 4)
    ids = torch.tensor([[0, 1], [2, 3]])
    with pytest.raises(ValueError, match="weight: used outside the layer"):
        ClippedGradients(table, clip_norm=1.0).step(
            lambda: losses_of(functional.linear(table(ids), table.weight))
        )
    assert table.weight.grad is None


def test_engine__refuses_an_input_that_was_changed_in_place() -> None:
    model = nn.Linear(4, 4)
    x = torch.ones(3, 4)

    def losses() -> Tensor:
        y = model(x)
        x.add_(1.0)
        return losses_of(y)

    with pytest.raises(ValueError, match="Linear: its input was changed in place"):
        ClippedGradients(model, clip_norm=1.0).step(losses)


def test_engine__refuses_packed_sequences() -> None:
    model = nn.Sequential(DPLSTM(4, 3, batch_first=True))
    packed = pack_padded_sequence(torch.ones(3, 5, 4), torch.tensor([5, 5, 5]), batch_first=True)
    with pytest.raises(ValueError, match="PackedSequence"):
        ClippedGradients(model, clip_norm=1.0).step(lambda: losses_of(model(packed)[0].data))


def test_engine__refuses_a_model_that_was_frozen_meanwhile() -> None:
    model = nn.Linear(4, 3)
    engine = ClippedGradients(model, clip_norm=1.0)
    model.bias.requires_grad_(False)
    with pytest.raises(ConfigError, match="trainable parameters changed"):
        engine.step(lambda: losses_of(model(torch.ones(2, 4))))


def test_engine__leaves_the_model_usable_when_the_forward_pass_fails() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="shapes"):
        ClippedGradients(model, clip_norm=1.0).step(lambda: losses_of(model(torch.ones(2, 4))))
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_engine__gives_zeros_to_a_layer_that_no_loss_depends_on() -> None:
    model = nn.ModuleDict(
        {"used": nn.Linear(4, 3), "called": nn.Linear(4, 3), "idle": nn.Linear(2, 2)}
    )
    x = torch.ones(2, 4)

    def losses() -> Tensor:
        model["called"](x)
        return losses_of(model["used"](x))

    sums = ClippedGradients(model, clip_norm=1.0).step(losses).sums
    assert sums["used.weight"].any()
    assert not sums["called.weight"].any()
    assert sums["idle.weight"].shape == (2, 2)
    assert not sums["idle.weight"].any()


class _Full(nn.Module):
    """A layer without a rule that finds no memory to be called again."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.ones(3)), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x * self.scale


def test_engine__without_memory_blames_no_layer() -> None:
    model = _Full()
    with pytest.raises(torch.OutOfMemoryError):
        ClippedGradients(model, clip_norm=1.0).step(lambda: model(torch.ones(2, 3)).sum(1))
