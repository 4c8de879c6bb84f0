"""Adapters: peft's layers, our randomness, and gradients clipped record by record."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import layout_of, load_vector, to_vector
from fedlearn.models.finetune import Finetune, Learner, cut, stages
from fedlearn.models.validate import dp_problems
from fedlearn.training.dp import ClippedGradients

pytestmark = pytest.mark.skipif(not find_spec("peft"), reason="adapters need fedlearn[text]")
RANK = 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole() -> nn.Sequential:
    model = stages(
        embed=nn.Embedding(6, 4),
        block0=nn.Sequential(nn.Linear(4, 5), nn.GELU()),
        block1=nn.Sequential(nn.Linear(5, 5), nn.Tanh()),
        pool=nn.Flatten(),
        head=nn.Linear(15, 2),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator(1))
    return model


def learner(lora_stages: int = 0) -> Learner:
    part = Finetune(mode="lora", lora_rank=RANK, lora_alpha=6.0, lora_stages=lora_stages)
    return cut(whole(), part, generator())


def records(n: int = 5) -> Tensor:
    return torch.arange(3 * n).reshape(n, 3) % 6


@pytest.mark.parametrize(
    ("lora_stages", "adapted", "kept"),
    [(0, ["block0", "block1"], 0), (1, ["block1"], 2), (2, ["block0", "block1"], 1)],
)
def test_lora__trains_adapters_and_head_alone(
    lora_stages: int, adapted: list[str], kept: int
) -> None:
    made = learner(lora_stages)
    widths = {"block0": 4 + 5, "block1": 5 + 5}
    sent = dict(layout_of(made.model).entries)
    assert {name.split(".")[0] for name in sent} == {*adapted, "head"}
    expected = 15 * 2 + 2 + RANK * sum(widths[name] for name in adapted)
    assert layout_of(made.model).size == expected
    assert made.frozen_parameters == sum(p.numel() for p in whole().parameters()) - 32
    assert len(list(made.frozen or [])) == kept


def test_lora__starts_as_the_model_that_it_adapts_and_then_changes_it() -> None:
    made, x = learner(), records()
    assert torch.equal(made.whole()(x), whole()(x))
    perturb(made.model)
    assert not torch.allclose(made.whole()(x), whole()(x), atol=0.1)


def test_lora__is_the_low_rank_change_of_the_paper() -> None:
    made = learner(1)
    perturb(made.model)
    layer = made.model.get_submodule("block1.0")
    a, b = (layer.get_submodule(f"lora_{side}.default").weight for side in "AB")
    assert isinstance(a, Tensor)
    assert isinstance(b, Tensor)
    x = torch.linspace(-1, 1, 10).reshape(2, 5)
    expected = layer.get_submodule("base_layer")(x) + 6.0 / RANK * x @ a.T @ b.T
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_lora__draws_from_the_runs_stream_alone() -> None:
    models = [whole() for _ in range(3)]
    before = torch.get_rng_state()
    first, same, other = (
        to_vector(cut(model, Finetune(mode="lora"), generator(seed)).model)
        for model, seed in zip(models, (3, 3, 4), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("lora_stages", [0, 1])
def test_lora__is_clipped_record_by_record(lora_stages: int) -> None:
    made = learner(lora_stages)
    perturb(made.model)
    assert dp_problems(made.model) == []
    x = records() if made.frozen is None else made.frozen(records())
    labels, clip_norm = torch.tensor([0, 1, 0, 1, 1]), 0.5
    engine = ClippedGradients(made.model, clip_norm=clip_norm)
    assert engine.fallbacks == ()
    found = engine.step(lambda: functional.cross_entropy(made.model(x), labels, reduction="none"))
    learned = {name: p for name, p in made.model.named_parameters() if p.requires_grad}
    expected = {name: torch.zeros_like(p) for name, p in learned.items()}
    for i in range(len(x)):
        loss = functional.cross_entropy(made.model(x[i : i + 1]), labels[i : i + 1])
        gradients = torch.autograd.grad(loss, list(learned.values()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for total, gradient in zip(expected.values(), gradients, strict=True):
            total += gradient * (clip_norm / norm).clamp(max=1)
    assert set(found.sums) == set(expected)
    for name, total in expected.items():
        assert torch.allclose(found.sums[name].float(), total, rtol=1e-4, atol=1e-6), name


def test_lora__needs_a_layer_to_adapt() -> None:
    model = stages(embed=nn.Embedding(6, 4), pool=nn.Flatten(), head=nn.Linear(12, 2))
    with pytest.raises(ConfigError, match="no linear layer before its head"):
        cut(model, Finetune(mode="lora"), generator())


def test_lora__says_how_many_stages_there_are() -> None:
    with pytest.raises(ConfigError, match=r"training\.lora_stages=9: the model has 4 stages"):
        learner(9)


def test_lora__without_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"fedlearn\[text\]"):
        learner()


def perturb(model: nn.Module) -> None:
    vector = to_vector(model)
    noise = np.random.default_rng(9).uniform(0.05, 0.5, len(vector))
    load_vector(model, (vector + noise).astype(np.float32))


def test_lora__of_more_stages_than_there_are_says_the_number_to_type() -> None:
    with pytest.raises(ConfigError, match=r"4 stages that have parameters.*set it to 3 or less"):
        learner(4)
    last = Finetune(mode="last_k", last_k=9)
    with pytest.raises(ConfigError, match=r"training\.last_k=9: .*set it to 4 or less"):
        cut(whole(), last, generator())
