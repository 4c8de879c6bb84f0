"""Vectors over Z_{2^b}: fixed-point encoding, range check, centred decoding and packing.

A ring element of `bits` bits lives in the smallest unsigned word of 16, 32 or
64 bits that holds it, little-endian. Sums may run over the machine word and are
reduced once at the end, because 2^b divides the word.

A real number becomes an integer `q = round(x / resolution)` with |x| clipped to
`clip`; an integer weight is multiplied *after* rounding, so that a site with a
small weight keeps all its precision. `check_range` proves before a run that no
sum can wrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError

RingVector = NDArray[np.unsignedinteger[Any]]
Rounding = Literal["stochastic", "nearest"]
_PACK_VALUES = 1 << 14
_ROUND_VALUES = 1 << 15
_FRACTION_BITS = 16


class RandomWords(Protocol):
    """Uniform random words; `fedlearn.crypto.keystream.SecureWords` is the one in use."""

    def words(self, dtype: type[np.unsignedinteger[Any]], count: int) -> RingVector:
        """The next `count` words of `dtype`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ring:
    """The integers modulo 2^bits, 8 <= bits <= 64."""

    bits: int

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 64:
            raise ValueError(f"bits={self.bits}: must be 8 to 64")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The machine word, little-endian."""
        return np.dtype("<u2" if self.bits <= 16 else "<u4" if self.bits <= 32 else "<u8")

    def zeros(self, length: int) -> RingVector:
        """The zero vector of `length` elements."""
        return np.zeros(length, self.dtype)

    def reduce(self, vector: RingVector) -> RingVector:
        """Reduces a vector of words modulo 2^bits, in place, and returns it."""
        if self.bits < 8 * vector.itemsize:
            np.bitwise_and(vector, vector.dtype.type((1 << self.bits) - 1), out=vector)
        return vector

    def centred(self, vector: RingVector) -> NDArray[np.int64]:
        """The representatives in [-2^(bits-1), 2^(bits-1)): `int64[length]`."""
        signed = vector.astype(np.uint64).view(np.int64)
        shift = np.int64(64 - self.bits)
        return (signed << shift) >> shift

    def packed_size(self, length: int) -> int:
        """Bytes of a packed vector of `length` elements."""
        return -(-length * self.bits // 8)


def check_range(*, bits: int, num_clients: int, max_weight: int, max_integer: int) -> None:
    """Refuses a ring in which the sum of all clients could wrap.

    Guarantees: for every num_clients integers of magnitude <= max_integer with
    weights <= max_weight, the centred sum is exact.

    Raises:
        ConfigError: num_clients * max_weight * max_integer >= 2^(bits-1); says how many are needed.
    """
    needed = (num_clients * max_weight * max_integer).bit_length() + 1
    if needed <= bits:
        return
    way_out = (
        f"set bits={needed}" if needed <= 64 else "no ring has that many (at most 64): shrink one"
    )
    raise ConfigError(
        f"secagg.bits={bits}: {num_clients} clients x weight {max_weight} x value "
        f"{max_integer} needs {needed} bits; {way_out}, or lower secagg.max_weight "
        "or secagg.clip, or raise secagg.resolution"
    )


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """How real numbers become integers: q = round(x / resolution), |x| clipped to `clip`."""

    clip: float
    resolution: float
    rounding: Rounding = "stochastic"

    def __post_init__(self) -> None:
        if not 0 < self.resolution <= self.clip < self.resolution * 2**40:
            raise ValueError(
                f"clip={self.clip}, resolution={self.resolution}: needed 0 < resolution <= clip, "
                "and at most 2^40 steps between them"
            )

    @property
    def max_integer(self) -> int:
        """The largest |q|: clip / resolution, rounded."""
        return max(1, round(self.clip / self.resolution))

    def encode(
        self, values: NDArray[np.float32], weight: int, ring: Ring, words: RandomWords
    ) -> RingVector:
        """`weight * round(clip(values) / resolution)` in the ring: `float32[d]` to `word[d]`.

        Raises:
            ValueError: as `add_to`.
        """
        result = ring.zeros(values.size)
        self.add_to(result, values, weight, words)
        return ring.reduce(result)

    def add_to(
        self, vector: RingVector, values: NDArray[np.float32], factor: int, words: RandomWords
    ) -> None:
        """Adds `factor * round(clip(values) / resolution)` to words, in place, not reduced.

        `vector: word[d]`, `values: float32[d]`. Values are taken to 16 fraction bits
        first. Stochastic rounding then adds 16 random bits and cuts: q is the floor
        or the ceiling, with the value for its mean. Nearest rounding adds one half
        and cuts; it draws nothing.

        Guarantees: equal inputs and an equal `words` stream give equal outputs on
        every machine. |q| <= max_integer.

        Raises:
            ValueError: a value is NaN or infinite, or the factor is negative.
        """
        if factor < 0:
            raise ValueError(f"weight={factor}: must be >= 0")
        signed = np.dtype(f"<i{vector.itemsize}")
        scale = vector.dtype.type(factor & (1 << 8 * signed.itemsize) - 1)
        # Blocks stay in the cache; one pass over memory instead of one per operation.
        for start in range(0, values.size, _ROUND_VALUES):
            block = values[start : start + _ROUND_VALUES]
            integers = self._round(block, words).astype(signed, copy=False).view(vector.dtype)
            target = vector[start : start + block.size]
            np.multiply(integers, scale, out=integers)
            np.add(target, integers, out=target)

    def _round(self, values: NDArray[np.float32], words: RandomWords) -> NDArray[Any]:
        """Signed integers, of 32 bits where they fit with their fraction: half the memory."""
        bound = self.max_integer << _FRACTION_BITS
        real, whole = (np.float32, np.int32) if bound < 2**30 else (np.float64, np.int64)
        scaled = values * real(2**_FRACTION_BITS / self.resolution)
        np.clip(scaled, -bound, bound, out=scaled)
        if not np.isfinite(values).all():
            raise ValueError("the update holds NaN or infinite values; it cannot be summed")
        fixed: NDArray[Any] = np.rint(scaled, out=scaled).astype(whole)
        if self.rounding == "nearest":
            fixed += whole(1 << _FRACTION_BITS - 1)
        else:
            fixed += words.words(np.uint16, values.size)
        fixed >>= whole(_FRACTION_BITS)
        return fixed

    def decode(self, sums: NDArray[np.int64]) -> NDArray[np.float64]:
        """The real numbers that centred sums stand for: `int64[d]` to `float64[d]`."""
        return sums * np.float64(self.resolution)


def _group(bits: int) -> tuple[int, int]:
    """How many values fill whole bytes, and how many bytes: the period of the packing."""
    values = next(count for count in (1, 2, 4, 8) if count * bits % 8 == 0)
    return values, values * bits // 8


def pack(vector: RingVector, ring: Ring) -> memoryview:
    """Exactly `bits` bits per element, little-endian bit order: `word[n]` to ceil(n*bits/8) bytes.

    Element `i` takes bits `i*bits .. (i+1)*bits` of the byte string read as one
    little-endian number; unused bits of the last byte are zero. A ring of a whole machine
    word gives a view of the vector itself.
    """
    if ring.bits == 8 * vector.itemsize:
        return vector.view(np.uint8).data  # no copy: the words are the bytes
    values, size = _group(ring.bits)
    groups = -(-vector.size // values)
    out = np.empty((groups, size), np.uint8)
    for start in range(0, groups, _PACK_VALUES):
        stop = min(start + _PACK_VALUES, groups)
        block = _padded(vector[start * values : stop * values], (stop - start) * values)
        out[start:stop] = _pack_groups(block.reshape(-1, values), ring.bits, size)
    return out.reshape(-1)[: ring.packed_size(vector.size)].data


def _padded(block: NDArray[Any], length: int) -> NDArray[Any]:
    if block.size == length:
        return block
    padded = np.zeros(length, block.dtype)
    padded[: block.size] = block
    return padded


def _pack_groups(block: NDArray[Any], bits: int, size: int) -> NDArray[np.uint8]:
    """Rows of values to rows of bytes, through as many 64-bit limbs as a row needs."""
    limbs = np.zeros((len(block), -(-size // 8)), "<u8")
    for column in range(block.shape[1]):
        limb, offset = divmod(column * bits, 64)
        value = block[:, column].astype(np.uint64)
        limbs[:, limb] |= value << np.uint64(offset)
        if offset + bits > 64:
            limbs[:, limb + 1] |= value >> np.uint64(64 - offset)
    return limbs.view(np.uint8)[:, :size]


def unpack(data: bytes | memoryview, length: int, ring: Ring) -> RingVector:
    """The inverse of `pack`: `length` elements in a fresh vector.

    Raises:
        ValueError: the byte length is not exactly that of `length` elements, or a
            padding bit of the last byte is set.
    """
    if len(data) != ring.packed_size(length):
        raise ValueError(
            f"packed vector has {len(data)} bytes; {length} elements of {ring.bits} bits "
            f"take {ring.packed_size(length)}"
        )
    raw = np.frombuffer(data, np.uint8)
    used = length * ring.bits % 8
    if used and raw[-1] >> used:
        raise ValueError("packed vector has padding bits set")
    if ring.bits == 8 * ring.dtype.itemsize:
        return raw.view(ring.dtype).copy()
    values, size = _group(ring.bits)
    groups = -(-length // values)
    out = np.empty((groups, values), ring.dtype)
    for start in range(0, groups, _PACK_VALUES):
        stop = min(start + _PACK_VALUES, groups)
        block = _padded(raw[start * size : stop * size], (stop - start) * size)
        _unpack_groups(block.reshape(-1, size), ring, out[start:stop])
    return out.reshape(-1)[:length]


def _unpack_groups(rows: NDArray[np.uint8], ring: Ring, out: NDArray[Any]) -> None:
    limbs = np.zeros((len(rows), -(-rows.shape[1] // 8)), "<u8")
    limbs.view(np.uint8)[:, : rows.shape[1]] = rows
    mask = np.uint64((1 << ring.bits) - 1)
    for column in range(out.shape[1]):
        limb, offset = divmod(column * ring.bits, 64)
        value = limbs[:, limb] >> np.uint64(offset)
        if offset + ring.bits > 64:
            value = value | limbs[:, limb + 1] << np.uint64(64 - offset)
        out[:, column] = value & mask
