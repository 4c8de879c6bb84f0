"""A column of a table in Arrow: each different cell is held once, and asked once.

A cell is a text, as it stands in the file, or a number where the file holds
numbers (Parquet); a number is written as text when its text is asked for. What
numbers and gaps mean for a column is the concern of `fedlearn.data.tables.columns`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TEXT = pa.large_string()
_UNSEEN = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
"""Signs that nobody sees and no orthography needs, as a part of a class of an expression."""
_JOINERS = "\u200c\u200d"
_NOT_SEEN = re.compile(f"[{_UNSEEN}]|^[{_JOINERS}\\s]+|[{_JOINERS}\\s]+$")
_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def as_numpy(values: pa.Array) -> NDArray[Any]:
    """The values, none of which is null, where they are (`to_numpy` looks for pandas first)."""
    found: NDArray[Any] = np.from_dlpack(values)
    return found


def as_arrow(texts: Sequence[str]) -> pa.Array:
    """The texts in Arrow; half of a character, as JSON may spell it, becomes a question mark.

    `pa.array` and `pa.scalar` import pandas first where it is installed, which takes a second.
    """
    encoded = [text.encode("utf-8", "replace") for text in texts]
    ends = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=ends[1:])
    letters = pa.py_buffer(b"".join(encoded))
    return pa.LargeStringArray.from_buffers(len(encoded), pa.py_buffer(ends), letters)


def clean_text(text: str) -> str:
    """One text as `clean` has it."""
    if text.isascii():
        return text.strip()
    seen = _NOT_SEEN.sub("", unicodedata.normalize("NFC", text)).strip()
    return seen if _NOT_SEEN.search(seen) is None else clean_text(seen)


def clean(texts: pa.Array) -> pa.Array:
    """Texts in the normal form NFC without signs that nobody sees, or spaces around them."""
    plain = pc.utf8_trim_whitespace(texts)
    if pc.all(pc.string_is_ascii(plain), min_count=0).as_py():
        return texts if plain.equals(texts) else plain
    cleaned = as_arrow([clean_text(text) for text in texts.to_pylist()])
    return texts if cleaned.equals(texts) else cleaned


def scalar(text: str) -> pa.Scalar:
    """One text in Arrow."""
    return as_arrow([text])[0]


def parse(texts: pa.Array, decimal: str = ".") -> NDArray[np.float64]:
    """The finite number in each text, `float64[n]`; NaN in all else (also `inf` and `1_000`).

    Where the decimal sign is a comma, a point is none: `1.500` may well be fifteen hundred.
    """
    if decimal == ",":
        texts = pc.replace_substring(pc.replace_substring(texts, ".", "_"), ",", ".")
    try:
        numbers = texts.cast(pa.float64())
    except pa.ArrowInvalid:  # words are among them
        plain = pc.match_substring_regex(texts, _NUMBER)
        numbers = pc.if_else(plain, texts, scalar("nan")).cast(pa.float64())
    found = as_numpy(numbers)
    return found if np.isfinite(found).all() else np.where(np.isfinite(found), found, np.nan)


def number_text(value: float, decimal: str = ".") -> str:
    """A number as text, with the fewest digits that tell it from others; NaN is empty.

    A whole number below 2^53 has neither a decimal sign nor an exponent.
    """
    if math.isnan(value):
        return ""  # pandas writes a gap as NaN
    if abs(value) < 2**53 and value.is_integer():
        return str(int(value))
    return repr(value).replace(".", decimal)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """A column: the cell of row i is `values[codes[i]]`, `codes: int32[n]`.

    `values` are all different: texts in Arrow, or numbers, `float64[m]`, which are written
    with the sign `decimal`. There may be some that no row has (any more), and some that
    differ in the spaces around them alone, which count for nothing but copies.
    What is asked of all `values` at once is answered with an array of one entry each.
    """

    values: Any
    codes: NDArray[np.int32]
    decimal: str = "."
    is_text: bool = False
    """Whether the file says that these are texts, though they look like numbers: codes."""
    _parsed: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    """What `numbers` has read, by decimal sign; columns of the same values share it."""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def are_numbers(self) -> bool:
        """Whether the file holds numbers here, not texts."""
        return isinstance(self.values, np.ndarray)

    @cached_property
    def stripped(self) -> pa.Array:
        """The values as texts without spaces around them, as `clean` has them."""
        return as_arrow(self.texts()) if self.are_numbers else clean(self.values)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many rows have each value."""
        return np.bincount(self.codes, minlength=len(self.values))

    def texts(self, chosen: NDArray[np.bool_] | None = None) -> list[str]:
        """The values as texts without spaces around them; all, or the chosen ones."""
        if self.are_numbers:
            numbers = self.values if chosen is None else self.values[chosen]
            return [number_text(number, self.decimal) for number in numbers.tolist()]
        texts: list[str] = self.stripped.to_pylist()
        return texts if chosen is None else [*compress(texts, chosen)]

    def each(self) -> Iterator[str]:
        """The text of every row."""
        return map(self.texts().__getitem__, self.codes.tolist())

    def numbers(self, decimal: str) -> NDArray[np.float64]:
        """The number that each value holds, as `parse` reads it; NaN when it holds none."""
        if self.are_numbers:
            return np.where(np.isinf(self.values), np.nan, self.values)
        if decimal not in self._parsed:
            self._parsed[decimal] = parse(self.stripped, decimal)
        return self._parsed[decimal]

    def among(self, texts: Collection[str]) -> NDArray[np.bool_]:
        """Which values are one of `texts`."""
        known = as_arrow([*texts])
        if not self.are_numbers:
            found = pc.is_in(self.stripped, value_set=known)
            return as_numpy(found.cast(pa.uint8())).astype(np.bool_)
        # Only numbers that a text stands for can be it; no other is written for that.
        wanted = np.append(parse(known, self.decimal), [np.nan, np.inf, -np.inf])
        near: NDArray[np.bool_] = np.isin(self.values, wanted) | np.isnan(self.values)
        near[near] = [text in {*texts} for text in self.texts(near)]
        return near

    def distinct(self, chosen: NDArray[np.bool_]) -> int:
        """How many different texts rows have among the chosen values."""
        there = chosen & (self.counts > 0)
        if self.are_numbers or self.stripped is self.values:
            return int(np.count_nonzero(there))
        return len({*self.texts(there)})

    def rows(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The rows that have one of the chosen values."""
        return np.flatnonzero(chosen[self.codes])

    def take(self, rows: NDArray[np.int64]) -> Cells:
        """The column of some of the rows."""
        return replace(self, codes=self.codes[rows])


def encode(texts: Sequence[str] | Any, codes: NDArray[np.int32] | None = None) -> Cells:
    """The column of `texts`, a sequence or in Arrow, one a row.

    With `codes`, row i has `texts[codes[i]]`.
    """
    found = texts if isinstance(texts, pa.Array) else as_arrow(texts)
    coded = found.dictionary_encode()
    own = as_numpy(coded.indices)
    return Cells(values=coded.dictionary, codes=own if codes is None else own[codes])


def encode_numbers(numbers: NDArray[np.float64], decimal: str) -> Cells:
    """The column of `numbers`, one a row, NaN for a gap."""
    # Adding zero takes the sign from -0, whose text has none either.
    values, codes = np.unique(numbers + 0.0, return_inverse=True)
    return Cells(values=values, codes=codes.astype(np.int32), decimal=decimal)


def codes_of(cells: Cells, categories: Sequence[str]) -> NDArray[np.float32]:
    """The place of every cell among the categories, from 1; 0 where it is not among them."""
    code = {value: i for i, value in enumerate(categories, start=1)}
    return np.array([code.get(text, 0) for text in cells.texts()], dtype=np.float32)[cells.codes]
