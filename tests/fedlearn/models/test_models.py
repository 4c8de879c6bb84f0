"""The battery that every model passes, found from the union of their configs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of, load_vector, to_vector
from fedlearn.models.custom import Custom
from fedlearn.models.given import GivenModel
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.retriever import Retriever
from fedlearn.models.validate import dp_problems
from fedlearn.tasks import ClassificationTask, TableInput, TextInput
from fedlearn.training.dp import ClippedGradients
from tests.effort import slow_but, thinned

from .cases import CASES, TEXT, Case, perturb

every = pytest.mark.parametrize("case", thinned(CASES), ids=lambda case: case.name)


def test_battery__covers_the_union_of_models() -> None:
    # What is not built here has tests of its own: `test_custom`, `test_study`, `test_huggingface`,
    # `test_retriever`.
    kinds = set(models.MODELS.own) - {Custom, GivenModel, HuggingFaceModel, Retriever}
    assert {type(case.config) for case in CASES} == kinds, "a new model needs its cases"


@every
@pytest.mark.parametrize("n", [0, 1, 6])
def test_model__maps_records_to_logits(case: Case, n: int) -> None:
    logits = case.build().eval()(case.inputs(n))
    assert logits.shape == (n, case.classes)
    assert logits.dtype == torch.float32


@every
def test_model__predicts_from_records_with_all_its_parts(case: Case) -> None:
    whole = models.build(case.config, case.task, Streams(0)).whole().eval()
    assert torch.equal(whole(case.records(3)), case.build().eval()(case.inputs(3)))


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
    assert torch.equal(one(case.inputs(6)), two(case.inputs(6)))
    assert layout_of(one).digest() == layout_of(two).digest()


@every
def test_model__starts_with_a_uniform_prediction(case: Case) -> None:
    model = case.build().eval()
    assert not model(case.inputs(6)).any()
    assert not model.get_submodule("head").weight.any()


@every
def test_model__wastes_no_parameter(case: Case) -> None:
    """Every number gets a gradient: one without would only be noise under privacy."""
    model = case.build()
    perturb(model)
    n = 240
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, case.classes, n))
    functional.cross_entropy(model(case.inputs(n)), labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # A unit of ReLU may be off for all rows; anything else that is flat is waste.
        # Times the number itself, so that layers of any scale compare.
        used = ((parameter.grad * parameter).abs() > 1e-8).float().mean().item()
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
    x = case.inputs(6)
    together = model(x)
    alike = torch.allclose(model(x[:4]), together[:4], atol=1e-6)
    assert alike == (not dp_problems(model))


private = pytest.mark.parametrize(
    "case",
    slow_but(lambda case: "resnet18" not in case.name, [case for case in CASES if not case.mixes]),
    ids=lambda case: case.name,
)


@private
def test_model__is_clipped_record_by_record_with_a_rule_for_every_layer(case: Case) -> None:
    model = case.build()
    perturb(model)
    x, clip_norm = case.inputs(4), 0.5
    labels = torch.arange(4) % case.classes
    engine = ClippedGradients(model, clip_norm=clip_norm)
    assert engine.fallbacks == ()
    found = engine.step(lambda: functional.cross_entropy(model(x), labels, reduction="none"))
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(4):
        loss = functional.cross_entropy(model(x[i : i + 1]), labels[i : i + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for total, gradient in zip(expected.values(), gradients, strict=True):
            total += gradient * (clip_norm / norm).clamp(max=1)
    for name, total in expected.items():
        summed = found.sums[name].float()
        assert torch.allclose(summed, total, rtol=1e-3, atol=1e-4 * clip_norm), name


@every
def test_problems__name_records_of_another_form(case: Case) -> None:
    assert models.problems(case.config, case.task) == []
    other = TableInput(numeric=2) if isinstance(case.input, TextInput) else TEXT
    wrong = ClassificationTask(input=other, classes=("a", "b"))
    (found,) = models.problems(case.config, wrong)
    assert found.startswith(f"model={case.config.kind}: needs ")
    with pytest.raises(TypeError, match="the model needs"):
        models.build(case.config, wrong, Streams(0))
