"""What is particular to `cnn`; what all models share is in `test_models`."""

from __future__ import annotations

import torch

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.models.cnn import Cnn
from fedlearn.tasks import ClassificationTask, ImageInput


def test_cnn__halves_the_picture_in_every_block() -> None:
    task = ClassificationTask(input=ImageInput(channels=1, height=28, width=30), classes=("a", "b"))
    config = Cnn(width=4, depth=3, groups=2, dropout=0.0)
    model = models.build(config, task, Streams(0)).model
    body = torch.nn.Sequential(*list(model.children())[:-2])
    assert body(torch.zeros(2, 1, 28, 30)).shape == (2, 16, 3, 3)


def test_cnn__says_what_does_not_fit() -> None:
    small = ClassificationTask(input=ImageInput(channels=1, height=9, width=7), classes=("a", "b"))
    found = models.problems(Cnn(width=6, depth=3, groups=4, dropout=0.0), small)
    assert [problem.split(":")[0] for problem in found] == ["model.groups=4", "model.depth=3"]
    assert "halved 2 times" in found[1]
    assert models.problems(Cnn(width=6, depth=2, groups=3, dropout=0.0), small) == []


def test_cnn__drops_out_in_training_only() -> None:
    task = ClassificationTask(input=ImageInput(channels=1, height=8, width=8), classes=("a", "b"))
    model = models.build(Cnn(width=4, depth=1, groups=2, dropout=0.5), task, Streams(0)).model
    torch.nn.init.ones_(model.get_submodule("head").weight)
    x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    assert not torch.equal(model.train()(x), model.train()(x))
    assert torch.equal(model.eval()(x), model.eval()(x))
