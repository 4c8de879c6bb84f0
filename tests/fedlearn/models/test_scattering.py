"""The transform against its definition, and against what is known about it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of
from fedlearn.models.finetune import Finetune
from fedlearn.models.scattering import Scattering, Transform, gabor, morlet
from fedlearn.tasks import ClassificationTask, ImageInput

CONFIG = Scattering(scales=2, angles=3, groups=2)


def pictures(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(0, 1, shape)).float()


def by_definition(picture: NDArray[np.float64], config: Scattering) -> NDArray[np.float64]:
    """One channel, convolved pixel by pixel on the mirrored and wrapped picture; slow."""
    step = 2**config.scales
    margin = 3 * step // 2
    sides = [math.ceil((side + 2 * margin) / step) * step for side in picture.shape]
    after = [total - side - margin for total, side in zip(sides, picture.shape, strict=True)]
    padded = np.pad(picture, [(margin, after[0]), (margin, after[1])], mode="reflect")
    low = gabor(
        *sides, deviation=0.8 * 2 ** (config.scales - 1), angle=0.0, frequency=0.0, slant=1.0
    )
    turns = [math.pi * k / config.angles for k in range(config.angles)]

    def convolved(
        field: NDArray[np.float64], kernel: NDArray[np.complex128]
    ) -> NDArray[np.complex128]:
        total = np.zeros(sides, np.complex128)
        for y, x in itertools.product(*map(range, sides)):
            total += kernel[y, x] * np.roll(field, (y, x), (0, 1))
        return total

    def kept(field: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth = convolved(field, low).real
        at = [margin + step // 2 + step * np.arange(side // step) for side in picture.shape]
        return smooth[np.ix_(*at)]

    maps = [kept(padded)]
    for scale in range(config.scales):
        singles = [abs(convolved(padded, morlet(*sides, scale, t, config.angles))) for t in turns]
        maps += [kept(single) for single in singles]
        for coarser in range(scale + 1, config.scales):
            for single, other in itertools.product(singles, turns):
                pair = convolved(single, morlet(*sides, coarser, other, config.angles))
                maps.append(kept(abs(pair)))
    return np.array(maps)


def test_scattering__is_convolution_modulus_convolution_mean() -> None:
    picture = pictures(1, 1, 11, 12)
    found = Transform(CONFIG)(picture)[0]
    expected = by_definition(picture[0, 0].double().numpy(), CONFIG)
    assert found.shape == (CONFIG.maps, 2, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scattering__treats_channels_alike_and_apart() -> None:
    colour = pictures(2, 3, 12, 12)
    whole = Transform(CONFIG)(colour)
    apart = [Transform(CONFIG)(colour[:, i : i + 1]) for i in range(3)]
    assert torch.allclose(whole, torch.cat(apart, dim=1), atol=1e-6)


def test_scattering__of_an_even_picture_is_its_brightness() -> None:
    """Wavelets do not see it; the low pass, which sums to one, keeps it."""
    found = Transform(CONFIG)(torch.full((1, 1, 16, 16), 0.7))[0]
    assert torch.allclose(found[0], torch.full((4, 4), 0.7), atol=2e-3)
    assert found[1:].abs().max() < 1e-5


def test_scattering__hardly_changes_when_the_picture_moves_a_little() -> None:
    field = pictures(1, 1, 40, 40)
    smooth = torch.nn.functional.avg_pool2d(field, 5, 1)
    here, there = smooth[..., 2:34, 2:34], smooth[..., 2:34, 3:35]
    transform = Transform(Scattering(scales=3, angles=4, groups=1))
    moved = (transform(here) - transform(there)).norm() / transform(here).norm()
    assert moved < 0.25 * (here - there).norm() / (here - here.mean()).norm()


@pytest.mark.parametrize("mode", ["full", "head"])
def test_scattering__sends_its_head_alone_and_keeps_the_rest(mode: str) -> None:
    task = ClassificationTask(
        input=ImageInput(channels=1, height=28, width=28), classes=tuple("abcdefghij")
    )
    config = Scattering(scales=2, angles=8, groups=27)
    finetune = Finetune(mode="head" if mode == "head" else "full")
    learner = models.build(config, task, Streams(0), finetune)
    assert [name for name, _ in layout_of(learner.model).entries] == ["head.weight", "head.bias"]
    assert layout_of(learner.model).size == 10 * (81 * 7 * 7 + 1)
    assert learner.frozen is not None
    features = learner.frozen(pictures(2, 1, 28, 28)).reshape(2, 27, -1)
    assert torch.allclose(features.mean(2), torch.zeros(2, 27), atol=1e-5)
    assert (features.std(2, correction=0) <= 1 + 1e-5).all()


def test_scattering__says_what_does_not_fit() -> None:
    small = ClassificationTask(input=ImageInput(channels=1, height=9, width=30), classes=("a", "b"))
    found = models.problems(Scattering(scales=2, angles=8, groups=5), small)
    assert [problem.split(":")[0] for problem in found] == ["model.groups=5", "model.scales=2"]
    assert "at least 10 x 10" in found[1]
    least = ClassificationTask(
        input=ImageInput(channels=1, height=10, width=10), classes=("a", "b")
    )
    fits = Scattering(scales=2, angles=8, groups=27)
    assert models.problems(fits, least) == []
    assert models.build(fits, least, Streams(0)).whole()(pictures(1, 1, 10, 10)).shape == (1, 2)
