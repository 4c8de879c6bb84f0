from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlearn import models
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of
from fedlearn.models.finetune import Finetune, Mode, cut, stages
from fedlearn.models.tabular import Tabular
from fedlearn.tasks import ClassificationTask, TableInput

TASK = ClassificationTask(input=TableInput(numeric=3), classes=("a", "b"))
CASES: dict[tuple[Mode, int], list[str]] = {
    ("full", 1): ["stem", "shape", "body", "flat", "head"],
    ("head", 1): ["head"],
    ("last_k", 1): ["head"],
    ("last_k", 2): ["body", "flat", "head"],
    ("last_k", 3): ["stem", "shape", "body", "flat", "head"],
}


def whole() -> nn.Sequential:
    torch_is_told = torch.Generator().manual_seed(0)
    model = stages(
        stem=nn.Linear(3, 4),
        shape=nn.ReLU(),
        body=nn.Linear(4, 4),
        flat=nn.Tanh(),
        head=nn.Linear(4, 2),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=torch_is_told)
    return model


@pytest.mark.parametrize(("mode", "last_k"), CASES)
def test_cut__trains_and_sends_the_named_stages_alone(mode: Mode, last_k: int) -> None:
    learner = cut(whole(), Finetune(mode=mode, last_k=last_k), torch.Generator())
    trained = CASES[mode, last_k]
    assert [name for name, _ in learner.model.named_children()] == trained
    sent = {name.split(".")[0] for name, _ in layout_of(learner.model).entries}
    assert sent == set(trained) & {"stem", "body", "head"}
    assert learner.frozen_parameters == sum(
        p.numel() for name, p in whole().named_parameters() if name.split(".")[0] not in trained
    )


@pytest.mark.parametrize(("mode", "last_k"), CASES)
def test_cut__computes_what_the_whole_computes(mode: Mode, last_k: int) -> None:
    x = torch.linspace(-1, 1, 15).reshape(5, 3)
    learner = cut(whole(), Finetune(mode=mode, last_k=last_k), torch.Generator())
    assert torch.equal(learner.whole()(x), whole()(x))


def test_cut__says_how_many_stages_there_are() -> None:
    with pytest.raises(ConfigError, match=r"training\.last_k=4: the model has 3 stages"):
        cut(whole(), Finetune(mode="last_k", last_k=4), torch.Generator())


def test_build__does_not_freeze_random_weights() -> None:
    config = Tabular(architecture="mlp", norm="layer", width=8, depth=1, heads=1, dropout=0.0)
    with pytest.raises(ConfigError, match=r"training\.finetune=head.*random weights"):
        models.build(config, TASK, Streams(0), Finetune(mode="head"))


def test_build__freezes_what_has_no_weights() -> None:
    """One-hot columns need not be computed in every round."""
    config = Tabular(architecture="linear", norm="none", width=1, depth=1, heads=1, dropout=0.0)
    head = models.build(config, TASK, Streams(0), Finetune(mode="head"))
    full = models.build(config, TASK, Streams(0))
    assert head.frozen is not None
    assert layout_of(head.model).digest() == layout_of(full.model).digest()
