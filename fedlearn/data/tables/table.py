"""A table as Arrow columns with the line that each row came from, whatever file it was in.

Values keep their text; what they mean is the concern of `fedlearn.data.tables.columns`. Files
are read by `fedlearn.data.tables.delimited` and `fedlearn.data.tables.parquet`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError, refuse, some
from fedlearn.data.tables.cells import (
    Cells,
)

Separator = Literal["comma", "semicolon", "tab", "pipe"]

SEPARATORS: dict[str, Separator] = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Columns under a header; `lines[i]` is the line of the file on which row i starts.

    Where a file has no lines its rows are `counted` from 1 instead.
    """

    header: tuple[str, ...]
    columns: tuple[Cells, ...]
    lines: NDArray[np.int64]
    counted: Literal["line", "row"] = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def cells(self, name: str) -> Cells:
        """One column."""
        return self.columns[self.header.index(name)]

    def column(self, name: str) -> list[str]:
        """The cells of one column as text, one a row, without spaces around them."""
        return list(self.cells(name).each())

    def places(self, rows: Sequence[int] | NDArray[np.int64]) -> str:
        """Where some of the rows are, in words: `lines 3, 8 and 40 more`."""
        return some_lines(self.lines[np.asarray(rows, np.int64)].tolist(), self.counted)

    def take(self, rows: NDArray[np.int64]) -> Table:
        """The table of some of the rows."""
        columns = tuple(own.take(rows) for own in self.columns)
        return replace(self, columns=columns, lines=self.lines[rows])

    def with_columns(self, other: Mapping[str, Cells]) -> Table:
        """The table with other cells in some of its columns."""
        own = zip(self.header, self.columns, strict=True)
        return replace(self, columns=tuple(other.get(name, cells) for name, cells in own))


def some_lines(lines: Sequence[int], counted: str = "line", shown: int = 5) -> str:
    """A few line numbers in words, for messages: `lines 3, 8 and 40 more`."""
    return f"{counted}{'s' if len(lines) > 1 else ''} {some(lines, shown)}"


def duplicates(table: Table, aside: tuple[str, ...] = ()) -> list[int]:
    """The rows whose record repeats an earlier one, columns `aside` not looked at."""
    alike = np.zeros(len(table), dtype=np.int64)  # equal where rows are, column by column
    for name, cells in zip(table.header, table.columns, strict=True):
        if name not in aside:
            found, alike = np.unique(alike * len(cells.values) + cells.codes, return_inverse=True)
            if len(found) == len(table):
                return []
    first = np.unique(alike, return_index=True)[1]
    copies: list[int] = np.setdiff1d(np.arange(len(table)), first).tolist()
    return copies


def with_records(path: Path, table: Table, problems: Sequence[str]) -> Table:
    """The table, where it has no problems and a record; else a DataError."""
    refuse(problems)
    if not len(table):
        raise DataError(f"{path}: holds a header and no records")
    return table


def header_problems(path: Path, header: tuple[str, ...], where: str) -> Iterator[str]:
    """Columns that are named twice, or not at all."""
    for name in sorted({name for name in header if name and header.count(name) > 1}):
        yield f"{path}: {where}: column {name!r} is there more than once"
    if unnamed := [str(i) for i, name in enumerate(header, start=1) if not name]:
        yield f"{path}: {where}: column {', '.join(unnamed)} has no name"
