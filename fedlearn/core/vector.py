"""A model as one flat vector: what travels, is clipped, masked and averaged.

The vector holds the trainable parameters, then the floating-point buffers
(running statistics), each in the order of `named_parameters` and
`named_buffers`. Integer buffers stay where they are: their average means nothing.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the tensors inside a vector, in order."""

    entries: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for _, shape in self.entries)

    def digest(self) -> str:
        """SHA-256 (hex) of the names and shapes: equal digests mean interchangeable vectors."""
        text = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in self.entries)
        return hashlib.sha256(f"fedlearn/layout/v1;{text}".encode()).hexdigest()

    def split(self, vector: Vector) -> dict[str, Vector]:
        """Named views into `vector`, in their shapes."""
        parts, start = {}, 0
        for name, shape in self.entries:
            stop = start + math.prod(shape)
            parts[name] = vector[start:stop].reshape(shape)
            start = stop
        return parts


def shared_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of `model` that are shared in a federation, by name, in order."""
    tensors = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b for name, b in model.named_buffers() if b.dtype.is_floating_point}
    return tensors | buffers


def layout_of(model: nn.Module) -> Layout:
    """The layout of the vector of `model`."""
    return Layout(tuple((name, tuple(t.shape)) for name, t in shared_tensors(model).items()))


def to_vector(model: nn.Module) -> Vector:
    """A copy of the shared tensors of `model` as `float32[d]`."""
    parts = [t.detach().reshape(-1).to(torch.float32) for t in shared_tensors(model).values()]
    return torch.cat(parts).cpu().numpy()  # one copy from the device that the model is on


@torch.no_grad()
def load_vector(model: nn.Module, vector: Vector) -> None:
    """Write `vector` into the shared tensors of `model`, in place.

    Raises:
        ValueError: the length is not the length of this model's vector.
    """
    tensors = shared_tensors(model)
    sizes = [t.numel() for t in tensors.values()]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"vector of {vector.shape} for a model of {sum(sizes)} values")
    # A copy: torch takes no memory that it may not write to, such as a received array's.
    whole = torch.from_numpy(np.array(vector, np.float32))
    if tensors:
        whole = whole.to(next(iter(tensors.values())).device)
    for tensor, piece in zip(tensors.values(), torch.split(whole, sizes), strict=True):
        tensor.copy_(piece.view_as(tensor))


def vector_digest(vector: Vector) -> str:
    """SHA-256 (hex) of the little-endian float32 bytes of `vector`."""
    return hashlib.sha256(np.ascontiguousarray(vector, "<f4").tobytes()).hexdigest()


def short_floats(values: NDArray[np.float32]) -> list[float]:
    """Numbers for JSON in as many digits as float32 holds."""
    return [float(f"{value:.9g}") for value in values]
