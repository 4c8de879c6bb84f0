"""What is particular to the networks for pictures; what all models share is in `test_models`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.models.cnn import Cnn
from fedlearn.models.resnet import Residual, ResNet, Stem, less_mean
from fedlearn.models.squeezenet import SqueezeNet
from fedlearn.models.vit import Patches, ViT
from fedlearn.tasks import ClassificationTask, ImageInput, Task
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import predict, train
from fedlearn.training.settings import Training

RESNET = ResNet(architecture="resnet18", width=6, groups=4, stem="small")
VIT = ViT(patch=5, width=10, depth=1, heads=4, dropout=0.0)
SQUEEZENET = SqueezeNet(pretrained=False, resolution=20, modules=9)


def task(channels: int, height: int, width: int, classes: int = 2) -> Task:
    names = tuple(f"class {i}" for i in range(classes))
    return ClassificationTask(
        input=ImageInput(channels=channels, height=height, width=width), classes=names
    )


def parameters(config: models.Model, what: Task) -> int:
    return sum(p.numel() for p in models.build(config, what, Streams(0)).whole().parameters())


def test_resnet__of_the_paper_has_its_layers_and_their_size() -> None:
    config = ResNet(architecture="resnet18", width=64, groups=32, stem="large")
    what = task(3, 224, 224, classes=1000)
    model = models.build(config, what, Streams(0)).model
    weights = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    beside = [name for name, _ in model.named_modules() if name.endswith("shortcut")]
    assert len(weights) - len(beside) == 18
    # torchvision's resnet18 has 11,689,512, of which 1,792 norm three shortcuts.
    assert parameters(config, what) == 11_689_512 - 1_792


def test_residual__passes_its_input_by_where_shapes_allow_it() -> None:
    block = Residual(4, 4, 1, groups=2)
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    maps = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)
    assert block.shortcut is None
    assert torch.equal(block(maps), maps.relu())
    assert Residual(4, 4, 2, groups=2)(maps).shape == (1, 4, 2, 2)


def test_residual__starts_by_passing_its_input_on() -> None:
    config = ResNet(architecture="resnet8", width=4, groups=2, stem="small")
    block = models.build(config, task(1, 8, 8), Streams(0)).model.get_submodule("block0_0")
    maps = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)
    assert torch.equal(block(maps), maps.relu())


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (7, 2)])
def test_less_mean__is_the_convolution_with_filters_less_their_means(
    size: int, stride: int
) -> None:
    coins = torch.Generator().manual_seed(0)
    convolution = torch.nn.Conv2d(3, 5, size, stride, bias=False).double()
    images = torch.randn(2, 3, 9, 12, generator=coins, dtype=torch.float64)
    weight = convolution.weight.detach()
    torch.nn.init.normal_(convolution.weight, 1.0, generator=coins)
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    expected = functional.conv2d(images, centred, None, stride, size // 2)
    assert torch.allclose(less_mean(convolution, images), expected, atol=1e-12)


def test_stem__cannot_learn_to_see_even_brightness() -> None:
    """Away from the edges, whatever its weights: so no step on a common background can wreck it."""
    convolution = torch.nn.Conv2d(3, 4, 3, bias=False)
    torch.nn.init.normal_(convolution.weight, 1.0, generator=torch.Generator().manual_seed(0))
    dark, bright = (torch.full((1, 3, 8, 8), level) for level in (-1.0, 0.8))
    inside = (..., slice(1, -1), slice(1, -1))
    seen = Stem(convolution)
    assert torch.allclose(seen(dark)[inside], seen(bright)[inside], atol=1e-5)
    assert not torch.allclose(seen(dark), seen(bright), atol=1e-1)


def spots(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright pictures: in six of eight nothing, in one a red spot and in one a larger blue one."""
    coins = np.random.default_rng(seed)
    labels = np.repeat([0, 0, 0, 0, 0, 0, 1, 2], n // 8)
    pictures = coins.normal(0.7, 0.03, (n, 3, 12, 12))
    for picture, label in zip(pictures, labels, strict=True):
        top, left = coins.integers(2, 7, 2)
        size, colour = ((3, 0), (4, 2))[label - 1]
        if label:
            picture[:, top : top + size, left : left + size] -= 0.25
            picture[colour, top : top + size, left : left + size] += 0.2
    return torch.from_numpy(pictures.astype(np.float32)), torch.from_numpy(labels)


CONVOLUTIONAL: list[models.Model] = [
    Cnn(width=8, depth=2, groups=4, dropout=0.0),
    ResNet(architecture="resnet8", width=8, groups=4, stem="small"),
]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONVOLUTIONAL, ids=lambda config: config.kind)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_convolutional_model__finds_the_rare_classes_soon(
    config: models.Model, optimizer: str
) -> None:
    """Not "the commonest class" of everything, which three in four of these pictures are."""
    training = Training(
        optimizer=optimizer, learning_rate={"sgd": 0.02, "adam": 0.003}[optimizer], momentum=0.9,
        weight_decay=0.0, local_steps=40, sample_rate=0.25, nominal_records=1, dp_engine="fast",
        max_batch=1024,
    )  # fmt: skip
    model = models.build(config, task(3, 12, 12, classes=3), Streams(0)).model
    train(model, *spots(320, 0), training, loss=cross_entropy, rng=np.random.default_rng(0))
    seen, meant = spots(160, 1)
    found = predict(model, task(3, 12, 12, classes=3), seen, 256).argmax(1)
    recalls = [(found[meant.numpy() == label] == label).mean() for label in range(3)]
    assert min(recalls) > 0.8


def test_patches__are_the_pixels_of_their_place() -> None:
    """Turning one patch white changes its own token and no other."""
    config = ViT(patch=4, width=6, depth=1, heads=2, dropout=0.0)
    patches = Patches(config, ImageInput(channels=1, height=8, width=12))
    dark, spot = torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 8, 12)
    spot[..., 4:, 8:] = 1
    changed = (patches(dark) != patches(spot)).any(2)[0]
    assert changed.tolist() == [False] * 6 + [True]


def test_vit__drops_out_in_training_only() -> None:
    config = ViT(patch=4, width=8, depth=1, heads=2, dropout=0.5)
    model = models.build(config, task(1, 8, 8), Streams(0)).model
    torch.nn.init.ones_(model.get_submodule("head").weight)
    torch.nn.init.normal_(
        model.get_submodule("norm").weight, generator=torch.Generator().manual_seed(0)
    )
    x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    assert not torch.equal(model.train()(x), model.train()(x))
    assert torch.equal(model.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("config", "what", "names", "hint"),
    [
        (RESNET, task(1, 7, 9), ["model.groups=4", "model.architecture=resnet18"], "takes 8 x 8"),
        (VIT, task(1, 10, 12), ["model.heads=4", "model.patch=5"], "10 x 12"),
        (
            SQUEEZENET,
            task(4, 28, 28),
            ["model.modules=9", "model.resolution=20", "model.kind=squeezenet"],
            "1 or 3 channels",
        ),
    ],
)
def test_problems__name_what_does_not_fit_a_picture(
    config: models.Model, what: Task, names: list[str], hint: str
) -> None:
    found = models.problems(config, what)
    assert [problem.split(":")[0] for problem in found] == names
    assert hint in found[-1]


SMALLEST: list[tuple[Callable[[], models.Model], Task]] = [
    (lambda: ResNet(architecture="resnet18", width=4, groups=2, stem="small"), task(1, 8, 8)),
    (lambda: ResNet(architecture="resnet8", width=4, groups=2, stem="large"), task(1, 16, 16)),
    (lambda: SqueezeNet(pretrained=False, resolution=29, modules=8), task(1, 3, 3)),
]


@pytest.mark.parametrize(("config", "what"), SMALLEST)
def test_problems__let_the_smallest_picture_pass(
    config: Callable[[], models.Model], what: Task
) -> None:
    assert models.problems(config(), what) == []
    assert isinstance(what.input, ImageInput)
    model = models.build(config(), what, Streams(0)).model
    assert model(torch.zeros(1, 1, what.input.height, what.input.width)).shape == (1, 2)
