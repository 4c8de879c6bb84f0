"""The battery that every model passes, found from the union of their configs."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedlearn import models
from fedlearn.models.validate import dp_problems
from fedlearn.rng import Streams
from fedlearn.task import Task, TextInput
from fedlearn.vector import layout_of, load_vector, to_vector

from .cases import CASES, Case, perturb

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_battery__covers_the_union_of_models() -> None:
    kinds = set(get_args(models.Model))
    assert {type(case.config) for case in CASES} == kinds, "a new model needs its cases"


@every
@pytest.mark.parametrize("n", [0, 1, 6])
def test_model__maps_records_to_logits(case: Case, n: int) -> None:
    logits = case.build().eval()(case.records(n))
    assert logits.shape == (n, case.classes)
    assert logits.dtype == torch.float32


@every
def test_model__is_a_function_of_the_seed_alone(case: Case) -> None:
    before = torch.get_rng_state()
    first, same, other = (to_vector(case.build(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator was used"
    assert (first == same).all()
    assert np.isfinite(first).all()
    # A model that is nothing but its head starts at zero.
    names = {name.split(".")[0] for name, _ in layout_of(case.build()).entries}
    assert (first != other).any() == (names != {"head"})


@every
def test_model__vector_round_trip_keeps_its_predictions(case: Case) -> None:
    one, two = (case.build(seed).eval() for seed in (0, 1))
    perturb(one)
    load_vector(two, to_vector(one))
    assert torch.equal(one(case.records(6)), two(case.records(6)))
    assert layout_of(one).digest() == layout_of(two).digest()


@every
def test_model__starts_with_a_uniform_prediction(case: Case) -> None:
    model = case.build().eval()
    assert not model(case.records(6)).any()
    assert not model.get_submodule("head").weight.any()


@every
def test_model__wastes_no_parameter(case: Case) -> None:
    """Every number gets a gradient: one without would only be noise under privacy."""
    model = case.build()
    perturb(model)
    n = 60
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, case.classes, n))
    functional.cross_entropy(model(case.records(n)), labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # A unit of ReLU may be off for all rows; anything else that is flat is waste.
        used = (parameter.grad.abs() > 1e-7).float().mean().item()
        assert used > 0.6, f"{name}: only {used:.0%} of its numbers matter"


@every
def test_model__is_ready_for_privacy_unless_it_mixes_records(case: Case) -> None:
    found = dp_problems(case.build())
    if case.mixes:
        assert [problem.split()[1] for problem in found] == ["body.1", "body.4"]
        assert all("GroupNorm or LayerNorm" in problem for problem in found)
    else:
        assert found == []


@every
def test_model__treats_records_independently_unless_refused(case: Case) -> None:
    """What makes clipping one record's gradient mean anything."""
    model = case.build().train()
    perturb(model)
    x = case.records(6)
    together = model(x)
    alike = torch.allclose(model(x[:4]), together[:4], atol=1e-6)
    assert alike == (not dp_problems(model))


@every
def test_problems__name_records_of_another_form(case: Case) -> None:
    assert models.problems(case.config, case.task) == []
    text = Task(input=TextInput(vocabulary=9, max_length=4), classes=("a", "b"))
    (found,) = models.problems(case.config, text)
    assert found.startswith(f"model.kind={case.config.kind}: needs ")
    with pytest.raises(TypeError, match="the model needs"):
        models.build(case.config, text, Streams(0))
