"""Views of pictures, and that a record is clipped by the mean gradient over its views."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn import models
from fedlearn.config import compose
from fedlearn.config.contradictions import task_problems
from fedlearn.core.rng import Streams
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.mechanisms import RecordPlan
from fedlearn.models.cnn import Cnn
from fedlearn.models.vit import ViT
from fedlearn.privacy import SeededNoise
from fedlearn.tasks import ClassificationTask, ImageInput, TableInput
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.augmentation import views
from fedlearn.training.local import train
from fedlearn.training.private import train_private
from fedlearn.training.settings import Training

CONFIG = Training(
    optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, local_steps=1,
    sample_rate=1.0, nominal_records=8, dp_engine="fast", max_batch=1024, augmentations=3, shifts=2,
)  # fmt: skip
PICTURE = ImageInput(channels=2, height=8, width=12)
MODELS: list[models.Model] = [
    Cnn(width=4, depth=2, groups=2, dropout=0.0),
    ViT(patch=4, width=8, depth=1, heads=2, dropout=0.0),
]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def pictures(n: int = 8) -> tuple[Tensor, Tensor]:
    drawn = np.random.default_rng(1)
    shape = n, PICTURE.channels, PICTURE.height, PICTURE.width
    return torch.from_numpy(drawn.random(shape, np.float32)), torch.arange(n) % 3


def network(config: models.Model) -> nn.Module:
    task = ClassificationTask(input=PICTURE, classes=("a", "b", "c"))
    model = models.build(config, task, Streams(0)).model
    vector = to_vector(model)  # away from the zero head, so that every layer has a gradient
    moved = vector + np.random.default_rng(0).normal(0, 0.2, len(vector))
    load_vector(model, moved.astype(np.float32))
    return model


def mean_gradient(model: nn.Module, seen: list[Tensor], label: Tensor) -> list[Tensor]:
    """The gradient of one record: one view after the other, by autograd."""
    parameters = list(model.parameters())
    found = [
        torch.autograd.grad(functional.cross_entropy(model(view[None]), label[None]), parameters)
        for view in seen
    ]
    return [torch.stack(of_views).mean(0) for of_views in zip(*found, strict=True)]


def slow_sum(model: nn.Module, seen: list[Tensor], labels: Tensor, bound: float) -> list[Tensor]:
    total = [torch.zeros_like(p) for p in model.parameters()]
    for i, label in enumerate(labels):
        gradient = mean_gradient(model, [view[i] for view in seen], label)
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        for sum_, part in zip(total, gradient, strict=True):
            sum_ += part * (bound / norm).clamp(max=1)
    return total


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("config", MODELS, ids=lambda config: config.kind)
@pytest.mark.parametrize("engine", ["fast", "opacus"])
@pytest.mark.parametrize("bound", [0.3, 1e3])
def test_private__clips_the_mean_gradient_over_the_views_of_a_record(
    config: models.Model, engine: Literal["fast", "opacus"], bound: float
) -> None:
    training = replace(CONFIG, dp_engine=engine)
    plan = RecordPlan(clip_norm=bound, noise_multiplier=0.0, delta=1e-5, sample_rate=1.0,
                      steps_per_round=1, rounds=1)  # fmt: skip
    features, labels = pictures()
    model, before = network(config), network(config)
    train_private(
        model, features, labels, training, plan, loss=cross_entropy, noise=SeededNoise(b"s")
    )
    coins = np.random.default_rng([int(word) for word in SeededNoise(b"s").stream().words(4)])
    expected = slow_sum(before, views(features, training, coins), labels, bound)
    moved = zip(before.parameters(), model.parameters(), expected, strict=True)
    for old, new, total in moved:
        torch.testing.assert_close((old - new) * 8, total, rtol=1e-3, atol=2e-5 * max(bound, 1))


def test_private__one_record_moves_the_sum_by_no_more_than_without_views() -> None:
    plan = RecordPlan(clip_norm=0.1, noise_multiplier=0.0, delta=1e-5, sample_rate=1.0,
                      steps_per_round=1, rounds=1)  # fmt: skip
    features, labels = pictures(1)
    model = network(MODELS[0])
    before = to_vector(model)
    training = replace(CONFIG, augmentations=8, nominal_records=1)
    noise = SeededNoise(b"s")
    train_private(model, features * 50, labels, training, plan, loss=cross_entropy, noise=noise)
    moved = float(np.linalg.norm(to_vector(model).astype(np.float64) - before))
    assert moved == pytest.approx(0.1, rel=1e-4)


def test_train__takes_the_mean_over_views_too() -> None:
    features, labels = pictures()
    model, before = network(MODELS[0]), network(MODELS[0])
    # Views of one picture that is alike on both sides, everywhere: nothing changes.
    even = torch.ones_like(features) * features[:, :, :1, :1]
    train(model, even, labels, CONFIG, loss=cross_entropy, rng=rng())
    plain = network(MODELS[0])
    without = replace(CONFIG, augmentations=0)
    train(plain, even, labels, without, loss=cross_entropy, rng=rng())
    np.testing.assert_allclose(to_vector(model), to_vector(plain), rtol=1e-4, atol=1e-6)
    assert (to_vector(model) != to_vector(before)).any()


def test_views__are_the_picture_shifted_and_mirrored() -> None:
    images = torch.arange(2 * 8 * 12.0).reshape(1, 2, 8, 12).expand(200, -1, -1, -1)
    wide = np.pad(images[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    windows = {
        wide[:, y : y + 8, x : x + 12].tobytes(): (y, x, False) for y in range(5) for x in range(5)
    }
    windows |= {
        np.ascontiguousarray(wide[:, y : y + 8, x : x + 12][..., ::-1]).tobytes(): (y, x, True)
        for y in range(5)
        for x in range(5)
    }
    seen = views(images, CONFIG, rng())
    assert len(seen) == 3
    found = [windows[one.contiguous().numpy().tobytes()] for view in seen for one in view]
    # 600 draws of 50 windows: that one is missing has a chance of 50 (49/50)^600 = 3e-4 under
    # another seed; this one is fixed.
    assert set(found) == set(windows.values())
    still = views(images, replace(CONFIG, flips=False, shifts=0), rng())
    assert all(torch.equal(view, images) for view in still)
    assert views(images, replace(CONFIG, augmentations=0), rng()) == [images]


def test_task_problems__refuse_views_where_they_mean_nothing() -> None:
    base = ["scenario=medmnist", "scenario.path=a.npz", "training.augmentations=4"]
    task = ClassificationTask(input=ImageInput(channels=3, height=28, width=28), classes=("a", "b"))
    assert task_problems(compose([*base, "model=cnn"]), task) == []
    frozen = compose([*base, "model=squeezenet", "training.finetune=head"])
    (found,) = task_problems(frozen, task)
    assert found.startswith("training.augmentations=4: the frozen part")
    (found,) = task_problems(compose([*base, "model=cnn", "training.shifts=28"]), task)
    assert found.startswith("training.shifts=28: must be less than the side")
    table = compose(["scenario=heart", "training.augmentations=4"])
    found = task_problems(table, replace(task, input=TableInput(numeric=2)))[0]
    assert found.startswith("training.augmentations=4: are views of images")
