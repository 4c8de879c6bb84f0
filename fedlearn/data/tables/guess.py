"""How a table of one's own is probably written, for `fedlearn data check` to suggest.

Training guesses nothing: what is found here becomes settings that its owner
sees, and gives or does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.data.tables.cells import Cells
from fedlearn.data.tables.columns import MISSING
from fedlearn.data.tables.content import read_content
from fedlearn.data.tables.encodings import encoding_in
from fedlearn.data.tables.sentinels import sentinels
from fedlearn.data.tables.spelling import number_key
from fedlearn.data.tables.table import Table
from fedlearn.data.tables.written import Way, may_be_either, way_of, written_numbers

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*", re.ASCII)
_MEANS_ELSE = {"true", "false", "null", "nan", "inf"}
_POINT = r"(?s)[0-9].*\.|\..*[0-9]"
_DIGIT = r"\pN"
_FEW = 3
"""Different words that may stand for gaps in one column of numbers."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How numbers and gaps are written; `gaps` are signs that are not among the usual ones."""

    decimal: Literal[".", ","] = "."
    gaps: tuple[str, ...] = ()
    ways: tuple[tuple[str, Way], ...] = ()
    """Columns whose numbers are written otherwise than plainly, and how."""

    @property
    def missing(self) -> tuple[str, ...]:
        """All signs of a gap."""
        return (*MISSING, *self.gaps)

    def settings(self) -> Iterator[str]:
        """The overrides that say so."""
        if self.decimal != ".":
            yield "scenario.decimal=','"
        if self.gaps:
            yield missing_of(self.missing)
        for name, way in self.ways:
            yield f"{key_of('scenario.written', name)}={quoted(way)}"


def encoding_of(path: Path) -> str:
    """`utf-8`, or the encoding that a file which is none is probably in."""
    try:
        content = read_content(path)
    except DataError:
        return "utf-8"  # reading it says what is wrong
    return encoding_in(content)


def writing_of(table: Table, separator: str | None = None) -> Writing:
    """How most columns of numbers write them, and what stands in their gaps.

    Where all commas of a table may stand between thousands, as in 1,002, they are taken for
    that, unless its `separator` is a semicolon, as where the comma is the decimal sign.
    """
    points, commas = _words_among_numbers(table, "."), _words_among_numbers(table, ",")
    votes = (
        _columns_with(table, points, "."),
        _columns_with(table, commas, ",", separator == "semicolon"),
    )
    decimal: Literal[".", ","] = "," if votes[1] > votes[0] else "."
    words = set[str]().union(*(commas if decimal == "," else points).values())
    found = [
        (name, way_of(table.cells(name), (*MISSING, *words), decimal)) for name in table.header
    ]
    ways = tuple((name, way) for name, way in found if way is not None)
    plain = written_numbers(table, dict(ways), decimal)
    gaps = (*sorted(words), *_numbers_for_gaps(plain, decimal))
    return Writing(decimal=decimal, gaps=gaps, ways=ways)


def _columns_with(table: Table, names: Collection[str], sign: str, sure: bool = False) -> int:
    """How many columns of numbers are written with that sign, and not between thousands.

    A number that is stored as one has not been written in any way.
    """
    written = [name for name in names if not table.cells(name).are_numbers]
    signed = [name for name in written if any(sign in text for text in table.cells(name).texts())]
    return sum(sure or not may_be_either(table.cells(name), MISSING, sign) for name in signed)


def _numbers_for_gaps(table: Table, decimal: str) -> list[str]:
    """Numbers, as -999, that stand for a gap wherever they are in a column of numbers."""
    found = [
        {text for one in sentinels(cells, MISSING, decimal) for text in one.texts}
        for cells in table.columns
    ]
    everywhere = {
        text
        for text in set[str]().union(*found)
        if number_key(text, decimal)
        and all(
            text in own
            or not cells.counts[cells.among((text,))].any()
            or cells.counts[np.isfinite(cells.numbers(decimal))].sum() < len(cells) / 2
            for own, cells in zip(found, table.columns, strict=True)
        )
    }
    return sorted(everywhere)


def _words_among_numbers(table: Table, decimal: Literal[".", ","]) -> dict[str, set[str]]:
    """For each column that is numbers but for a few words without digits, those that return.

    A word that is there once, `forty` for 40, is rather a slip.
    """
    found: dict[str, set[str]] = {}
    for name, cells in zip(table.header, table.columns, strict=True):
        # Most columns of numbers are told by one that has a point, before all are read anew.
        if decimal == "," and not cells.are_numbers and _has_point(cells):
            continue
        given = ~cells.among(MISSING) & (cells.counts > 0)
        odd = given & np.isnan(cells.numbers(decimal))
        wordy = odd & ~_matches(cells, _DIGIT)
        few = cells.distinct(wordy) <= _FEW
        counts = _counted(cells, wordy) if few else Counter()
        # Beside numbers that are written plainly, or all in one other way, as <0.5 is.
        plain = few and bool((wordy == odd).all()) and cells.distinct(given & ~odd) > _FEW
        if plain or way_of(cells, (*MISSING, *counts), decimal) is not None:
            found[name] = {word for word, n in counts.items() if n > 1 or not word.isalpha()}
    return found


def _counted(cells: Cells, chosen: NDArray[np.bool_]) -> Counter[str]:
    """How many rows have each of the chosen texts."""
    counts: Counter[str] = Counter()
    for word, rows in zip(cells.texts(chosen), cells.counts[chosen].tolist(), strict=True):
        counts[word] += rows
    return counts


def _has_point(cells: Cells) -> bool:
    return bool(_matches(cells, _POINT).any())


def _matches(cells: Cells, pattern: str) -> NDArray[np.bool_]:
    """For each different text, whether it has something of that form."""
    return np.asarray(pc.match_substring_regex(cells.stripped, pattern), np.bool_)


def quoted(name: str) -> str:
    """A value as an override takes it, whatever characters it has."""
    if _PLAIN.fullmatch(name) and name.lower() not in _MEANS_ELSE:
        return name
    return _in_quotes(name)


def _in_quotes(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def missing_of(signs: Collection[str]) -> str:
    """The override by which these stand for gaps, and no others: it takes the place of the list."""
    return f"scenario.missing=[{','.join(map(_in_quotes, signs))}]"


def key_of(group: str, name: str) -> str:
    """The key of a column in a mapping of settings, as an override takes it."""
    return f'{group}."{name}"' if "=" in name else f"{group}.{name}"
