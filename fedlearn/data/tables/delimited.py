"""Tables from text, a record a line.

Guesses nothing silently: what does not fit (separator, encoding, ragged rows)
is an error that names the line and the setting to change.

Arrow reads files whose rows have no quotes. With quotes Python's reader does: Arrow's
knows no lines, and takes what follows an open quote, or a closed one, into the cell.

Source: RFC 4180.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedlearn.core.errors import DataError, refuse
from fedlearn.data.tables.cells import TEXT, Cells, as_arrow, clean_text, encode
from fedlearn.data.tables.content import read_text
from fedlearn.data.tables.heads import (
    Header,
    header_problem,
    line_of,
    units_problem,
    without_remarks,
)
from fedlearn.data.tables.table import (
    SEPARATORS,
    Separator,
    Table,
    header_problems,
    some_lines,
    with_records,
)

csv.field_size_limit(2**31 - 1)  # a contract may be longer than the 2^17 characters of the default

_CHARACTERS = {name: character for character, name in SEPARATORS.items()}
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_FIRST = re.compile(r"[\r\n]*([^\r\n]+)")

_BLOCK = 4096
"""Rows that are held as such, until they are in Arrow's columns."""


def read_table(
    path: Path,
    *,
    separator: Separator,
    encoding: str = "utf-8",
    by_record: bool = False,
    names: Sequence[str] = (),
    header: Header = "look",
) -> Table:
    """The table in `path`; blank lines are passed over, a byte order mark is dropped.

    Remarks above the header are passed over. With `names` there is no header; without, it is
    looked at whether it looks like a record, unless `header` says that it is one; the row below
    it is passed over where `header` says that it holds units.

    Read `by_record`, rows of too many or too few cells, or with a quote that does not fit, are left
    out, also if none is left, and bytes that are none of the encoding are characters of no meaning.

    Raises:
        DataError: not a file, empty, not text in this encoding, another
            separator, a column named twice or not at all, a row with too many
            or too few cells, a record where the header should be. All problems of one stage are
            listed.
        ConfigError: Python knows no such encoding.

    """
    errors = "replace" if by_record else "strict"
    text = read_text(path, encoding, errors=errors)
    table, ragged = _parse(path, text, separator, by_record=by_record, names=names)
    problems = _separator_problems(path, table.header, separator) or [
        *header_problems(path, table.header, "line 1")
    ]
    first = 1 if header == "units" else 0
    table, ragged = (
        table.take(np.arange(first, len(table))),
        sorted({*ragged} - {*table.lines[:first].tolist()}),
    )
    if by_record:
        refuse(problems)
        return table.take(np.flatnonzero(~np.isin(table.lines, ragged)))
    if header == "look":
        headless = [] if names else header_problem(path, table)
        problems = headless or problems or units_problem(path, table)
    if ragged and not problems:
        problems = [
            f"{path}: {some_lines(ragged)}: not {len(table.header)} cells as "
            f"{'scenario.names' if names else 'the header'} has; a cell with a separator in it "
            "must be in quotes"
        ]
    return with_records(path, table, problems)


def parse_text(path: Path, text: str, separator: Separator) -> Table:
    """The table in `text`; rows that are shorter or longer than the header are made to fit.

    `path` is for messages only.

    Raises:
        DataError: a quote is left open.

    """
    return _parse(path, text, separator)[0]


def _parse(
    path: Path,
    text: str,
    separator: Separator,
    *,
    by_record: bool = False,
    names: Sequence[str] = (),
) -> tuple[Table, list[int]]:
    """The table, and the lines of the rows that were made to fit its header."""
    character, first = _CHARACTERS[separator], 0 if names else 1
    text = line_of(names, character) + text if names else without_remarks(text, character)
    read = _by_arrow(text, character, first)
    read = read or _by_python(path, text, character, first, by_record=by_record)
    if by_record:
        return _of_header(read)
    wide = len(read.header) if read.beyond else _width(read.header, read.columns)
    table = Table(
        header=tuple(map(clean_text, read.header[:wide])),
        columns=tuple(read.columns[:wide]),
        lines=read.lines,
    )
    whole = wide == len(read.header)
    return table, [line for line, size in read.sizes.items() if size < wide or whole]


def _of_header(read: _Read) -> tuple[Table, list[int]]:
    """The columns that have a name, whatever the rows hold, and the lines of rows that hold less
    or more: which columns there are no single row decides."""
    wide, most = _width(read.header, ()), len(read.header)
    header = tuple(map(clean_text, read.header[:wide]))
    table = Table(header=header, columns=tuple(read.columns[:wide]), lines=read.lines)
    ragged = {line for line, size in read.sizes.items() if not wide <= size <= most}
    for beside in read.columns[wide:]:
        filled = beside.rows(~beside.among(("",)))
        ragged.update(read.lines[filled].tolist())
    return table, sorted(ragged)


@dataclass(frozen=True, eq=False)
class _Read:
    """Rows made to fit their header; `sizes` of those that did not fit, by their lines.

    `beyond` says that one of these has a cell where no column is.
    """

    header: list[str]
    columns: list[Cells]
    lines: NDArray[np.int64]
    sizes: Mapping[int, int]
    beyond: bool


def _by_arrow(text: str, separator: str, number: int) -> _Read | None:
    """The rows of a text whose first line is that of a `number`; None where they have quotes, or
    do not all fit their header."""
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    first = _FIRST.match(text)
    if first is None or text.find('"', first.end()) >= 0:
        return None
    content = text.encode()
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    ends = np.append(np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n")), len(content))
    lines = np.flatnonzero(np.diff(ends, prepend=-1) > 1)  # those that are not blank
    end = int(ends[lines[0]])
    try:
        header = next(_reader([first[1]], separator))
        names = [str(place) for place in range(len(header))]
        read = read_csv(
            pa.BufferReader(pa.py_buffer(content).slice(end)),
            ReadOptions(column_names=names, use_threads=False),
            ParseOptions(delimiter=separator, quote_char=False),
            ConvertOptions(column_types=dict.fromkeys(names, TEXT)),
        )
    except (csv.Error, pa.ArrowInvalid):
        return None
    if len(read) != len(lines) - 1:
        return None
    return _Read(header, _encoded(read.columns), lines[1:] + number, {}, beyond=False)


def _encoded(columns: list[Any]) -> list[Cells]:
    """Takes the columns of text out of the list one by one, so that their memory is given back."""
    return [encode(columns.pop(0).combine_chunks()) for _ in range(len(columns))]


def _by_python(path: Path, text: str, separator: str, number: int, *, by_record: bool) -> _Read:
    rows = _rows(path, text, separator, number, skip=by_record)
    _, header = next(rows)
    parts: list[list[pa.Array]] = [[] for _ in header]  # by column
    lines: list[NDArray[np.int64]] = []
    sizes: dict[int, int] = {}
    beyond = False
    while block := list(islice(rows, _BLOCK)):
        for line, row in block:
            if len(row) != len(header):
                sizes[line] = len(row)
                beyond |= any(map(str.strip, row[len(header) :]))
                row[len(header) :] = [""] * (len(header) - len(row))
        lines.append(np.array([line for line, _ in block]))
        for own, cells in zip(parts, zip(*(row for _, row in block), strict=True), strict=True):
            own.append(as_arrow(cells))
    columns = [pa.chunked_array(parts.pop(0), TEXT) for _ in header]
    lines.append(np.zeros(0, np.int64))
    return _Read(header, _encoded(columns), np.concatenate(lines), sizes, beyond)


def _rows(
    path: Path, text: str, separator: str, number: int, *, skip: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """The line on which every row starts, and its cells; blank lines are passed over.

    Where a quote does not fit, `skip` passes over the line alone on which that row starts: what
    was left open there is not looked for in the rows that follow. The first row is never passed
    over, for it is the header.
    """
    line, at, ends, headed = number, 0, list[int](), False

    def lines() -> Iterator[str]:  # io.StringIO takes four bytes a character
        for found in _LINE.finditer(text, at):
            ends.append(found.end())
            yield found[0]

    while True:
        try:
            for row in _reader(lines(), separator):
                if row:
                    headed = True
                    yield line, row
                line, at = line + len(ends), ends[-1]
                ends.clear()
            return
        except csv.Error as error:
            if not (skip and headed):
                raise DataError(
                    f"{path}: line {line}: {error}; is a quote left open? In a cell in quotes "
                    "each quote of its own is written twice"
                ) from error
            line, at = line + 1, ends[0]
            ends.clear()


def _reader(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """A quote may have blanks before it, as in `1, "a, b"`."""
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)


def _width(header: Sequence[str], columns: Sequence[Cells]) -> int:
    """Without last columns that have neither a name nor a cell: separators at the ends of lines."""
    wide = len(header)
    while wide > 1 and not header[wide - 1].strip():
        if columns and any(columns[wide - 1].texts()):
            break
        wide -= 1
    return wide


def _separator_problems(path: Path, header: tuple[str, ...], separator: Separator) -> list[str]:
    if len(header) > 1:
        return []
    found = [name for character, name in SEPARATORS.items() if character in header[0]]
    return [
        f"{path}: line 1: only one column when separated by {separator}; set "
        f"scenario.separator={name}"
        for name in found[:1]
    ]
