"""What DP-SGD cannot train is refused by the name of its layer, with the fix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlearn.models.initialise import initialise
from fedlearn.models.validate import dp_problems, record_problems


class Bare(nn.Module):
    """A linear layer beside a parameter that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(2))


class Tied(nn.Module):
    """An output layer that uses the table of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5)
        self.out.weight = self.embedding.weight


def test_validate__accepts_all_known_layers_and_those_without_parameters() -> None:
    ready = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.LayerNorm(2),
        nn.Embedding(3, 2), nn.Linear(2, 2), nn.ReLU(), nn.Dropout(0.0), nn.Flatten(),
    )  # fmt: skip
    assert dp_problems(ready) == []


@pytest.mark.parametrize(
    ("model", "name", "fix"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "layer 1 (BatchNorm1d)", "LayerNorm"),
        (nn.Sequential(nn.BatchNorm2d(3)), "layer 0 (BatchNorm2d)", "GroupNorm"),
        (nn.BatchNorm1d(3, affine=False), "layer model (BatchNorm1d)", "GroupNorm"),
        (
            nn.ModuleDict({"mix": nn.MultiheadAttention(4, 2)}),
            "layer mix (Multi",
            "training.dp_engine=fast",
        ),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "layer model (Multi", "model.dropout"),
        (nn.Sequential(nn.Dropout(0.1)), "layer 0 (Dropout) draws", "model.dropout"),
        (Bare(), "layer model (Bare) holds scale", "freeze it"),
        (nn.ModuleDict({"rnn": nn.LSTM(3, 2)}), "layer rnn (LSTM)", "Linear"),
        (nn.Sequential(nn.PReLU()), "layer 0 (PReLU) holds weight", "freeze it"),
        (Tied(), "parameter out.weight is shared with embedding.weight", "untie or freeze"),
    ],
)
def test_validate__refuses_by_name_and_says_the_fix(model: nn.Module, name: str, fix: str) -> None:
    (problem,) = dp_problems(model)
    assert name in problem
    assert fix in problem


def test_validate__lists_every_problem() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), Bare(), nn.InstanceNorm1d(3), Tied())
    assert len(dp_problems(model)) == 4


def test_validate__lets_frozen_parameters_be() -> None:
    bare, tied = Bare(), Tied()
    bare.scale.requires_grad_(False)
    tied.embedding.weight.requires_grad_(False)
    assert dp_problems(bare) == dp_problems(tied) == []


def test_validate__refuses_for_every_engine_what_mixes_records_or_is_dropped() -> None:
    model = nn.Sequential(
        nn.MultiheadAttention(4, 2), nn.PReLU(), nn.MultiheadAttention(4, 2, dropout=0.1),
        nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Dropout(0.0),
    )  # fmt: skip
    assert sorted(record_problems(model)) == ["2", "3", "4"]


def test_initialise__refuses_a_layer_that_it_does_not_know() -> None:
    with pytest.raises(TypeError, match=r"rnn \(LSTM\)"):
        initialise(nn.ModuleDict({"rnn": nn.LSTM(3, 2)}), torch.Generator())


def test_initialise__is_uniform_in_one_over_the_root_of_fan_in() -> None:
    layers = nn.ModuleDict({"linear": nn.Linear(25, 400), "conv": nn.Conv2d(4, 100, 5)})
    initialise(layers, torch.Generator().manual_seed(1))
    for layer, fan_in in ((layers["linear"], 25), (layers["conv"], 100)):
        bound = fan_in**-0.5
        weight = layer.weight.detach()
        assert weight.abs().max() <= bound
        # 10,000 uniform draws: the chance that all stay within 99.5 percent is below 1e-21.
        assert weight.abs().max() > 0.995 * bound
        # The mean is about N(0, bound^2 / 30,000): 7 deviations.
        assert abs(weight.mean()) < 7 * bound / 30_000**0.5
        assert not layer.bias.any()


def test_initialise__gives_filters_that_a_norm_follows_a_mean_of_zero() -> None:
    layers = nn.ModuleDict(
        {
            "filters": nn.Conv2d(4, 100, 5, bias=False),
            "number": nn.Conv2d(1, 3, 1, bias=False),
            "patches": nn.Conv2d(3, 8, 4, 4, bias=False),
        }
    )
    initialise(layers, torch.Generator().manual_seed(1))
    weight = layers["filters"].weight.detach()
    assert weight.mean((1, 2, 3)).abs().max() < 1e-6
    # He's variance, 2 / fan_in, but for the mean's share; of 10,000 uniform draws the
    # deviation of the variance is below 1 percent of it: 7 deviations.
    assert weight.var().item() == pytest.approx(2 / 100, rel=0.08)
    for name, fan_in in (("number", 1), ("patches", 48)):
        assert layers[name].weight.any()
        assert layers[name].weight.abs().max() <= fan_in**-0.5


def test_initialise__leaves_padding_at_zero() -> None:
    table = nn.Embedding(10, 4, padding_idx=0)
    initialise(nn.ModuleDict({"table": table}), torch.Generator().manual_seed(1))
    assert not table.weight[0].any()
    assert table.weight[1:].all()
