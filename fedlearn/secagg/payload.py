"""What one client contributes to a sum: weighted values, its weight, and exact counters.

One ring vector carries all of it, under one mask and in one packing:

    [ lanes of weight * q(values)  |  weight  |  counters ]

Values of `bits` bits are narrower than a machine word, and a mask costs by the
word. So a ring element carries several values side by side: with 20 bits, three
in a ring of 60 (`fedlearn.secagg.packing`). The range check keeps every lane's sum
within its bits.

The weight and every counter (sample counts, a loss in fixed point, a confusion
matrix, integer model arrays) is a 64-bit integer. A ring of few bits cannot
hold a sum of them, so it is cut into digits of `ring.bits - ceil(log2(max_clients))` bits, low
digit first: a digit's sum over all clients still fits the ring, and the digits'
sums add up to the integers' sum modulo 2^64. Nothing is lost and nothing is
sent in clear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError
from fedlearn.core.ring import FixedPoint, RandomWords, Ring, RingVector, check_range
from fedlearn.crypto.codec import Writer
from fedlearn.secagg.packing import Packing
from fedlearn.secagg.settings import SecAggSum, bits_of, fixed_point_of, packing_of, ring_of
from fedlearn.stages import Total, Update


@dataclass(frozen=True, kw_only=True)
class Payload:
    """The agreed form of a contribution; made by `Payload.plan`, which checks the range."""

    ring: Ring
    packing: int
    fixed_point: FixedPoint
    max_weight: int
    max_clients: int
    num_values: int
    num_counters: int

    @classmethod
    def plan(
        cls,
        settings: SecAggSum,
        *,
        num_clients: int,
        num_values: int,
        num_counters: int = 0,
        bounded: bool = False,
    ) -> Payload:
        """The form for `num_clients` clients at most.

        Guarantees: the sum of at most num_clients contributions decodes exactly. With `bounded`
        whoever has set the bits knows of a smaller sum, and vouches for it.

        Raises:
            ConfigError: the ring is too small for the values or for a digit of one bit.
        """
        ring, fixed_point = ring_of(settings), fixed_point_of(settings)
        if not bounded:
            check_range(
                bits=bits_of(settings),
                num_clients=num_clients,
                max_weight=settings.max_weight,
                max_integer=fixed_point.max_integer,
            )
        payload = cls(
            ring=ring,
            packing=packing_of(settings),
            fixed_point=fixed_point,
            max_weight=settings.max_weight,
            max_clients=num_clients,
            num_values=num_values,
            num_counters=num_counters,
        )
        if payload.digit_bits < 1:
            raise ConfigError([f"secagg.bits={ring.bits}: too few for {num_clients} clients"])
        return payload

    @property
    def clip(self) -> float:
        """What a value is cut to."""
        return self.fixed_point.clip

    @property
    def digit_bits(self) -> int:
        """Bits of a 64-bit integer that one ring element carries."""
        return min(64, self.ring.bits - (self.max_clients - 1).bit_length())

    @property
    def digits(self) -> int:
        """Ring elements per 64-bit integer."""
        return -(-64 // self.digit_bits)

    @property
    def length(self) -> int:
        """Ring elements of a contribution."""
        return self.lane_length + self.digits * (1 + self.num_counters)

    @property
    def lane_length(self) -> int:
        """Ring elements that carry the values: ceil(num_values / lanes)."""
        return -(-self.num_values // self.packing)

    @property
    def lane_bits(self) -> int:
        """Bits of one value."""
        return self.ring.bits // self.packing

    @property
    def _packing(self) -> Packing:
        return Packing(bits=self.lane_bits, count=self.packing)

    def hash(self) -> bytes:
        """SHA-256 of every field; part of what clients agree on before they mask."""
        real = f"{self.fixed_point.clip!r},{self.fixed_point.resolution!r}"
        writer = Writer().blob(b"fedlearn/secagg/v1/payload").blob(real.encode())
        writer.blob(self.fixed_point.rounding.encode())
        for value in (
            self.ring.bits,
            self.packing,
            self.max_weight,
            self.max_clients,
            self.num_values,
            self.num_counters,
        ):
            writer.uint(value, 8)
        return hashlib.sha256(writer.done()).digest()

    counts_sites = False
    """Whether the weight of a sum is the number of its contributions."""

    def contribution(self, update: Update, words: RandomWords) -> RingVector:
        """`encode` of a site's update."""
        return self.encode(update.values, int(update.weight), update.counters, words)

    def encode(
        self,
        values: NDArray[np.float32],
        weight: int,
        counters: Sequence[int] | NDArray[np.int64],
        words: RandomWords,
    ) -> RingVector:
        """A contribution: `float32[num_values]`, weight, `int64[num_counters]` to `word[length]`.

        A weight above `max_weight` counts as `max_weight`.

        Raises:
            ValueError: a length is wrong, a value is not finite, a weight is negative.
            OverflowError: a counter does not fit 64 bits.
        """
        integers = np.asarray(counters, np.int64).reshape(-1)
        if values.shape != (self.num_values,) or integers.size != self.num_counters:
            raise ValueError(
                f"{values.shape} values and {integers.size} counters; the payload has "
                f"{self.num_values} and {self.num_counters}"
            )
        capped = min(weight, self.max_weight)
        vector = self.ring.zeros(self.length)
        for lane in range(self.packing):
            part = values[lane * self.lane_length : (lane + 1) * self.lane_length]
            shift = lane * self.lane_bits
            self.fixed_point.add_to(vector[: part.size], part, capped << shift, words)
        tail = np.concatenate([np.array([capped], np.int64), integers])
        vector[self.lane_length :] = self._to_digits(tail)
        return self.ring.reduce(vector)

    def decode(self, total: RingVector) -> Total:
        """The sum of contributions: `word[length]` to values, weight and counters.

        Raises:
            ValueError: the length is wrong.
        """
        if total.shape != (self.length,):
            raise ValueError(f"sum of shape {total.shape}; the payload has {self.length} elements")
        integers = self._from_digits(total[self.lane_length :])
        values = self._packing.split(total[: self.lane_length], self.num_values)
        return Total(
            values=self.fixed_point.decode(values),
            weight=int(integers[0]),
            counters=integers[1:],
        )

    def _shifts(self) -> NDArray[np.uint64]:
        return np.arange(self.digits, dtype=np.uint64) * np.uint64(self.digit_bits)

    def _to_digits(self, integers: NDArray[np.int64]) -> RingVector:
        mask = np.uint64((1 << self.digit_bits) - 1)
        digits = (integers.view(np.uint64)[:, None] >> self._shifts()) & mask
        return digits.reshape(-1).astype(self.ring.dtype)

    def _from_digits(self, sums: RingVector) -> NDArray[np.int64]:
        digits = sums.reshape(-1, self.digits).astype(np.uint64)
        sums_of_integers: NDArray[np.uint64] = (digits << self._shifts()).sum(axis=1)
        return sums_of_integers.view(np.int64)
