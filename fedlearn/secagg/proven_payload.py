"""What one client contributes where the norm of it is proved: values one by one, and counters.

    [ values | counters ]        modulo 2^bits, a ring element each

Lanes are not packed: a part of a packed element is no part of its values. There is no weight
inside; the servers multiply by the one that the client has signed (`fedlearn.secagg.proven`).
Counters are 0 or 1. Whole numbers enter as they are, other values in steps of `resolution`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlearn.core.ring import FixedPoint, RandomWords, Ring, RingVector
from fedlearn.crypto.codec import Writer
from fedlearn.secagg.proofs.norm import NormBound
from fedlearn.stages import Total, Update


@dataclass(frozen=True, kw_only=True)
class ProvenPayload:
    """The agreed form of a contribution of a proved norm."""

    bound: NormBound
    fixed_point: FixedPoint | None
    max_weight: int
    max_clients: int

    counts_sites: ClassVar[bool] = False
    """The weight of a sum is what its sites have signed."""

    @property
    def ring(self) -> Ring:
        """The ring that the sum runs in."""
        return Ring(bits=self.bound.bits)

    @property
    def lane_bits(self) -> int:
        """Bits of one value."""
        return self.bound.bits

    @property
    def length(self) -> int:
        """Ring elements of a contribution."""
        return self.bound.values + self.bound.counters

    @property
    def clip(self) -> float:
        """What a value is cut to."""
        return self.fixed_point.clip if self.fixed_point else float("inf")

    def hash(self) -> bytes:
        """SHA-256 of every field; part of what clients agree on before they send."""
        writer = Writer().blob(b"fedlearn/secagg/v1/proven-payload")
        self.bound.write(writer)
        point = self.fixed_point
        real = f"{point.clip!r},{point.resolution!r},{point.rounding}" if point else ""
        writer.blob(real.encode()).uint(self.max_weight, 8).uint(self.max_clients, 8)
        return hashlib.sha256(writer.done()).digest()

    def weight(self, weight: float) -> int:
        """What a site signs: that of its update, up to the largest."""
        return min(int(weight), self.max_weight)

    def contribution(self, update: Update, words: RandomWords) -> RingVector:
        """A site's update for a weight of one: `word[length]`.

        Raises:
            ValueError: a length is wrong, or a value is not finite.
        """
        values, counters = update.values, np.asarray(update.counters, np.int64)
        if (values.size, counters.size) != (self.bound.values, self.bound.counters):
            raise ValueError(f"{values.size} values and {counters.size} counters")
        vector = self.ring.zeros(self.length)
        own = vector[: self.bound.values]
        if self.fixed_point:
            self.fixed_point.add_to(own, values, 1, words)
        else:
            own[:] = values.astype(np.int64).astype(vector.dtype)
        vector[self.bound.values :] = counters.astype(vector.dtype)
        return self.ring.reduce(vector)

    def decode(self, total: RingVector, weight: int = 0) -> Total:
        """The sum of contributions, times their weights, which add up to `weight`.

        Raises:
            ValueError: the length is wrong.
        """
        if total.shape != (self.length,):
            raise ValueError(f"sum of shape {total.shape}; the payload has {self.length} elements")
        whole = self.ring.centred(total)
        values, counters = whole[: self.bound.values], whole[self.bound.values :]
        real = self.fixed_point.decode(values) if self.fixed_point else values.astype(np.float64)
        return Total(values=real, weight=weight, counters=counters)
