"""Audit slots are beside the model, never in its way."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedlearn.core.vector import layout_of, load_vector, to_vector
from fedlearn.models.finetune import stages
from fedlearn.models.slots import attach, canary_losses, slot_values, trained, without_slots


def small() -> nn.Sequential:
    torch_generator = torch.Generator().manual_seed(3)
    model = stages(body=nn.Linear(3, 4), head=nn.Linear(4, 2))
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=torch_generator)
    model.register_buffer("running", torch.arange(2.0))
    return model


def test_attach__changes_neither_predictions_nor_the_vector_of_the_model() -> None:
    plain, audited = small(), small()
    attach(audited, 7)
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(rows), audited(rows))
    layout = layout_of(audited)
    assert layout.size == layout_of(plain).size + 7
    assert without_slots(layout) == layout_of(plain)
    assert np.array_equal(trained(layout, to_vector(audited)), to_vector(plain))
    assert np.array_equal(slot_values(layout, to_vector(audited)), np.zeros(7, np.float32))


def test_attach__of_zero_slots_is_nothing() -> None:
    model = small()
    attach(model, 0)
    assert layout_of(model) == layout_of(small())
    assert slot_values(layout_of(model), to_vector(model)).shape == (0,)


def test_slot_values__are_found_wherever_they_lie_in_the_vector() -> None:
    model = small()
    attach(model, 3)
    layout = layout_of(model)
    vector = np.arange(layout.size, dtype=np.float32)
    load_vector(model, vector)
    values = slot_values(layout, vector)
    assert np.array_equal(values, model.get_submodule("audit_slots").table.weight.detach()[:, 0])
    rest = trained(layout, vector)
    assert sorted([*values, *rest]) == list(range(layout.size))


def test_canary_losses__have_a_gradient_on_their_slot_alone() -> None:
    model = small()
    attach(model, 5)
    canary_losses(model, torch.tensor([1, 4]), slope=2.5).sum().backward()
    slots = model.get_submodule("audit_slots").table.weight
    assert slots.grad is not None
    assert slots.grad[:, 0].tolist() == [0.0, 2.5, 0.0, 0.0, 2.5]
    others = [p.grad for name, p in model.named_parameters() if "audit" not in name]
    assert others == [None] * 4
