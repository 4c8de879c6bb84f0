"""Residual networks for pictures, normalised by groups (He et al. 2016; Wu and He 2018).

Two layouts: `resnet18`, the eighteen layers of the paper, and `resnet8`, one
block per width and three widths, which is what a few thousand pictures of
28 x 28 can feed. The first layer keeps the size of the picture, as is usual
for small ones; `stem=large` is that of the paper, for pictures of 128 and more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from fedlearn.models.cnn import Centre
from fedlearn.models.finetune import stages
from fedlearn.settings import Count
from fedlearn.task import ImageInput

_BLOCKS = {"resnet8": (1, 1, 1), "resnet18": (2, 2, 2, 2)}
"""Blocks of every width; each further width is twice as many channels on half the size."""


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """Blocks of two convolutions around which the picture passes as well."""

    kind: Literal["resnet"] = "resnet"
    architecture: Literal["resnet8", "resnet18"]
    width: Count
    """Channels of the first blocks: 64 in the paper."""
    groups: Count
    """Groups of channels that are normalised together; `width` is a multiple of it."""
    stem: Literal["small", "large"]


def build_resnet(config: ResNet, image: ImageInput, num_classes: int) -> nn.Sequential:
    """The model of `config`: `float32[batch, channels, height, width]` -> logits."""
    channels, blocks = config.width, {}
    for level, count in enumerate(_BLOCKS[config.architecture]):
        for i in range(count):
            wide, stride = config.width * 2**level, 2 if level and not i else 1
            blocks[f"block{level}_{i}"] = Residual(channels, wide, stride, config.groups)
            channels = wide
    return stages(
        centre=Centre(),
        stem=_stem(config, image.channels),
        **blocks,
        mean=Mean(),
        head=nn.Linear(channels, num_classes),
    )


def resnet_problems(config: ResNet, image: ImageInput) -> Iterator[str]:
    """What of `config` does not fit itself or the size of a picture."""
    if config.width % config.groups:
        yield (
            f"model.groups={config.groups}: must divide model.width={config.width}; "
            "set model.width to a multiple of it"
        )
    least = 2 ** (len(_BLOCKS[config.architecture]) - 1) * (4 if config.stem == "large" else 1)
    if min(image.height, image.width) < least:
        yield (
            f"model.architecture={config.architecture}: a picture of {image.height} x "
            f"{image.width} is too small; it takes {least} x {least} with model.stem={config.stem}"
        )


def _stem(config: ResNet, channels: int) -> nn.Sequential:
    size, stride, padding = (3, 1, 1) if config.stem == "small" else (7, 2, 3)
    convolution = nn.Conv2d(channels, config.width, size, stride, padding, bias=False)
    layers = [convolution, nn.GroupNorm(config.groups, config.width), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, 1)] if config.stem == "large" else []))


class Residual(nn.Module):
    """`relu(body(x) + shortcut(x))`; the shortcut is `x` itself where shapes allow that."""

    def __init__(self, channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
        )
        # Without a norm: its shift would be that of the body's last norm once more.
        changes = stride > 1 or channels != width
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, width, height / stride, ...]`."""
        beside: Tensor = maps if self.shortcut is None else self.shortcut(maps)
        return functional.relu(self.body(maps) + beside)


class Mean(nn.Module):
    """The mean over all places of a map: `[batch, channels, ...]` -> `[batch, channels]`."""

    def forward(self, maps: Tensor) -> Tensor:
        """One number per channel."""
        return maps.flatten(2).mean(2)
