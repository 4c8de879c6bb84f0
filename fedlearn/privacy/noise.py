"""Secret randomness of the mechanisms: Gaussian noise and the choice of records.

A sample must be as secret as the noise: amplification by sampling holds only
against those who cannot tell which records took part, so Poisson sampling draws
from here too.

`normal` makes normals by Box and Muller (1958) in float64 from an AES-256-CTR
keystream and rounds them to float32. Noise on a floating-point grid leaks through
the grid's gaps (Mironov 2012, "On significance of the least significant bits"),
and its accounting is that of the ideal Gaussian: what leaves a site has noise on
whole numbers instead (`rounded`, `discrete`).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

WORDS: Final = 1 << 15
"""Most words of a keystream drawn at a time: 256 KiB, so that a block stays in the cache."""

_ZEROS: Final = bytes(8 * WORDS)
_BLOCK: Final = 16
_LARGEST_STDDEV: Final = 1e37  # ten standard deviations still fit into float32


class NoiseSource(Protocol):
    """Where a mechanism takes its randomness from.

    `is_private` says whether an epsilon may be claimed for what is drawn here.
    """

    @property
    def name(self) -> str:
        """What reports call this source."""
        ...

    @property
    def is_private(self) -> bool:
        """True only if nobody can predict or repeat the draws."""
        ...

    def normal(self, size: int, stddev: float) -> Float32Array:
        """`size` independent draws of N(0, stddev^2) as `float32[size]`."""
        ...

    def bernoulli(self, size: int, probability: float) -> BoolArray:
        """`size` independent coins as `bool[size]`, each true with `probability`."""
        ...

    def stream(self) -> Keystream:
        """A fresh keystream, for the samplers on integers."""
        ...


class SystemNoise:
    """Draws that nobody can predict or repeat: the only source for which privacy is claimed.

    Guarantees: every call takes a fresh 256-bit key from the operating system
    and keeps nothing, so threads, forked workers and restored snapshots of a
    process never repeat a stream, and a key stolen later tells nothing of
    earlier draws.
    """

    name: Final = "aes-256-ctr, fresh system key per draw"
    is_private: Final = True

    def normal(self, size: int, stddev: float) -> Float32Array:
        """`float32[size]` from N(0, stddev^2); tails reach 9.4 standard deviations.

        Raises ValueError for a negative size, or a stddev outside [0, 1e37].
        """
        return _normal(os.urandom(32), size, stddev)

    def bernoulli(self, size: int, probability: float) -> BoolArray:
        """`bool[size]`; the chance of true is `probability` rounded down to a multiple of 2^-64.

        Raises ValueError for a negative size or a probability outside [0, 1].
        """
        return _bernoulli(os.urandom(32), size, probability)

    def stream(self) -> Keystream:
        """A keystream under a fresh key from the operating system."""
        return Keystream(os.urandom(32))


class SeededNoise:
    """The same algorithms from a given seed, for tests and repeatable studies: never private.

    Draw number i is keyed with SHA-256 of the seed and i: equal seeds and equal
    sequences of calls give equal bits on every machine with the same numpy build.
    """

    name: Final = "seeded (not private)"
    is_private: Final = False

    def __init__(self, seed: bytes) -> None:
        self._seed = hashlib.sha256(b"fedlearn/noise/v1" + seed).digest()
        self._draws = 0

    def normal(self, size: int, stddev: float) -> Float32Array:
        """`float32[size]` from N(0, stddev^2), as `SystemNoise.normal`."""
        return _normal(self._next_key(), size, stddev)

    def bernoulli(self, size: int, probability: float) -> BoolArray:
        """`bool[size]`, as `SystemNoise.bernoulli`."""
        return _bernoulli(self._next_key(), size, probability)

    def stream(self) -> Keystream:
        """A keystream under the next key of the seed."""
        return Keystream(self._next_key())

    def _next_key(self) -> bytes:
        key = hashlib.sha256(self._seed + self._draws.to_bytes(8, "big")).digest()
        self._draws += 1
        return key


TEST_NOISE: Final = "FEDLEARN_TEST_NOISE"
"""A test may set this to a seed to make private runs repeat; the run then claims no privacy."""


def noise_of(environment: Mapping[str, str], *name: str | int) -> NoiseSource:
    """The source called `name`: the system's, unless a test asks for a repeatable one."""
    seed = environment.get(TEST_NOISE)
    if seed is None:
        return SystemNoise()
    return SeededNoise("/".join([seed, *map(str, name)]).encode())


class Keystream:
    """The AES-256-CTR keystream of one key from counter zero, read as little-endian words.

    As secret as its key: samplers that are handed a stream draw all their
    randomness from it, one after the other. Not to be used by two threads.
    """

    def __init__(self, key: bytes) -> None:
        # The key is used once, so a constant counter start never repeats a block.
        self._key = key
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()
        self._buffer = bytearray(len(_ZEROS) + _BLOCK)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`uint64[count]`, `count` at most `WORDS`; valid until the next call."""
        self._encryptor.update_into(memoryview(_ZEROS)[: 8 * count], self._buffer)
        return np.frombuffer(self._buffer, dtype="<u8", count=count)

    def further(self, word: int, bits: int) -> int:
        """The `bits` binary digits (whole bytes) that follow those of word number `word`.

        From a far part of the keystream, which no word and no other word's digits are from.
        """
        counter = (1 << 127) | (word << 32)
        encryptor = Cipher(
            algorithms.AES(self._key), modes.CTR(counter.to_bytes(_BLOCK, "big"))
        ).encryptor()
        return int.from_bytes(encryptor.update(bytes(bits // 8)), "big")


def _normal(key: bytes, size: int, stddev: float) -> Float32Array:
    check_size(size)
    _check_stddev(stddev)
    stream = Keystream(key)
    out = np.empty(size + size % 2, dtype=np.float32)
    for start in range(0, size, WORDS):
        block = out[start : start + WORDS]
        box_muller(stream.words(len(block)), stddev, block)
    return out[:size]


def box_muller(words: npt.NDArray[np.uint64], stddev: float, out: npt.NDArray[np.floating]) -> None:
    """Fill `out` with as many normals as there are words (an even number).

    The first half of the words makes radii, the second angles: a pair lies half of `out` apart.
    """
    half = len(words) // 2
    # All 64 bits, with the relative precision of float64 near zero: this is the tail.
    radius = words[:half].astype(np.float64)
    radius += 0.5
    radius *= 2.0**-64
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    radius *= stddev
    angle = (words[half:] >> np.uint64(11)).astype(np.float64)
    angle *= 2.0**-53 * 2.0 * math.pi
    # torch's vectorised sine is eight times faster than numpy's.
    turns = torch.from_numpy(angle)
    np.multiply(radius, turns.cos().numpy(), out=out[:half], casting="same_kind")
    np.multiply(radius, turns.sin().numpy(), out=out[half:], casting="same_kind")


def _bernoulli(key: bytes, size: int, probability: float) -> BoolArray:
    check_size(size)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability}: must be in [0, 1]")
    if probability == 1:
        return np.ones(size, dtype=np.bool_)
    # Exact: a float is a dyadic fraction. Rounded down, so never more records than accounted.
    threshold = np.uint64(math.floor(math.ldexp(probability, 64)))
    stream = Keystream(key)
    out = np.empty(size, dtype=np.bool_)
    for start in range(0, size, WORDS):
        block = out[start : start + WORDS]
        np.less(stream.words(len(block)), threshold, out=block)
    return out


def check_size(size: int) -> None:
    """Raises ValueError where `size` is not a number of draws."""
    if size < 0:
        raise ValueError(f"size={size}: must be >= 0")


def _check_stddev(stddev: float) -> None:
    """Raises ValueError where `stddev` is not one that float32 holds the draws of."""
    if not 0 <= stddev <= _LARGEST_STDDEV:
        raise ValueError(f"stddev={stddev}: must be in [0, {_LARGEST_STDDEV}]")
