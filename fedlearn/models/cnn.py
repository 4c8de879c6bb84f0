"""A small convolutional network for images: blocks that halve the map, and a linear head.

Normalisation is by groups of channels within a record (Wu and He 2018), so no
record sees another and DP-SGD can clip each by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from fedlearn.core.settings import Count, Portion, config
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, input_as, undivided
from fedlearn.tasks import ImageInput, Task


@config
class Cnn(Model):
    """Blocks of convolution, group normalisation, ReLU and pooling."""

    kind: Literal["cnn"] = "cnn"
    input = (ImageInput,)
    width: Count
    """Channels of the first block; every further block has twice as many."""
    depth: Count
    """Number of blocks, each of which halves height and width."""
    groups: Count
    """Groups of channels that are normalised together; `width` is a multiple of it."""
    dropout: Portion

    def problems(self, task: Task) -> Iterator[str]:
        """What of the settings does not fit itself or the size of an image."""
        image = input_as(ImageInput, task)
        yield from undivided("groups", self.groups, self.width)
        halvings = min(image.height, image.width).bit_length() - 1
        if self.depth > halvings:
            yield (
                f"model.depth={self.depth}: an image of {image.height} x {image.width} can be "
                f"halved {halvings} times; set model.depth to that or less"
            )

    def network(self, task: Task) -> nn.Sequential:
        """`float32[batch, channels, height, width]` -> logits."""
        image = input_as(ImageInput, task)
        widths = [image.channels, *(self.width * 2**i for i in range(self.depth))]
        blocks = {
            f"block{i}": _block(widths[i], widths[i + 1], self.groups) for i in range(self.depth)
        }
        size = widths[-1] * (image.height >> self.depth) * (image.width >> self.depth)
        rest = {"dropout": nn.Dropout(self.dropout)} if self.dropout else {}
        head = nn.Linear(size, task.num_outputs)
        return stages(centre=Centre(), **blocks, flat=nn.Flatten(), **rest, head=head)


def _block(channels: int, width: int, groups: int) -> nn.Sequential:
    # The norm's own shift does the work of a bias.
    convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(groups, width), nn.ReLU(), nn.MaxPool2d(2))


class Centre(nn.Module):
    """Pixels of [0, 1] mapped to [-1, 1]; reads no data and has no parameters."""

    def forward(self, images: Tensor) -> Tensor:
        """Any shape, kept."""
        return images * 2 - 1
