"""Whether a built model can be trained privately is asked of the engine that would do it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlearn.config import compose
from fedlearn.config.contradictions import private_model_problems
from fedlearn.core.errors import ConfigError
from fedlearn.training.dp import ClippedGradients

FAST = ("privacy=record", "training.dp_engine=fast")


class Read(nn.Module):
    """Attention of a sequence with itself by torch's own module, and a layer without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.gate = nn.MultiheadAttention(4, 2, batch_first=True), nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(self.attend(x, x, x, need_weights=False)[0])


def test_model__the_fast_engine_takes_what_it_can_train() -> None:
    model = Read()
    assert private_model_problems(compose(FAST), model) == []
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    found = ClippedGradients(model, clip_norm=1.0).step(lambda: model(x).sum((1, 2)))
    assert all(value.any() for value in found.sums.values())


def test_problems__know_no_engine_whose_norms_may_fall_short() -> None:
    with pytest.raises(
        ConfigError, match=r"^training\.dp_engine=ghost: must be 'fast' or 'opacus'"
    ):
        compose(["privacy=record", "training.dp_engine=ghost"])


def test_model__opacus_is_not_asked_for_what_it_cannot_do() -> None:
    config = compose(["privacy=record", "training.dp_engine=opacus"])
    attention, gate = private_model_problems(config, Read())
    assert "layer attend (MultiheadAttention)" in attention
    assert "training.dp_engine=fast" in attention
    assert "layer gate (PReLU) holds weight" in gate


@pytest.mark.parametrize(
    "overrides", [FAST, ("privacy=distributed", "training.dp_engine=opacus")], ids=str
)
def test_model__the_fast_engine_names_each_refusal_once(overrides: tuple[str, ...]) -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LSTM(4, 4))
    tied[1].weight = tied[0].weight
    mixes, recurrent, shared = private_model_problems(compose(overrides), tied)
    assert "layer 2 (BatchNorm1d) mixes" in mixes
    assert "3 (LSTM): runs all steps in one call; use opacus.layers.DPLSTM" in recurrent
    assert "0.weight is shared by 0, 1" in shared


@pytest.mark.parametrize("privacy", ["none", "client"])
def test_model__may_be_anything_where_no_record_is_clipped(privacy: str) -> None:
    extra = ["secagg=off"] if privacy == "client" else []
    config = compose([f"privacy={privacy}", *extra])
    assert private_model_problems(config, nn.BatchNorm1d(3)) == []
