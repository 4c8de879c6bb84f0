"""AES-256-CTR as the generator of masks and of secure random words.

`add_masks` adds keystreams straight into a vector of ring words. It works in
blocks that stay in the second-level cache for all keys, so memory is read once,
not once per key. CTR is seekable and the cipher releases the interpreter lock:
ranges of the vector may run on several threads (`parts` and `run`).

A mask key is used for one vector only; a repeated key cancels the mask. Keys
come from `fedlearn.crypto.kdf` or `os.urandom`, never from a study's seed, save
for `SecureWords`, which a study may seed where nothing is secret.

Source: NIST SP 800-38A, CTR mode with a 128-bit big-endian block counter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fedlearn.core.ring import RingVector

BLOCK_BYTES = 256 * 1024
_AES_BLOCK = 16
_ZEROS = memoryview(bytes(BLOCK_BYTES))

RunRanges = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
"""What runs a function over range numbers: `map`, or the `map` of an executor."""


def _stream(key: bytes, first_block: int) -> CipherContext:
    counter = first_block.to_bytes(_AES_BLOCK, "big")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def _add_range(
    vector: RingVector, plus: Sequence[bytes], minus: Sequence[bytes], low: int, high: int
) -> None:
    """Adds the masks to `vector[low:high]`; `low` lies on a cache block."""
    width = vector.itemsize
    step = BLOCK_BYTES // width
    # The cipher wants room for one block more than it writes.
    scratch = memoryview(bytearray(BLOCK_BYTES + _AES_BLOCK))
    mask = np.frombuffer(scratch, vector.dtype, step)
    first = low * width // _AES_BLOCK
    work: list[tuple[CipherContext, np.ufunc]] = []
    work += [(_stream(key, first), np.add) for key in plus]
    work += [(_stream(key, first), np.subtract) for key in minus]
    for start in range(low, high, step):
        block = vector[start : min(start + step, high)]
        zeros, words = _ZEROS[: block.nbytes], mask[: block.size]
        for stream, combine in work:
            stream.update_into(zeros, scratch)
            combine(block, words, out=block)


def add_masks(
    vector: RingVector,
    plus: Sequence[bytes] = (),
    minus: Sequence[bytes] = (),
    *,
    parts: int = 1,
    run: RunRanges = map,
) -> None:
    """Adds the keystreams of `plus` to `vector` and takes those of `minus` away, in place.

    `vector: uint{16,32,64}[length]`, little-endian and contiguous; keys of 32
    bytes. Word `i` of a keystream is bytes `i*w .. (i+1)*w` of AES-256-CTR from
    counter zero, read as a little-endian word of `w` bytes; the sum wraps at the
    machine word, and a ring of fewer bits is reduced by its owner afterwards.

    Guarantees: the result does not depend on `parts` or `run`.

    Raises:
        ValueError: the vector is not a contiguous array of little-endian words.
    """
    if vector.dtype.str not in ("<u2", "<u4", "<u8") or not vector.flags.c_contiguous:
        raise ValueError(f"masks need contiguous little-endian words, not {vector.dtype.str}")
    step = BLOCK_BYTES // vector.itemsize
    share = max(1, -(-vector.size // (step * parts))) * step

    def add(part: int) -> None:
        _add_range(vector, plus, minus, part * share, min((part + 1) * share, vector.size))

    for _ in run(add, range(-(-vector.size // share))):
        pass


class SecureWords:
    """A stream of uniform random words from AES-256-CTR, keyed by the operating system by default.

    A key may be given to repeat a stream where the words need not be secret
    (the rounding of a study). `repr` shows nothing of the key.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._fill = _stream(os.urandom(32) if key is None else key, 0)

    def __repr__(self) -> str:
        return "SecureWords(key of 32 bytes)"

    def words(self, dtype: type[np.unsignedinteger[Any]], count: int) -> RingVector:
        """The next `count` words of `dtype`: uniform, independent."""
        width = np.dtype(dtype).itemsize
        data = np.empty(count * width + _AES_BLOCK, np.uint8)
        room = data.data
        for start in range(0, count * width, BLOCK_BYTES):
            end = min(start + BLOCK_BYTES, count * width)
            self._fill.update_into(_ZEROS[: end - start], room[start : end + _AES_BLOCK])
        return data[: count * width].view(np.dtype(dtype).newbyteorder("<"))
