"""Tables from text, a record a line, and from any file that holds one.

Guesses nothing silently: what does not fit (separator, encoding, ragged rows)
is an error that names the line and the setting to change.

Arrow reads files whose rows have no quotes. With quotes Python's reader does: Arrow's
knows no lines, and takes what follows an open quote, or a closed one, into the cell.

Source: RFC 4180.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError, refuse
from fedlearn.core.files import possible
from fedlearn.data import memory
from fedlearn.data.tables.cells import TEXT, Cells, as_arrow, clean_text, encode
from fedlearn.data.tables.heads import (
    Header,
    header_problem,
    line_of,
    units_problem,
    without_remarks,
)
from fedlearn.data.tables.parquet import is_parquet, read_parquet
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

_GZIP = b"\x1f\x8b"

_SIGNATURES = {
    b"PK\x03\x04": "an Excel or zip file; save the sheet as CSV",
    b"\xff\xfe": "UTF-16 text; set scenario.encoding=utf-16",
    b"\xfe\xff": "UTF-16 text; set scenario.encoding=utf-16",
}


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
        [*set(ragged) - {*table.lines[:first]}],
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


def read_text(
    path: Path, encoding: str, factor: int = memory.TEXT_FACTOR, errors: str = "strict"
) -> str:
    """The whole file as text; see `read_table` for what is refused.

    `factor`: how many bytes of memory a byte of the file will take.
    """
    content = read_content(path, factor)
    _refuse_other_forms(path, content, encoding)
    text = _decode(path, content, encoding, errors)
    if not text.strip():
        raise DataError(f"{path}: is empty")
    return text


def read_loose_text(path: Path, encoding: str, factor: int) -> str:
    """As `read_text`, of a file without a head: where its first bytes are a record's, it is not
    refused for them, and may be empty. What is no text is characters of no meaning."""
    content = _bytes_of(path, factor)
    if content.startswith(_GZIP):
        with suppress(OSError, EOFError, zlib.error):
            content = gzip.decompress(content)
    return _decode(path, content, encoding, "replace")


def read_content(path: Path, factor: int = memory.TEXT_FACTOR) -> bytes:
    """The bytes of the file, unpacked where it is one of gzip; refused as by `read_text`."""
    content = _bytes_of(path, factor)
    if not content.startswith(_GZIP):
        return content
    memory.require(path, int.from_bytes(content[-4:], "little") * factor)  # its size, says gzip
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error})") from error


def _bytes_of(path: Path, factor: int) -> bytes:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the file in it")
    with possible("read", path, DataError):
        memory.require(path, path.stat().st_size * factor)
        return path.read_bytes()


def _refuse_other_forms(path: Path, content: bytes, encoding: str) -> None:
    for signature, what in _SIGNATURES.items():
        if _is_utf8(encoding) and content.startswith(signature):
            raise DataError(f"{path}: is {what}")


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in {"utf-8", "utf8"}


def _decode(path: Path, content: bytes, encoding: str, errors: str) -> str:
    try:
        return content.decode("utf-8-sig" if _is_utf8(encoding) else encoding, errors)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: byte 0x{content[error.start]:02x} is not {encoding}; set "
            "scenario.encoding (`fedlearn data check` finds it: spreadsheets often write cp1252, "
            "in East Asia gb18030, big5, shift_jis or euc_kr) or save the file as UTF-8"
        ) from error
    except LookupError as error:
        raise ConfigError(f"scenario.encoding={encoding}: no such encoding; try utf-8") from error


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


def read_file(
    path: Path,
    separator: Separator,
    encoding: str,
    decimal: Literal[".", ","] = ".",
    *,
    by_record: bool = False,
    names: Sequence[str] = (),
    header: Header = "look",
    aside: Collection[str] = (),
) -> Table:
    """The table in a file, Parquet or text, as its first bytes say; raises as its reader does.

    Columns `aside` may hold anything; what is no cell of a table is empty there.

    Raises:
        ConfigError: settings of a header, for a file that has its own.
    """
    if is_parquet(path):
        if names or header != "look":
            word = "names" if names else "header"
            raise ConfigError(
                f"scenario.{word}: {path} is Parquet, which names its columns itself; leave it out"
            )
        return read_parquet(path, decimal, by_record=by_record, aside=aside)
    return read_table(
        path,
        separator=separator,
        encoding=encoding,
        by_record=by_record,
        names=names,
        header=header,
    )
