"""A public random rotation that spreads an update evenly over its coordinates.

After it no coordinate of a sum is much larger than the others, so that all fit
into few bits. The rotation is: random signs, a random permutation, then a
Walsh-Hadamard transform of blocks of 4,096. It hides nothing: everybody can
undo it, and it must be the same for all parties of a round.

Blocks pad less than one block, where a transform of the whole vector pads to
the next power of two; the permutation puts neighbours into different blocks.

Source: Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian
Mechanism for Federated Learning with Secure Aggregation", section 4.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.privacy.noise import WORDS, Keystream

Float64Array = NDArray[np.float64]

LARGEST_BLOCK: Final = 4096


def block_of(dimension: int) -> int:
    """The block length for vectors of `dimension`: the power of two above it, at most 4,096."""
    if dimension < 1:
        raise ValueError(f"dimension={dimension}: must be >= 1")
    return min(LARGEST_BLOCK, 1 << (dimension - 1).bit_length())


def padded(dimension: int) -> int:
    """The length of a rotated vector: `dimension` rounded up to whole blocks."""
    block = block_of(dimension)
    return -(-dimension // block) * block


@dataclass(frozen=True, eq=False)
class Rotation:
    """One orthogonal map from R^dimension into R^padded(dimension); made by `rotation`."""

    dimension: int
    signs: NDArray[np.float64]
    order: NDArray[np.int64]

    def forward(self, vector: NDArray[np.floating]) -> Float64Array:
        """`float[dimension]` to `float64[padded]`.

        Guarantees: linear, and keeps distances up to float64 rounding; for every
        input, every coordinate of the output is sub-Gaussian over the choice of
        the rotation with variance at most |vector|^2 / block.

        Raises ValueError if the length is not `dimension`.
        """
        if vector.shape != (self.dimension,):
            raise ValueError(f"vector of shape {vector.shape} for dimension {self.dimension}")
        whole = np.zeros(len(self.signs))
        np.multiply(vector, self.signs[: self.dimension], out=whole[: self.dimension])
        return _hadamard(whole[self.order], block_of(self.dimension))

    def inverse(self, rotated: NDArray[np.floating]) -> Float64Array:
        """`float[padded]` to `float64[dimension]`; undoes `forward`.

        Raises ValueError if the length is not that of a rotated vector.
        """
        if rotated.shape != self.signs.shape:
            raise ValueError(f"vector of shape {rotated.shape}, expected {self.signs.shape}")
        whole = np.empty(len(self.signs))
        whole[self.order] = _hadamard(rotated.astype(np.float64), block_of(self.dimension))
        return np.asarray(whole[: self.dimension] * self.signs[: self.dimension])


def rotation(dimension: int, context: bytes) -> Rotation:
    """The rotation of a round; `context` is public and names the run and the round.

    Guarantees: equal contexts give equal rotations on every machine; different
    contexts give independent ones.
    """
    length = padded(dimension)
    stream = Keystream(hashlib.sha256(b"fedlearn/rotation/v1" + context).digest())
    words = np.empty(2 * length, np.uint64)
    for start in range(0, len(words), WORDS):
        block = words[start : start + WORDS]
        block[:] = stream.words(len(block))
    signs = np.where(words[:length] & np.uint64(1), -1.0, 1.0)
    return Rotation(dimension, signs, np.argsort(words[length:], kind="stable"))


def _hadamard(vector: Float64Array, block: int) -> Float64Array:
    """The orthonormal Walsh-Hadamard transform of each block; its own inverse."""
    rows = vector.reshape(-1, block).copy()
    width = 1
    while width < block:
        pairs = rows.reshape(len(rows), -1, 2, width)
        total = pairs[:, :, 0] + pairs[:, :, 1]
        np.subtract(pairs[:, :, 0], pairs[:, :, 1], out=pairs[:, :, 1])
        pairs[:, :, 0] = total
        width *= 2
    rows /= math.sqrt(block)
    return rows.reshape(-1)
