"""A small convolutional network for pictures: blocks that halve the map, and a linear head.

Normalisation is by groups of channels within a record (Wu and He 2018), so no
record sees another and DP-SGD can clip each by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from fedlearn.core.settings import Count, Portion, config
from fedlearn.models.finetune import stages
from fedlearn.tasks import ImageInput


@config
class Cnn:
    """Blocks of convolution, group normalisation, ReLU and pooling."""

    kind: Literal["cnn"] = "cnn"
    width: Count
    """Channels of the first block; every further block has twice as many."""
    depth: Count
    """Number of blocks, each of which halves height and width."""
    groups: Count
    """Groups of channels that are normalised together; `width` is a multiple of it."""
    dropout: Portion


def build_cnn(config: Cnn, image: ImageInput, num_classes: int) -> nn.Sequential:
    """The model of `config`: `float32[batch, channels, height, width]` -> logits."""
    widths = [image.channels, *(config.width * 2**i for i in range(config.depth))]
    blocks = {
        f"block{i}": _block(widths[i], widths[i + 1], config.groups) for i in range(config.depth)
    }
    size = widths[-1] * (image.height >> config.depth) * (image.width >> config.depth)
    rest = {"dropout": nn.Dropout(config.dropout)} if config.dropout else {}
    return stages(
        centre=Centre(), **blocks, flat=nn.Flatten(), **rest, head=nn.Linear(size, num_classes)
    )


def cnn_problems(config: Cnn, image: ImageInput) -> Iterator[str]:
    """What of `config` does not fit itself or the size of a picture."""
    if config.width % config.groups:
        yield (
            f"model.groups={config.groups}: must divide model.width={config.width}; "
            "set model.width to a multiple of it"
        )
    halvings = min(image.height, image.width).bit_length() - 1
    if config.depth > halvings:
        yield (
            f"model.depth={config.depth}: a picture of {image.height} x {image.width} can be "
            f"halved {halvings} times; set model.depth to that or less"
        )


def _block(channels: int, width: int, groups: int) -> nn.Sequential:
    # The norm's own shift does the work of a bias.
    convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(groups, width), nn.ReLU(), nn.MaxPool2d(2))


class Centre(nn.Module):
    """Pixels of [0, 1] mapped to [-1, 1]; reads no data and has no parameters."""

    def forward(self, images: Tensor) -> Tensor:
        """Any shape, kept."""
        return images * 2 - 1
