"""The file of weights that a run writes, as the vector that it trained."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load, save

from fedlearn.core.vector import Vector


def values_of(content: bytes) -> Vector:
    """The values of a model file in the order in which they were trained: `float32[d]`.

    Raises:
        SafetensorError, ValueError, KeyError, TypeError: it is not one that a run wrote.
    """
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    order = json.loads(header["__metadata__"]["order"])
    if sorted(order) != sorted(tensors) or any(t.dtype != "<f4" for t in tensors.values()):
        raise ValueError("its tensors are not those that its header lists, or not float32")
    return np.concatenate([tensors[name].ravel() for name in order])


def with_values(content: bytes, vector: Vector) -> bytes:
    """A model file as `content`, with the values of `vector: float32[d]` in the place of its own.

    Raises:
        ValueError: it has other ones; besides as `values_of`.
    """
    if values_of(content).shape != vector.shape:
        raise ValueError(f"a vector of {vector.shape} for another model")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors, at = load(content), 0
    for name in json.loads(header["__metadata__"]["order"]):
        size = tensors[name].size
        tensors[name] = vector[at : at + size].reshape(tensors[name].shape)
        at += size
    return save(tensors, header["__metadata__"])
