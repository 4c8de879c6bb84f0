"""Which records are trained on and which are tested on, where a data set does not say it itself.

Each record is asked for itself: a keyed hash of what it holds decides. A quota, within a class or
a site, or a permutation of all records, would let one record more or less move many others from
one part to the other. A sum of clipped gradients would then differ by several clip norms where
privacy is accounted for one.

Source: RFC 7693 (BLAKE2b, with a key).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedlearn.core.rng import Streams
from fedlearn.data.tables.cells import Cells, scalar
from fedlearn.data.tables.table import Table

_BLOCK = 1 << 16
"""Rows whose bytes are held at a time."""


def by_content(
    contents: Iterable[bytes | memoryview],
    test_fraction: float,
    streams: Streams,
    name: str = "split",
) -> NDArray[np.bool_]:
    """`bool[n]`, True for training: a record is tested on with chance `test_fraction`.

    Args:
        contents: what each record holds, or the name of the person that it is of.
        streams: those of the run; the key is that of the stream `name`.

    **Guarantees:** membership is a function of the record's own content, of `test_fraction`
    and of the seed, whatever other records there are, in whatever order, at whatever sites;
    records that hold the same are in the same part, so that no copy of a training record
    is tested on. How many are in a part is not fixed: a class, or a site, may have none there.
    """
    keyed = blake2b(key=streams.key(name).to_bytes(16, "little"), digest_size=8)

    def drawn(content: bytes | memoryview) -> bytes:
        own = keyed.copy()  # faster than to begin with the key for every record
        own.update(content)
        return own.digest()

    places = np.frombuffer(b"".join(map(drawn, contents)), "<u8")
    return places >= np.uint64(test_fraction * 2**64)


def rows_of(table: Table, decimal: str = ".", aside: tuple[str, ...] = ()) -> Iterator[bytes]:
    """The cells of every row, columns `aside` left out, whatever the order of columns.

    A number is its value, however it is written, so that a table is the same as CSV and
    as Parquet. A row says nothing of what other rows have in its columns: words stand with
    the place of their column, so that one of numbers alone is written as any other.
    """
    names = sorted({*table.header} - {*aside})
    columns = [_Column(table.cells(name), decimal, place) for place, name in enumerate(names)]
    worded = [column for column in columns if column.words is not None]
    for start in range(0, len(table), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(table)))
        numbers = np.stack([column.numbers_of(rows) for column in columns], axis=1)
        yield from _joined(numbers, [column.words_of(rows) for column in worded])


class _Column:
    """The values of a column that are numbers as such, and the others as texts."""

    def __init__(self, cells: Cells, decimal: str, place: int) -> None:
        numbers = cells.numbers(decimal)
        gaps = np.isnan(numbers)
        self.codes = np.ascontiguousarray(cells.codes, np.int32)
        self.bits = np.where(gaps, np.nan, numbers + 0.0)  # NaN and zero of one kind
        self.words: Any = None
        if gaps.any() and not cells.are_numbers:
            nothing = scalar("")
            word = pc.and_(pc.is_nan(_in_arrow(self.bits)), pc.not_equal(cells.stripped, nothing))
            marked = pc.binary_join_element_wise(scalar(f"\x1f{place}:"), cells.stripped, nothing)
            self.words = pc.if_else(word, marked, nothing)

    def numbers_of(self, rows: slice) -> NDArray[np.float64]:
        """The numbers of some rows; NaN where there is a word."""
        return self.bits[self.codes[rows]]

    def words_of(self, rows: slice) -> Any:
        """The words of some rows, empty where there is a number."""
        return self.words.take(_in_arrow(self.codes[rows]))


def _in_arrow(values: NDArray[Any]) -> Any:
    """The values where they are (`pa.array` imports pandas where it is installed)."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _joined(numbers: NDArray[np.float64], words: list[Any]) -> Iterator[bytes]:
    """Row by row the bytes of all its numbers and words."""
    wide = numbers.shape[1] * 8
    plain = numbers.astype("<f8").tobytes()
    values = (plain[at : at + wide] for at in range(0, len(plain), wide))
    if not words:
        return values
    texts = pc.binary_join_element_wise(*words, scalar("")).cast(pa.large_binary())
    return map(bytes.__add__, values, texts.to_pylist())
