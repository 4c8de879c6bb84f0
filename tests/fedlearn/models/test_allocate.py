"""Memory for models that were built without storage."""

from __future__ import annotations

import torch
from torch import nn

from fedlearn.models.initialise import allocate


def test_allocate__gives_every_parameter_and_buffer_memory_of_its_shape_and_type() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Embedding(4, 2).double())

    with torch.device("meta"):
        model = build()
    allocate(model)
    expected = build()
    for (name, ours), (_, theirs) in zip(
        model.state_dict().items(), expected.state_dict().items(), strict=True
    ):
        assert ours.device.type == "cpu", name
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name


def test_allocate__keeps_shared_parameters_shared_and_frozen_ones_frozen() -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"encode": nn.Embedding(5, 3), "decode": nn.Linear(3, 5, bias=False)})
        model["decode"].weight = model["encode"].weight
        model["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    allocate(model)
    assert model["decode"].weight is model["encode"].weight
    assert not any(p.requires_grad for p in model["frozen"].parameters())
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
