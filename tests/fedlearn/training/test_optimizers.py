"""Our optimisers are torch's: the same parameters, bit for bit, and the same state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import nn

from fedlearn.training.optimizers import make_optimizer
from tests.fedlearn.training.test_local import CONFIG

KINDS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x = torch.linspace(-1, 1, 12).view(4, 3)
    for _ in range(5):
        optimizer.zero_grad(set_to_none=True)
        model(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_optimizer__steps_as_torch_does(kind: Literal["sgd", "adam"], momentum: float) -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    config = replace(
        CONFIG, optimizer=kind, momentum=momentum, weight_decay=0.01, learning_rate=0.1
    )
    also = {"momentum": momentum} if kind == "sgd" else {}
    trained(ours, make_optimizer(ours, config))
    trained(theirs, KINDS[kind](theirs.parameters(), lr=0.1, weight_decay=0.01, **also))
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_optimizer__records_no_gradients_of_its_own_step() -> None:
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, replace(CONFIG, optimizer="sgd"))
    trained(model, optimizer)
    assert model.weight.is_leaf
    assert isinstance(optimizer, torch.optim.SGD)


def test_optimizer__leaves_frozen_parameters_out() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, replace(CONFIG, optimizer="adam"))
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]
