"""Numbers and dates that stand for a gap: -999, 9999, -1, 1900-01-01.

They are found by what they are, a number that people write for nothing, and by where they are: far
from all other values of the column, or below zero where nothing else is, and more than once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.tables.cells import Cells

_REPEATED: Final = frozenset(
    sign * int(str(digit) * size) for digit in (7, 8, 9) for size in range(2, 8) for sign in (1, -1)
) | {sign * int(f"{'9' * size}8") for size in range(1, 7) for sign in (1, -1)}
_LOW: Final = frozenset((-1, -7, -8, -9))
"""What is written for nothing in a column of numbers from zero on..."""
_FEW: Final = 5
"""... that has at least so many of these: -1, 0 and 1 are three answers."""
_DATES: Final = frozenset(
    ("1899-12-30", "1899-12-31", "1900-01-01", "1970-01-01", "9999-12-31", "2999-12-31")
)
_LEAST: Final = 2
"""Rows below which an odd number may be one that was measured, or a slip."""


@dataclass(frozen=True)
class Sentinel:
    """A value that may stand for a gap, as it is written, and in how many rows."""

    texts: tuple[str, ...]
    rows: int

    def __str__(self) -> str:
        return f"{self.texts[0]} ({self.rows:,} rows)"


def sentinels(cells: Cells, missing: Collection[str], decimal: str) -> tuple[Sentinel, ...]:
    """What in a column may stand for a gap besides what is known to; the smallest first."""
    given = ~cells.among(missing) & (cells.counts > 0)
    numbers = np.where(given, cells.numbers(decimal), np.nan)
    if not np.isfinite(numbers).any():
        return tuple(_of_dates(cells, given))
    values, places = np.unique(numbers[np.isfinite(numbers)], return_inverse=True)
    rows = np.zeros(len(values), np.int64)
    np.add.at(rows, places, cells.counts[np.isfinite(numbers)])
    found = _beyond(values, rows)
    return tuple(Sentinel(tuple(cells.texts(numbers == values[i])), int(rows[i])) for i in found)


def _of_dates(cells: Cells, given: NDArray[np.bool_]) -> Iterator[Sentinel]:
    for text, rows in zip(cells.texts(given), cells.counts[given].tolist(), strict=True):
        if text[:10] in _DATES and rows >= _LEAST:
            yield Sentinel((text,), rows)


def _beyond(values: NDArray[Any], rows: NDArray[Any]) -> list[int]:
    """The places of sentinels among sorted different values: taken away from both ends."""
    low, high = 0, len(values)
    while high - low > 2:
        if _is_one(values[low], rows[low], values[low + 1 : high]):
            low += 1
        elif _is_one(values[high - 1], rows[high - 1], values[low : high - 1]):
            high -= 1
        else:
            break
    return [*range(low), *range(high, len(values))]


def _is_one(value: float, rows: int, others: NDArray[np.float64]) -> bool:
    if rows < _LEAST or not float(value).is_integer():
        return False
    # Other sentinels on the same side are no neighbours: -998 beside -999.
    real = others[~np.isin(others, [*_REPEATED, *_LOW])]
    if len(real) < _LEAST:
        return False
    if int(value) in _LOW or (int(value) in _REPEATED and value < 0 <= real.min()):
        return len(real) >= _FEW and bool((real >= 0).all())
    return int(value) in _REPEATED and bool(np.abs(real - value).min() > np.ptp(real) / 2)
