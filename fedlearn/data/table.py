"""A delimited text file as rows of text, with the line each row came from.

Guesses nothing silently: what does not fit (separator, encoding, ragged rows)
is an error that names the line and the setting to change. Values keep their
text; what they mean is the concern of `fedlearn.data.columns`.

Source: RFC 4180.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedlearn.data import memory
from fedlearn.errors import ConfigError, DataError

Separator = Literal["comma", "semicolon", "tab", "pipe"]

SEPARATORS: dict[str, Separator] = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_CHARACTERS = {name: character for character, name in SEPARATORS.items()}

_SIGNATURES = {
    b"PK\x03\x04": "an Excel or zip file; save the sheet as CSV",
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"\xff\xfe": "UTF-16 text; set scenario.encoding=utf-16",
    b"\xfe\xff": "UTF-16 text; set scenario.encoding=utf-16",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a header; `lines[i]` is the line of the file on which row i starts.

    Where a file has no lines its rows are `counted` from 1 instead.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    counted: Literal["line", "row"] = "line"

    def column(self, name: str) -> list[str]:
        """The cells of one column, without spaces around them."""
        position = self.header.index(name)
        return [row[position].strip() for row in self.rows]

    def places(self, rows: Sequence[int]) -> str:
        """Where some of the rows are, in words: `lines 3, 8 and 40 more`."""
        return some_lines([self.lines[i] for i in rows], self.counted)


def read_table(path: Path, *, separator: Separator, encoding: str = "utf-8") -> Table:
    """The table in `path`; blank lines are passed over, a byte order mark is dropped.

    Raises:
        DataError: not a file, empty, not text in this encoding, another
            separator, a column named twice or not at all, a row with too many
            or too few cells. All problems of one stage are listed.
        ConfigError: Python knows no such encoding.

    """
    table = parse_text(path, read_text(path, encoding), separator)
    problems = _header_problems(path, table.header, separator) or _ragged(path, table)
    if problems:
        raise DataError("\n".join(problems))
    if not table.rows:
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
    kept = [i for i, name in enumerate(table.header) if name not in aside]
    seen: set[tuple[str, ...]] = set()
    copies = []
    for position, row in enumerate(table.rows):
        record = tuple(row[i] for i in kept)
        if record in seen:
            copies.append(position)
        seen.add(record)
    return copies


def parse_text(path: Path, text: str, separator: Separator) -> Table:
    """The table in `text` as it is, which may be ragged; `path` is for messages only.

    Raises:
        DataError: a quote is left open.

    """
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=_CHARACTERS[separator], strict=True
    )
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    start = 1
    try:
        for row in reader:
            if row:
                rows.append(tuple(row))
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {start}: {error}; is a quote left open?") from error
    rows = _without_empty_end(rows)
    header = tuple(name.strip() for name in rows[0])
    return Table(header=header, rows=tuple(rows[1:]), lines=tuple(lines[1:]))


def _without_empty_end(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Without last columns that have neither a name nor a cell: separators at the ends of lines."""
    wide = len(rows[0])
    while wide > 1 and not any("".join(row[wide - 1 :]).strip() for row in rows):
        wide -= 1
    return rows if wide == len(rows[0]) else [row[:wide] for row in rows]


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


def _ragged(path: Path, table: Table) -> list[str]:
    wide = len(table.header)
    wrong = [line for row, line in zip(table.rows, table.lines, strict=True) if len(row) != wide]
    if not wrong:
        return []
    return [
        f"{path}: {some_lines(wrong)}: not {wide} cells as the header has; "
        "a cell with a separator in it must be in quotes"
    ]
