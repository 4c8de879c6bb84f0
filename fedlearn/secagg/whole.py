"""What one client contributes to a sum of whole numbers that carry their own noise.

    [ lanes of integers  |  one ]

Distributed privacy rounds and adds noise before the ring (`fedlearn.mechanisms.encoding`),
so nothing here rounds, clips or weighs: the integers enter as they are, and the
sum is a function of their sum alone, as the accounting wants it. The last
element counts the contributions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.ring import RandomWords, Ring, RingVector
from fedlearn.crypto.codec import Writer
from fedlearn.secagg.packing import Packing
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.proven_payload import ProvenPayload
from fedlearn.stages import Total, Update


@dataclass(frozen=True, kw_only=True)
class WholePayload:
    """The agreed form of a contribution: `num_values` integers of `bits` bits in the sum."""

    bits: int
    max_clients: int
    num_values: int

    @property
    def packing(self) -> Packing:
        """As many lanes as 64 bits hold."""
        return Packing(bits=self.bits, count=64 // self.bits)

    @property
    def lane_bits(self) -> int:
        """Bits of one value."""
        return self.bits

    @property
    def ring(self) -> Ring:
        """The ring that the sum runs in."""
        return self.packing.ring

    @property
    def length(self) -> int:
        """Ring elements of a contribution."""
        return self.packing.length(self.num_values) + 1

    def hash(self) -> bytes:
        """SHA-256 of every field; part of what clients agree on before they mask."""
        writer = Writer().blob(b"fedlearn/secagg/v1/whole-payload")
        for value in (self.bits, self.max_clients, self.num_values):
            writer.uint(value, 8)
        return hashlib.sha256(writer.done()).digest()

    clip: ClassVar[float] = float("inf")
    """Nothing is cut."""
    counts_sites: ClassVar[bool] = True
    """The weight of a sum is the number of its contributions."""

    def contribution(self, update: Update, words: RandomWords) -> RingVector:
        """`encode` of a site's update; nothing is rounded, so `words` are not used."""
        return self.encode(update.values)

    def encode(self, integers: NDArray[np.int64]) -> RingVector:
        """A contribution: `int64[num_values]` to `word[length]`.

        Raises:
            ValueError: the length is wrong.
        """
        if integers.shape != (self.num_values,):
            raise ValueError(f"{integers.shape} integers; the payload has {self.num_values}")
        one = np.ones(1, self.ring.dtype)
        return np.concatenate([self.packing.join(integers), one])

    def decode(self, total: RingVector) -> Total:
        """The sum of contributions: whole numbers as `float64`, and their count as the weight.

        Raises:
            ValueError: the length is wrong.
        """
        if total.shape != (self.length,):
            raise ValueError(f"sum of shape {total.shape}; the payload has {self.length} elements")
        return Total(
            values=self.packing.split(total[:-1], self.num_values).astype(np.float64),
            weight=int(total[-1]),
            counters=np.zeros(0, np.int64),
        )


AnyPayload = Payload | WholePayload | ProvenPayload
"""What may be agreed on as the form of a contribution."""
