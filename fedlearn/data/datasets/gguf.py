"""Files of GGUF, version 3: a public form of weights, of which what our archives use is read.

A header with metadata and the names, shapes, kinds and places of tensors, then their numbers.
Numbers are floats, or blocks of 32 that share a scale: `Q8_0` has 8 bits for each, `Q4_1` four
and a smallest value. Little-endian throughout.

Source: the specification that ggml publishes (docs/gguf.md), and its ggml-quants.c.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError

Floats = NDArray[np.float32]

_MAGIC, _VERSION = b"GGUF", 3
_ALIGNMENT = 32
_SCALARS: Final = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_MOST = 1 << 20
"""Entries of a list, and bytes of a text, beyond which a file is damaged rather than large."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gguf:
    """What a file holds: `metadata` by key, and the tensors by name, as `float32`."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Floats]


def read_gguf(content: bytes, name: str) -> Gguf:
    """All of a file; `name` is what messages call it.

    Raises:
        DataError: it is damaged, or holds numbers of another kind.
    """
    try:
        return _parsed(content)
    except (struct.error, ValueError, TypeError, ArithmeticError) as error:
        raise DataError(f"{name}: is no GGUF file that can be read: {error}") from error


def _parsed(content: bytes) -> Gguf:
    header = _Header(content)
    if header.taken(4) != _MAGIC or header.number("I") != _VERSION:
        raise ValueError(f"it does not begin as version {_VERSION} does")
    tensors, keys = header.number("Q"), header.number("Q")
    metadata = {header.text(): header.value(header.number("I")) for _ in range(keys)}
    placed = [_Placed.read(header) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    data = memoryview(content)[math.ceil(header.at / alignment) * alignment :]
    return Gguf(
        metadata=metadata,
        tensors={one.name: one.numbers(data) for one in _readable(placed)},
    )


def _readable(placed: list[_Placed]) -> Iterator[_Placed]:
    for one in placed:
        if one.kind not in _KINDS:
            raise ValueError(f"{one.name} is of kind {one.kind}, which is not read")
        yield one


class _Header:
    """The bytes before the numbers, read from `at` on."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def taken(self, size: int) -> bytes:
        found = self.content[self.at : self.at + size]
        if len(found) < size:
            raise ValueError("it ends too early")
        self.at += size
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.taken(struct.calcsize(f"<{form}")))[0]

    def size(self) -> int:
        found: int = self.number("Q")
        if found > _MOST:
            raise ValueError(f"a list of {found} entries")
        return found

    def text(self) -> str:
        return self.taken(self.size()).decode()

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY and depth == 0:
            inner: int = self.number("I")
            return [self.value(inner, 1) for _ in range(self.size())]
        if kind not in _SCALARS:
            raise ValueError(f"a value of kind {kind}")
        return self.number(_SCALARS[kind])


@dataclass(frozen=True)
class _Placed:
    """A tensor: its shape as NumPy has it (GGUF writes the last axis first), and its place."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @classmethod
    def read(cls, header: _Header) -> _Placed:
        name, axes = header.text(), header.number("I")
        shape = tuple(header.number("Q") for _ in range(min(axes, 5)))[::-1]
        return cls(name, shape, header.number("I"), header.number("Q"))

    def numbers(self, data: memoryview) -> Floats:
        count = math.prod(self.shape)
        block, size, read = _KINDS[self.kind]
        if count % block:
            raise ValueError(f"{self.name} is not made of whole blocks")
        found = np.frombuffer(data, np.uint8, count // block * size, self.offset)
        return read(found.reshape(-1, size)).reshape(self.shape)


def _plain(blocks: NDArray[np.uint8]) -> Floats:
    return blocks.view("<f4").astype(np.float32)


def _halves(blocks: NDArray[np.uint8]) -> Floats:
    return blocks.view("<f2").astype(np.float32)


def _q4_1(blocks: NDArray[np.uint8]) -> Floats:
    """A scale, the smallest value, and 16 bytes: low halves are the first 16 numbers."""
    scale, least = _halves(blocks[:, 0:2].copy()), _halves(blocks[:, 2:4].copy())
    packed = blocks[:, 4:]
    places = np.concatenate([packed & 15, packed >> 4], axis=1)
    return scale * places.astype(np.float32) + least


def _q8_0(blocks: NDArray[np.uint8]) -> Floats:
    """A scale, and 32 signed bytes."""
    scale = _halves(blocks[:, :2].copy())
    return scale * blocks[:, 2:].view(np.int8).astype(np.float32)


_KINDS: Final[Mapping[int, tuple[int, int, Callable[[NDArray[np.uint8]], Floats]]]] = {
    0: (1, 4, _plain),
    1: (1, 2, _halves),
    3: (32, 20, _q4_1),
    8: (32, 34, _q8_0),
}
"""Numbers and bytes of a block, and how it is read, by the number that GGUF has for a kind."""
