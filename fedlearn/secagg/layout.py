"""The form of an update of named arrays, as both ends agree on it.

Floating arrays of any width travel as float32 and are averaged. Integer and
boolean arrays (counters, flags) travel as exact 64-bit integers and are summed.
Names are sorted, so that two sites that built the same model in another order
agree; the hash of the layout is bound into every key of the protocol.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from numpy.typing import NDArray

from fedlearn.crypto.codec import Writer

_REAL = ("float16", "bfloat16", "float32", "float64")
_WHOLE = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@dataclass(frozen=True, kw_only=True)
class LayoutEntry:
    """One array: its name, shape and numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def is_real(self) -> bool:
        """Whether the array is averaged as reals rather than summed as integers."""
        return self.dtype in _REAL


@dataclass(frozen=True, kw_only=True)
class SumLayout:
    """Names, shapes and dtypes of an update, in canonical order."""

    entries: tuple[LayoutEntry, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> SumLayout:
        """The layout of a set of arrays.

        Raises:
            ValueError: a dtype that cannot be summed (complex, text, objects, uint64).
        """
        entries = tuple(
            LayoutEntry(name=name, shape=arrays[name].shape, dtype=arrays[name].dtype.name)
            for name in sorted(arrays, key=str.encode)
        )
        for entry in entries:
            if entry.dtype not in _REAL + _WHOLE:
                raise ValueError(
                    f"{entry.name}: dtype {entry.dtype} cannot be summed; one of {_REAL + _WHOLE}"
                )
        return cls(entries=entries)

    @property
    def num_reals(self) -> int:
        """Values that are averaged."""
        return sum(entry.size for entry in self.entries if entry.is_real)

    @property
    def num_integers(self) -> int:
        """Values that are summed."""
        return sum(entry.size for entry in self.entries if not entry.is_real)

    def hash(self) -> bytes:
        """SHA-256 over the canonical encoding of all entries."""
        writer = Writer().blob(b"fedlearn/secagg/v1/layout").uint(len(self.entries), 4)
        for entry in self.entries:
            writer.blob(entry.name.encode()).blob(entry.dtype.encode()).uint(len(entry.shape), 1)
            for length in entry.shape:
                writer.uint(length, 8)
        return hashlib.sha256(writer.done()).digest()
