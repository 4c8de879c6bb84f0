"""A table, from CSV or Parquet, as Arrow columns with the line that each row came from.

Guesses nothing silently: what does not fit (separator, encoding, ragged rows)
is an error that names the line and the setting to change. Values keep their
text; what they mean is the concern of `fedlearn.data.tables.columns`.

Arrow reads files whose rows have no quotes. With quotes Python's reader does: Arrow's
knows no lines, and takes what follows an open quote, or a closed one, into the cell.

Source: RFC 4180.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from fedlearn.core.errors import ConfigError, DataError, refuse, some
from fedlearn.core.files import possible
from fedlearn.data import memory
from fedlearn.data.tables.cells import (
    TEXT,
    Cells,
    as_arrow,
    as_numpy,
    encode,
    encode_numbers,
    scalar,
)

Separator = Literal["comma", "semicolon", "tab", "pipe"]

SEPARATORS: dict[str, Separator] = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_CHARACTERS = {name: character for character, name in SEPARATORS.items()}
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_FIRST = re.compile(r"[\r\n]*([^\r\n]+)")
csv.field_size_limit(2**31 - 1)  # a contract may be longer than the 2^17 characters of the default

_BLOCK = 4096
"""Rows that are held as such, until they are in Arrow's columns."""

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_SIGNATURES = {
    b"PK\x03\x04": "an Excel or zip file; save the sheet as CSV",
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


# --- Text -----------------------------------------------------------------------------


def read_table(
    path: Path, *, separator: Separator, encoding: str = "utf-8", by_record: bool = False
) -> Table:
    """The table in `path`; blank lines are passed over, a byte order mark is dropped.

    Read `by_record`, rows of too many or too few cells are left out, also if none is left, and
    bytes that are none of the encoding are characters of no meaning.

    Raises:
        DataError: not a file, empty, not text in this encoding, another
            separator, a column named twice or not at all, a row with too many
            or too few cells. All problems of one stage are listed.
        ConfigError: Python knows no such encoding.

    """
    errors = "replace" if by_record else "strict"
    text = read_text(path, encoding, errors=errors)
    table, ragged = _parse(path, text, separator, by_record=by_record)
    problems = _separator_problems(path, table.header, separator) or [
        *_header_problems(path, table.header, "line 1")
    ]
    if by_record:
        refuse(problems)
        return table.take(np.flatnonzero(~np.isin(table.lines, ragged)))
    if ragged and not problems:
        problems = [
            f"{path}: {some_lines(ragged)}: not {len(table.header)} cells as the header has; "
            "a cell with a separator in it must be in quotes"
        ]
    return _with_records(path, table, problems)


def _with_records(path: Path, table: Table, problems: Sequence[str]) -> Table:
    refuse(problems)
    if not len(table):
        raise DataError(f"{path}: holds a header and no records")
    return table


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
            "scenario.encoding (spreadsheets often write cp1252) or save the file as UTF-8"
        ) from error
    except LookupError as error:
        raise ConfigError(f"scenario.encoding={encoding}: no such encoding; try utf-8") from error


def guess_separator(text: str) -> Separator:
    """The separator that occurs most often in the header; comma where none does."""
    header = text.lstrip("\r\n").partition("\n")[0]
    return SEPARATORS[max(SEPARATORS, key=header.count)]


def parse_text(path: Path, text: str, separator: Separator) -> Table:
    """The table in `text`; rows that are shorter or longer than the header are made to fit.

    `path` is for messages only.

    Raises:
        DataError: a quote is left open.

    """
    return _parse(path, text, separator)[0]


def _parse(
    path: Path, text: str, separator: Separator, *, by_record: bool = False
) -> tuple[Table, list[int]]:
    """The table, and the lines of the rows that were made to fit its header."""
    found = _by_arrow(text, _CHARACTERS[separator])
    read = _by_python(path, text, _CHARACTERS[separator]) if found is None else found
    if by_record:
        return _of_header(read)
    wide = len(read.header) if read.beyond else _width(read.header, read.columns)
    table = Table(
        header=tuple(name.strip() for name in read.header[:wide]),
        columns=tuple(read.columns[:wide]),
        lines=read.lines,
    )
    whole = wide == len(read.header)
    return table, [line for line, size in read.sizes.items() if size < wide or whole]


def _of_header(read: _Read) -> tuple[Table, list[int]]:
    """The columns that have a name, whatever the rows hold, and the lines of rows that hold less
    or more: which columns there are no single row decides."""
    wide, most = _width(read.header, ()), len(read.header)
    header = tuple(name.strip() for name in read.header[:wide])
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


def _by_arrow(text: str, separator: str) -> _Read | None:
    """The rows of a text; None where they have quotes, or do not all fit their header."""
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
        header = next(csv.reader([first[1]], delimiter=separator, strict=True))
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
    return _Read(header, _encoded(read.columns), lines[1:] + 1, {}, beyond=False)


def _encoded(columns: list[Any]) -> list[Cells]:
    """Takes the columns of text out of the list one by one, so that their memory is given back."""
    return [encode(columns.pop(0).combine_chunks()) for _ in range(len(columns))]


def _by_python(path: Path, text: str, separator: str) -> _Read:
    rows = _rows(path, text, separator)
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


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line on which every row starts, and its cells; blank lines are passed over."""
    lines = (found[0] for found in _LINE.finditer(text))  # io.StringIO takes four bytes a character
    reader = csv.reader(lines, delimiter=separator, strict=True)
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
    while wide > 1 and not header[wide - 1].strip():
        if columns and any(columns[wide - 1].texts()):
            break
        wide -= 1
    return wide


def _separator_problems(path: Path, header: tuple[str, ...], separator: Separator) -> list[str]:
    if len(header) > 1:
        return []
    found = [name for character, name in SEPARATORS.items() if character in header[0]]
    hint = f"; set scenario.separator={found[0]}" if found else ""
    return [f"{path}: line 1: only one column when separated by {separator}{hint}"]


def _header_problems(path: Path, header: tuple[str, ...], where: str) -> Iterator[str]:
    for name in sorted({name for name in header if name and header.count(name) > 1}):
        yield f"{path}: {where}: column {name!r} is there more than once"
    if unnamed := [str(i) for i, name in enumerate(header, start=1) if not name]:
        yield f"{path}: {where}: column {', '.join(unnamed)} has no name"


def read_file(
    path: Path,
    separator: Separator,
    encoding: str,
    decimal: Literal[".", ","] = ".",
    *,
    by_record: bool = False,
) -> Table:
    """The table in a file, Parquet or text, as its first bytes say; raises as its reader does."""
    if is_parquet(path):
        return read_parquet(path, decimal, by_record=by_record)
    return read_table(path, separator=separator, encoding=encoding, by_record=by_record)


# --- Parquet --------------------------------------------------------------------------


def is_parquet(path: Path) -> bool:
    """Whether the file begins as a Parquet file does, whatever it is called."""
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except OSError:
        return False  # reading it as text says what is wrong


def read_parquet(path: Path, decimal: str = ".", *, by_record: bool = False) -> Table:
    """The table in `path`; its `lines` count the records from 1.

    Numbers stay numbers, and are text only where a column is taken by its text (as
    categories, a label, or what stands for a gap): a whole number then has no `.0`.
    Dates are written as ISO 8601, to the microsecond; a null is an empty cell.

    Raises:
        DataError: the file is damaged, holds no records (which it may, read `by_record`), would
            not fit into memory, or has columns that are no table's. All problems of one stage are
            listed.

    """
    from pyarrow import parquet

    try:
        shape = parquet.read_metadata(path)
        memory.require(path, shape.num_rows * shape.num_columns * memory.CELL_BYTES)
        read = parquet.ParquetFile(path).read()
        return from_arrow(path, read, decimal, by_record=by_record)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: cannot be read as Parquet ({reason})") from error


def from_arrow(path: Path, read: pa.Table, decimal: str = ".", *, by_record: bool = False) -> Table:
    """A table of Arrow's as `read_parquet` has it; `path` names it in messages.

    Raises:
        DataError: it holds no records, or has columns that are no table's.
        ArrowException, ValueError, OverflowError: a value cannot be held.
    """
    header = tuple(name.strip() for name in read.column_names)
    problems = [
        *_header_problems(path, header, "the header"),
        *(
            f"{path}: column {one.name!r} holds {one.type}, which is no number and no category"
            for one in read.schema
            if not holds_cells(one.type)
        ),
    ]
    if not by_record:  # else they are characters of no meaning
        problems += [
            f"{path}: column {name!r} holds bytes that are not UTF-8"
            for name, column in zip(header, read.columns, strict=True)
            if not _is_sound(column)
        ]
    columns = () if problems else tuple(_cells(one, decimal, by_record) for one in read.columns)
    lines = np.arange(1, read.num_rows + 1)
    table = Table(header=header, columns=columns, lines=lines, counted="row")
    if by_record:
        refuse(problems)
        return table
    return _with_records(path, table, problems)


def holds_cells(kind: pa.DataType) -> bool:
    """Whether values of this type are cells of a table; lists, structures and bytes are not."""
    if types.is_dictionary(kind):
        return holds_cells(kind.value_type)
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    plain = types.is_boolean(kind) or types.is_null(kind) or types.is_decimal(kind)
    return texts or plain or _is_number(kind) or _is_moment(kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _is_moment(kind: pa.DataType) -> bool:
    return bool(types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind))


def _is_sound(values: pa.Array | pa.ChunkedArray) -> bool:
    """Whether texts are UTF-8, as Arrow has them: whoever wrote a file may not have looked."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _cells(column: pa.ChunkedArray, decimal: str, by_record: bool) -> Cells:
    values = column.combine_chunks()
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not _is_sound(values):
        content = values.cast(pa.large_binary()).to_pylist()
        values = as_arrow([(cell or b"").decode("utf-8", "replace") for cell in content])
    if _is_number(values.type):
        numbers = pc.fill_null(
            values.cast(pa.float64(), safe=False), scalar("nan").cast(pa.float64())
        )
        found = as_numpy(numbers)
        if types.is_floating(values.type) or not (np.abs(found) >= 2**53).any():
            return encode_numbers(found, decimal)  # else digits would be lost
    return encode(pc.fill_null(_texts(values, decimal, by_record), scalar("")))


def _texts(values: pa.Array, decimal: str, by_record: bool) -> Any:
    if types.is_boolean(values.type):
        return pc.if_else(values, scalar("True"), scalar("False"))
    if types.is_decimal(values.type):
        return pc.replace_substring(values.cast(pa.string()), ".", decimal).cast(TEXT)
    if not _is_moment(values.type):
        return values.cast(TEXT)
    if types.is_timestamp(values.type):  # what Python holds
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    coded = values.dictionary_encode()
    moments = [_moment_text(moment, by_record) for moment in coded.dictionary]
    return as_arrow(moments).take(coded.indices)


def _moment_text(moment: pa.Scalar, by_record: bool) -> str:
    """As ISO 8601 writes it; in years that Python does not know a gap, or its error."""
    try:
        return str(moment.as_py().isoformat())
    except (ValueError, OverflowError):
        if by_record:
            return ""
        raise
