"""Several narrow integers side by side in one ring element: a mask costs by the machine word.

Of `d` values, lane `j` holds those from `j * ceil(d / count)` on, times
2^(bits * j), added as integers. While the sum of every lane stays within
`bits` bits, a negative lane borrows from the next one and `split` pays it back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.ring import Ring, RingVector


@dataclass(frozen=True, kw_only=True)
class Packing:
    """`count` lanes of `bits` bits in a ring of `count * bits` bits, at most 64."""

    bits: int
    count: int

    @property
    def ring(self) -> Ring:
        """The ring whose elements hold all lanes."""
        return Ring(bits=self.bits * self.count)

    def length(self, size: int) -> int:
        """Ring elements for `size` values."""
        return -(-size // self.count)

    def join(self, values: NDArray[np.int64]) -> RingVector:
        """`int64[size]` of any magnitude to `word[length(size)]`.

        Guarantees: a homomorphism, so a sum of results depends on the sums of
        the values alone, also where those wrap around.
        """
        length = self.length(values.size)
        words = np.zeros(length, np.uint64)
        for lane in range(self.count):
            part = values[lane * length : (lane + 1) * length]
            words[: part.size] += part.view(np.uint64) << np.uint64(lane * self.bits)
        return self.ring.reduce(words.astype(self.ring.dtype))

    def split(self, sums: RingVector, size: int) -> NDArray[np.int64]:
        """The inverse for sums that fit their lanes: `word[length(size)]` to `int64[size]`."""
        rest, spare = self.ring.centred(sums), np.int64(64 - self.bits)
        packing = np.empty((self.count, sums.size), np.int64)
        for lane in packing:
            np.left_shift(rest, spare, out=lane)
            lane >>= spare  # the low bits with their sign
            rest -= lane  # pays back what a negative lane had borrowed
            rest >>= np.int64(min(self.bits, 63))
        return packing.reshape(-1)[:size]
