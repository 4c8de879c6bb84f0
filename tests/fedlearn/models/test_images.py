"""What is particular to the networks for pictures; what all models share is in `test_models`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedlearn import models
from fedlearn.models.resnet import Residual, ResNet
from fedlearn.models.squeezenet import SqueezeNet
from fedlearn.models.vit import Patches, ViT
from fedlearn.rng import Streams
from fedlearn.task import ImageInput, Task

RESNET = ResNet(architecture="resnet18", width=6, groups=4, stem="small")
VIT = ViT(patch=5, width=10, depth=1, heads=4, dropout=0.0)
SQUEEZENET = SqueezeNet(pretrained=False, resolution=20, modules=9)


def task(channels: int, height: int, width: int, classes: int = 2) -> Task:
    names = tuple(f"class {i}" for i in range(classes))
    return Task(input=ImageInput(channels=channels, height=height, width=width), classes=names)


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
