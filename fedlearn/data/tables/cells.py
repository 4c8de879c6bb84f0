"""A column of a table, each different cell held once: what is asked of it is asked of those.

A cell is a text, as it stands in the file, or a number where the file holds
numbers (Parquet); a number is written as text when its text is asked for. What
numbers and gaps mean for a column is the concern of `fedlearn.data.tables.columns`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain, compress

import numpy as np
from numpy.typing import NDArray

_PIECE = 1000
"""Cells that are read as numbers at once; only where a word is among them, one by one."""
_COMMA = str.maketrans(",.", "._")


def parse(cell: str, decimal: str = ".") -> float:
    """The finite number that a cell holds; NaN when it holds none (also for `inf` and `1_000`).

    Where the decimal sign is a comma, a point is none: `1.500` may well be fifteen hundred.
    """
    text = cell.translate(_COMMA) if decimal == "," else cell
    if not _is_plain(text) or text != text.strip():
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def parse_all(cells: Sequence[str], decimal: str = ".") -> NDArray[np.float64]:
    """What `parse` makes of every cell, `float64[n]`; they have no spaces around them."""
    numbers = np.empty(len(cells))
    for start in range(0, len(cells), _PIECE):
        piece = cells[start : start + _PIECE]
        if decimal == ",":
            piece = [cell.translate(_COMMA) for cell in piece]
        numbers[start : start + _PIECE] = _floats(piece)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def _floats(texts: Sequence[str]) -> list[float]:
    if _is_plain("".join(texts)):
        with suppress(ValueError):  # a word is among them
            return [*map(float, texts)]
    return [*map(parse, texts)]


def _is_plain(text: str) -> bool:
    """Without what Python reads in numbers and tables do not mean: `1_000`, other digits."""
    return text.isascii() and "_" not in text


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
class Numbers:
    """Different numbers, `float64[m]`, each a text when it is looked at (`number_text`)."""

    numbers: NDArray[np.float64]
    decimal: str = "."

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> str:
        return number_text(float(self.numbers[place]), self.decimal)

    def __iter__(self) -> Iterator[str]:
        return (number_text(number, self.decimal) for number in self.numbers.tolist())

    def parsed(self, decimal: str) -> NDArray[np.float64]:
        """What `parse` makes of the texts."""
        if decimal != self.decimal:
            return parse_all([*self], decimal)
        infinite = np.isinf(self.numbers)
        return np.where(infinite, np.nan, self.numbers) if infinite.any() else self.numbers

    def among(self, texts: Iterable[str]) -> NDArray[np.bool_]:
        """`bool[m]`: whose text is one of `texts`; no other is written for that."""
        known = frozenset(texts)
        wanted = {number_text(number, self.decimal): number
                  for number in (parse(text, self.decimal) for text in known)}  # fmt: skip
        found = np.isin(self.numbers, [wanted[text] for text in known & wanted.keys()])
        odd = ~np.isfinite(self.numbers)
        found[odd] = [number_text(number) in known for number in self.numbers[odd].tolist()]
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """A column: the cell of row i is `values[codes[i]]`, `codes: int32[n]`.

    `values` are all different. There may be some that no row has (any more), and some
    that differ in the spaces around them alone, which count for nothing but copies.
    What is asked of all `values` at once is answered with an array of one entry each.
    """

    values: tuple[str, ...] | Numbers
    codes: NDArray[np.int32]
    _parsed: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    """What `numbers` has read, by decimal sign; columns of the same values share it."""

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def texts(self) -> tuple[str, ...] | Numbers:
        """The values without spaces around them."""
        if isinstance(self.values, Numbers):
            return self.values
        stripped = tuple(map(str.strip, self.values))
        return self.values if stripped == self.values else stripped

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many rows have each value."""
        return np.bincount(self.codes, minlength=len(self.values))

    def each(self) -> Iterator[str]:
        """The text of every row."""
        return map(self.texts.__getitem__, self.codes.tolist())

    def numbers(self, decimal: str) -> NDArray[np.float64]:
        """The number that each value holds, as `parse` reads it; NaN when it holds none."""
        if decimal not in self._parsed:
            texts = self.texts
            self._parsed[decimal] = (
                texts.parsed(decimal) if isinstance(texts, Numbers) else parse_all(texts, decimal)
            )
        return self._parsed[decimal]

    def among(self, texts: Iterable[str]) -> NDArray[np.bool_]:
        """Which values are one of `texts`."""
        if isinstance(self.texts, Numbers):
            return self.texts.among(texts)
        known = frozenset(texts)
        return np.fromiter(map(known.__contains__, self.texts), np.bool_, len(self.texts))

    def distinct(self, chosen: NDArray[np.bool_]) -> int:
        """How many different texts rows have among the chosen values."""
        there = chosen & (self.counts > 0)
        if self.texts is self.values:
            return int(np.count_nonzero(there))
        return len(set(compress(self.texts, there)))

    def rows(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The rows that have one of the chosen values."""
        return np.flatnonzero(chosen[self.codes])

    def take(self, rows: NDArray[np.int64]) -> Cells:
        """The column of some of the rows."""
        return replace(self, codes=self.codes[rows])


def encode(texts: Sequence[str], codes: NDArray[np.int32] | None = None) -> Cells:
    """The column of `texts`, one a row; with `codes`, row i has `texts[codes[i]]`."""
    values = tuple(dict.fromkeys(texts))
    own = np.arange(len(texts), dtype=np.int32)
    if len(values) < len(texts):
        place = dict(zip(values, own.tolist(), strict=False))
        own = np.fromiter(map(place.__getitem__, texts), np.int32, len(texts))
    return Cells(values=values, codes=own if codes is None else own[codes])


def encode_numbers(numbers: NDArray[np.float64], decimal: str) -> Cells:
    """The column of `numbers`, one a row, NaN for a gap."""
    # Adding zero takes the sign from -0, whose text has none either.
    values, codes = np.unique(numbers + 0.0, return_inverse=True)
    return Cells(values=Numbers(numbers=values, decimal=decimal), codes=codes.astype(np.int32))


def join(parts: Sequence[Cells]) -> Cells:
    """The rows of several columns of text, one below the other."""
    if len(parts) == 1:
        return parts[0]
    starts = accumulate((len(part.values) for part in parts), initial=0)
    codes = [part.codes + np.int32(start) for part, start in zip(parts, starts, strict=False)]
    texts = tuple(chain.from_iterable(part.values for part in parts))
    return encode(texts, np.concatenate(codes) if codes else None)
