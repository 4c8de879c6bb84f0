"""Residual networks for images, normalised by groups (He et al. 2016; Wu and He 2018).

Two layouts: `resnet18`, the eighteen layers of the paper, and `resnet8`, one
block per width and three widths, which is what a few thousand images of
28 x 28 can feed. The first layer keeps the size of the image, as is usual
for small ones; `stem=large` is that of the paper, for images of 128 and more.

No layer here may subtract what all images have in common, as a norm over the
batch does. Left as it is, that is a hundred times what tells their features
apart, and the largest step that does not blow up learns only which class is the
commonest. So the stem sees differences of brightness alone (weight
standardisation: Qiao et al. 2019, and De et al. 2022 under differential
privacy), filters start with a sum of zero (`fedlearn.models.initialise`), a
block as the identity (Goyal et al. 2017, section 5.1), and the features of a
record are normalised before the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.settings import Count, config
from fedlearn.models.cnn import Centre
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, input_as, undivided
from fedlearn.tasks import ImageInput, Task

_BLOCKS = {"resnet8": (1, 1, 1), "resnet18": (2, 2, 2, 2)}
"""Blocks of every width; each further width is twice as many channels on half the size."""


@config
class ResNet(Model):
    """Blocks of two convolutions around which the image passes as well."""

    kind: Literal["resnet"] = "resnet"
    input = (ImageInput,)
    architecture: Literal["resnet8", "resnet18"]
    width: Count
    """Channels of the first blocks: 64 in the paper."""
    groups: Count
    """Groups of channels that are normalised together; `width` is a multiple of it."""
    stem: Literal["small", "large"]

    def problems(self, task: Task) -> Iterator[str]:
        """What of the settings does not fit itself or the size of an image."""
        image = input_as(ImageInput, task)
        yield from undivided("groups", self.groups, self.width)
        least = 2 ** (len(_BLOCKS[self.architecture]) - 1) * (4 if self.stem == "large" else 1)
        if min(image.height, image.width) < least:
            yield (
                f"model.architecture={self.architecture}: an image of {image.height} x "
                f"{image.width} is too small; it takes {least} x {least} with "
                f"model.stem={self.stem}"
            )

    def network(self, task: Task) -> nn.Sequential:
        """`float32[batch, channels, height, width]` -> logits."""
        image = input_as(ImageInput, task)
        channels, blocks = self.width, {}
        for level, count in enumerate(_BLOCKS[self.architecture]):
            for i in range(count):
                wide, stride = self.width * 2**level, 2 if level and not i else 1
                blocks[f"block{level}_{i}"] = Residual(channels, wide, stride, self.groups)
                channels = wide
        return stages(
            centre=Centre(),
            stem=_stem(self, image.channels),
            **blocks,
            mean=ImageMean(),
            # Without a scale and a shift of its own: the head has them.
            norm=nn.LayerNorm(channels, elementwise_affine=False),
            head=nn.Linear(channels, task.num_outputs),
        )


def _stem(config: ResNet, channels: int) -> Stem:
    size, stride = (3, 1) if config.stem == "small" else (7, 2)
    convolution = nn.Conv2d(channels, config.width, size, stride, bias=False)
    layers = [convolution, nn.GroupNorm(config.groups, config.width), nn.ReLU()]
    return Stem(*layers, *([nn.MaxPool2d(3, 2, 1)] if config.stem == "large" else []))


class Stem(nn.Sequential):
    """A convolution whose filters are used less their mean, and what follows it.

    Such a filter does not see even brightness. Were it so at the start only, a
    step would bring the mean back, and beside an image's brightness the norm
    that follows lets little of its contrasts through.
    """

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, width, ...]`."""
        convolution, *others = self
        maps = less_mean(cast(nn.Conv2d, convolution), images)
        for layer in others:
            maps = layer(maps)
        return maps


def less_mean(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """What `convolution`, a square one without bias or padding, makes with filters of mean zero.

    The edges are padded as for maps of the same size. What a filter's mean makes of
    a window is the mean of the window times the sum of the filter, and that is what
    the layer makes of ones. So its weights are reached through calls of a plain
    layer alone, which DP-SGD knows.
    """
    size, stride = convolution.kernel_size[0], convolution.stride[0]
    padded = functional.pad(images, [size // 2] * 4)
    windows = functional.avg_pool2d(padded.mean(1, keepdim=True), size, stride)
    # Ones for every record: the sum of a filter must have its share of each record's gradient.
    sums = convolution(images.new_ones(*images.shape[:2], size, size))
    maps: Tensor = convolution(padded) - windows * sums
    return maps


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

    def start(self) -> None:
        """Passes on what comes in, and adds nothing to it yet."""
        nn.init.zeros_(self.get_parameter("body.4.weight"))

    def forward(self, maps: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, width, height / stride, ...]`."""
        beside: Tensor = maps if self.shortcut is None else self.shortcut(maps)
        return functional.relu(self.body(maps) + beside)


class ImageMean(nn.Module):
    """The mean over all places of a map: `[batch, channels, ...]` -> `[batch, channels]`."""

    def forward(self, maps: Tensor) -> Tensor:
        """One number per channel."""
        return maps.flatten(2).mean(2)
