"""SqueezeNet 1.1 (Iandola et al. 2016), whose ImageNet weights are pinned and public.

It has no normalisation that looks across records, so it can be trained
privately as it is; more often it is kept as it is, and only a head on the mean
of its last maps is trained (`training.finetune=head`). ReLU and pooling in the
places and with the rounding of the original, or the weights would mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.settings import Count, config
from fedlearn.models.finetune import stages
from fedlearn.models.resnet import ImageMean
from fedlearn.tasks import ImageInput

_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Squeezed and expanded channels (of each size of filter) of the modules `fire2` to `fire9`."""
_POOL_BEFORE = {"fire4", "fire6"}
_CAFFE_MEANS = (123.68, 116.78, 103.94)
_LEAST = 29
"""Pixels; of fewer nothing is left before the last module."""


@config
class SqueezeNet:
    """Fire modules on a resized picture, the mean over its places, and a linear head."""

    kind: Literal["squeezenet"] = "squeezenet"
    pretrained: bool
    """Start from ImageNet weights (`fedlearn data fetch squeezenet`) instead of random ones."""
    resolution: Count
    """Side that pictures are resized to, bilinearly; trained on 227."""
    modules: Count
    """How many of the eight fire modules are used: early ones know textures, late ones objects."""


def build_squeezenet(config: SqueezeNet, image: ImageInput, num_classes: int) -> nn.Sequential:
    """The model of `config`: `float32[batch, channels, height, width]` -> logits."""
    channels, fires = 64, {}
    for number, (squeezed, expanded) in enumerate(_FIRES[: config.modules], start=2):
        name = f"fire{number}"
        fires[name] = Fire(channels, squeezed, expanded, pool=name in _POOL_BEFORE)
        channels = 2 * expanded
    stem = nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True))
    return stages(
        prepare=Prepare(config.resolution),
        stem=stem,
        **fires,
        mean=ImageMean(),
        # Without weights of its own: features of one length, whatever the picture.
        norm=nn.LayerNorm(channels, elementwise_affine=False),
        head=nn.Linear(channels, num_classes),
    )


def squeezenet_problems(config: SqueezeNet, image: ImageInput) -> Iterator[str]:
    """What of `config` does not fit itself or the records."""
    if config.modules > len(_FIRES):
        yield f"model.modules={config.modules}: there are {len(_FIRES)}"
    if config.resolution < _LEAST:
        yield f"model.resolution={config.resolution}: must be at least {_LEAST}"
    if image.channels not in (1, 3):
        yield f"model.kind=squeezenet: takes pictures of 1 or 3 channels, not {image.channels}"


class Prepare(nn.Module):
    """Pixels of [0, 1] as the network was trained on them; grey becomes colour."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, 1 or 3, height, width]` -> `[batch, 3, resolution, resolution]`."""
        sides = (self.resolution, self.resolution)
        resized = functional.interpolate(images, sides, mode="bilinear", align_corners=False)
        # Pinned, or a GPU would be waited for.
        means = torch.tensor(_CAFFE_MEANS, pin_memory=images.is_cuda)[:, None, None]
        return resized * 255 - means.to(images.device, non_blocking=True)


class Fire(nn.Module):
    """Few channels, then many: half of them see one pixel, half see nine."""

    def __init__(self, channels: int, squeezed: int, expanded: int, *, pool: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True) if pool else nn.Identity()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, 2 * expanded, height, width]`."""
        squeezed = functional.relu(self.squeeze(self.pool(maps)))
        return functional.relu(torch.cat([self.expand1(squeezed), self.expand3(squeezed)], 1))
