"""The arrays of an update, as one flat vector of reals and one of integers.

Floating arrays of any width travel as float32 and are averaged. Integer and
boolean arrays (counters, flags) travel as exact 64-bit integers and are summed:
a counter comes back as the mean over clients, rounded to the nearest integer,
and a flag as the majority. Names are sorted, so that two sites that built the
same model in another order agree; the hash of the layout is bound into every
key of the protocol.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
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
class Flat:
    """An update without its shapes: `reals: float32[d]`, `integers: int64[m]`."""

    reals: NDArray[np.float32]
    integers: NDArray[np.int64]


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
        """Length of `Flat.reals`."""
        return sum(entry.size for entry in self.entries if entry.is_real)

    @property
    def num_integers(self) -> int:
        """Length of `Flat.integers`."""
        return sum(entry.size for entry in self.entries if not entry.is_real)

    def hash(self) -> bytes:
        """SHA-256 over the canonical encoding of all entries."""
        writer = Writer().blob(b"fedlearn/secagg/v1/layout").uint(len(self.entries), 4)
        for entry in self.entries:
            writer.blob(entry.name.encode()).blob(entry.dtype.encode()).uint(len(entry.shape), 1)
            for length in entry.shape:
                writer.uint(length, 8)
        return hashlib.sha256(writer.done()).digest()

    def flatten(self, arrays: Mapping[str, NDArray[Any]]) -> Flat:
        """The arrays as two flat vectors.

        Raises:
            ValueError: names, shapes or dtypes are not those of the layout.
        """
        if SumLayout.of(arrays) != self:
            raise ValueError("arrays differ from the agreed layout in names, shapes or dtypes")
        reals, integers = np.empty(self.num_reals, np.float32), np.empty(self.num_integers, "<i8")
        real_at = integer_at = 0
        for entry in self.entries:
            flat = arrays[entry.name].reshape(-1)
            if entry.is_real:
                reals[real_at : real_at + entry.size] = flat
                real_at += entry.size
            else:
                integers[integer_at : integer_at + entry.size] = flat
                integer_at += entry.size
        return Flat(reals=reals, integers=integers)

    def restore(
        self, mean: NDArray[np.floating[Any]], sums: NDArray[np.int64], num_clients: int
    ) -> dict[str, NDArray[Any]]:
        """The aggregated arrays, with the layout's shapes and dtypes.

        `mean: float[num_reals]` is the weighted mean, `sums: int64[num_integers]`
        the plain sums over `num_clients`. bfloat16, which numpy does not know,
        comes back as float32.

        Raises:
            ValueError: a length is not that of the layout, or num_clients < 1.
        """
        if mean.size != self.num_reals or sums.size != self.num_integers or num_clients < 1:
            raise ValueError(
                f"{mean.size} means and {sums.size} sums of {num_clients} clients do not fit a "
                f"layout of {self.num_reals} reals and {self.num_integers} integers"
            )
        arrays: dict[str, NDArray[Any]] = {}
        real_at = integer_at = 0
        for entry in self.entries:
            if entry.is_real:
                dtype = "float32" if entry.dtype == "bfloat16" else entry.dtype
                part: NDArray[Any] = mean[real_at : real_at + entry.size].astype(dtype)
                real_at += entry.size
            else:
                total = sums[integer_at : integer_at + entry.size]
                part = _whole(total, num_clients, entry.dtype)
                integer_at += entry.size
            arrays[entry.name] = part.reshape(entry.shape)
        return arrays


def _whole(sums: NDArray[np.int64], num_clients: int, dtype: str) -> NDArray[Any]:
    if dtype == "bool":
        return np.asarray(2 * sums >= num_clients)  # a tie keeps the flag set
    return np.asarray((2 * sums + num_clients) // (2 * num_clients)).astype(dtype)
