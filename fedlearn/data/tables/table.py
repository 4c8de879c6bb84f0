"""A delimited text file as columns of text, with the line each row came from.

Guesses nothing silently: what does not fit (separator, encoding, ragged rows)
is an error that names the line and the setting to change. Values keep their
text; what they mean is the concern of `fedlearn.data.tables.columns`.

Source: RFC 4180.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import memory
from fedlearn.data.tables.cells import Cells, encode, join

Separator = Literal["comma", "semicolon", "tab", "pipe"]

SEPARATORS: dict[str, Separator] = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_CHARACTERS = {name: character for character, name in SEPARATORS.items()}
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_BLOCK = 4096
"""Rows that are held as such, until the different cells of their columns are known."""

_SIGNATURES = {
    b"PK\x03\x04": "an Excel or zip file; save the sheet as CSV",
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"\xff\xfe": "UTF-16 text; set scenario.encoding=utf-16",
    b"\xfe\xff": "UTF-16 text; set scenario.encoding=utf-16",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Columns under a header; `lines[i]` is the line of the file on which row i starts.

    Where a file has no lines its rows are `counted` from 1 instead.
    """

    header: tuple[str, ...]
    columns: tuple[Cells, ...]
    lines: Sequence[int]
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
        return some_lines([self.lines[i] for i in rows], self.counted)

    def take(self, rows: NDArray[np.int64]) -> Table:
        """The table of some of the rows."""
        lines = array("q", (self.lines[i] for i in rows))
        return replace(self, columns=tuple(own.take(rows) for own in self.columns), lines=lines)

    def with_columns(self, other: Mapping[str, Cells]) -> Table:
        """The table with other cells in some of its columns."""
        own = zip(self.header, self.columns, strict=True)
        return replace(self, columns=tuple(other.get(name, cells) for name, cells in own))


def read_table(path: Path, *, separator: Separator, encoding: str = "utf-8") -> Table:
    """The table in `path`; blank lines are passed over, a byte order mark is dropped.

    Raises:
        DataError: not a file, empty, not text in this encoding, another
            separator, a column named twice or not at all, a row with too many
            or too few cells. All problems of one stage are listed.
        ConfigError: Python knows no such encoding.

    """
    table, ragged = _parse(path, read_text(path, encoding), separator)
    problems = _header_problems(path, table.header, separator) or _ragged(path, table, ragged)
    if problems:
        raise DataError("\n".join(problems))
    if not len(table):
        raise DataError(f"{path}: holds a header and no records")
    return table


def read_text(path: Path, encoding: str, factor: int = memory.TEXT_FACTOR) -> str:
    """The whole file as text; see `read_table` for what is refused.

    `factor`: how many bytes of memory a byte of the file will take.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the file in it")
    try:
        memory.require(path, path.stat().st_size * factor)
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    text = _decode(path, content, encoding)
    if not text.strip():
        raise DataError(f"{path}: is empty")
    return text


def _decode(path: Path, content: bytes, encoding: str) -> str:
    utf8 = encoding.lower().replace("_", "-") in {"utf-8", "utf8"}
    for signature, what in _SIGNATURES.items():
        if utf8 and content.startswith(signature):
            raise DataError(f"{path}: is {what}")
    try:
        return content.decode("utf-8-sig" if utf8 else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: byte 0x{content[error.start]:02x} is not {encoding}; set "
            "scenario.encoding (spreadsheets often write cp1252) or save the file as UTF-8"
        ) from error
    except LookupError as error:
        raise ConfigError([f"scenario.encoding={encoding}: no such encoding; try utf-8"]) from error


def guess_separator(text: str) -> Separator:
    """The separator that occurs most often in the header; comma where none does."""
    header = text.lstrip("\r\n").partition("\n")[0]
    return SEPARATORS[max(SEPARATORS, key=header.count)]


def some_lines(lines: Sequence[int], counted: str = "line", shown: int = 5) -> str:
    """A few line numbers in words, for messages: `lines 3, 8 and 40 more`."""
    numbers = ", ".join(map(str, lines[:shown]))
    more = f" and {len(lines) - shown} more" if len(lines) > shown else ""
    return f"{counted}{'s' if len(lines) > 1 else ''} {numbers}{more}"


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


def parse_text(path: Path, text: str, separator: Separator) -> Table:
    """The table in `text`; rows that are shorter or longer than the header are made to fit.

    `path` is for messages only.

    Raises:
        DataError: a quote is left open.

    """
    return _parse(path, text, separator)[0]


def _parse(path: Path, text: str, separator: Separator) -> tuple[Table, list[int]]:
    """The table, and the lines of the rows that were made to fit its header."""
    rows = _rows(path, text, separator)
    _, header = next(rows)
    blocks: list[list[Cells]] = [[] for _ in header]  # by column
    lines = array("q")
    sizes: dict[int, int] = {}  # of rows that do not fit, by their lines
    beyond = False  # whether one of these has a cell where no column is
    while block := list(islice(rows, _BLOCK)):
        for line, row in block:
            lines.append(line)
            if len(row) != len(header):
                sizes[line] = len(row)
                beyond |= any(map(str.strip, row[len(header) :]))
                row[len(header) :] = [""] * (len(header) - len(row))
        for parts, cells in zip(blocks, zip(*(row for _, row in block), strict=True), strict=True):
            parts.append(encode(cells))
    for parts in blocks:
        parts[:] = [join(parts)]  # in place, so that the parts are given back one by one
    columns = [parts[0] for parts in blocks]
    wide = len(header) if beyond else _width(header, columns)
    table = Table(
        header=tuple(name.strip() for name in header[:wide]),
        columns=tuple(columns[:wide]),
        lines=lines,
    )
    return table, [line for line, size in sizes.items() if size < wide or wide == len(header)]


def _rows(path: Path, text: str, separator: Separator) -> Iterator[tuple[int, list[str]]]:
    """The line on which every row starts, and its cells; blank lines are passed over."""
    lines = (found[0] for found in _LINE.finditer(text))
    reader = csv.reader(lines, delimiter=_CHARACTERS[separator], strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {start}: {error}; is a quote left open?") from error


def _width(header: Sequence[str], columns: Sequence[Cells]) -> int:
    """Without last columns that have neither a name nor a cell: separators at the ends of lines."""
    wide = len(header)
    while wide > 1 and not any(map(str.strip, (header[wide - 1], *columns[wide - 1].values))):
        wide -= 1
    return wide


def _header_problems(path: Path, header: tuple[str, ...], separator: Separator) -> list[str]:
    if len(header) == 1:
        found = [name for character, name in SEPARATORS.items() if character in header[0]]
        hint = f"; set scenario.separator={found[0]}" if found else ""
        return [f"{path}: line 1: only one column when separated by {separator}{hint}"]
    return header_problems(path, header, "line 1")


def header_problems(path: Path, header: tuple[str, ...], where: str) -> list[str]:
    """What is wrong with the names of columns."""
    twice = sorted({name for name in header if name and header.count(name) > 1})
    problems = [f"{path}: {where}: column {name!r} is there more than once" for name in twice]
    unnamed = [str(i) for i, name in enumerate(header, start=1) if not name]
    if unnamed:
        problems.append(f"{path}: {where}: column {', '.join(unnamed)} has no name")
    return problems


def _ragged(path: Path, table: Table, lines: Sequence[int]) -> list[str]:
    if not lines:
        return []
    return [
        f"{path}: {some_lines(lines)}: not {len(table.header)} cells as the header has; "
        "a cell with a separator in it must be in quotes"
    ]
