"""The file of weights that a run writes, as the vector that it trained."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load

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
