"""Tables from sheets of Excel (.xlsx): every cell by its value, however it is shown.

A percentage is the number behind it (45% is 0.45), a date its day in ISO 8601, a duration its
seconds. A sheet holds what a table cannot say, and that is refused by name and never guessed: cells
that are merged, of which the first alone holds the value; columns of values without a name; and
formulas that no program has computed yet.

Source: ECMA-376, Part 1, 18.3 (worksheets), read by openpyxl.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np

from fedlearn.core.errors import ConfigError, DataError, FedlearnError, refuse, some
from fedlearn.data import memory
from fedlearn.data.tables.cells import Cells, clean_text, encode, encode_numbers, number_text
from fedlearn.data.tables.heads import Header, header_problem, units_problem
from fedlearn.data.tables.parquet import are_codes
from fedlearn.data.tables.table import Table, header_problems, with_records

_ZIP: Final = b"PK\x03\x04"
_BOOK: Final = "xl/workbook.xml"
_FACTOR: Final = 8
"""Bytes in memory for a byte of the sheets as XML."""
_REFERENCE: Final = re.compile(r"\$?([A-Z]{1,3})\$?([0-9]{1,7})")
_REASON: Final = 120
"""Characters of what openpyxl says of a file."""


def is_excel(path: Path) -> bool:
    """Whether the file is a workbook of Excel's, whatever it is called."""
    try:
        with path.open("rb") as file:
            if file.read(len(_ZIP)) != _ZIP:
                return False
        with zipfile.ZipFile(path) as archive:
            return _BOOK in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return False  # reading it as text says what is wrong


def sheets_of(path: Path) -> tuple[str, ...]:
    """The names of the sheets that are not hidden, in their order.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name for name, _ in _sheets(archive))
    except Exception as error:  # any: see `read_excel`
        raise _damaged(path, error) from error


def sheets_note(path: Path, sheet: str = "") -> list[str]:
    """What is said where one sheet of several is read and nobody has named it."""
    if sheet or not is_excel(path) or len(names := sheets_of(path)) < 2:
        return []
    return [
        f"{path}: the first of {len(names)} sheets is read, {names[0]!r}; there are "
        f"{some([*map(repr, names)])} (scenario.sheet)"
    ]


def read_excel(
    path: Path,
    sheet: str = "",
    decimal: str = ".",
    *,
    by_record: bool = False,
    names: Sequence[str] = (),
    header: Header = "look",
) -> Table:
    """The table in a sheet; its `lines` count the rows of the sheet.

    Rows without any value are passed over, and so are columns that have neither a name nor a value.
    `names` and `header` are as of text. Read `by_record`, a cell that is merged into another, or a
    formula without a value, is a gap, what stands under no name is none of the table, there may be
    no rows, and what a cell becomes no other decides.

    Raises:
        DataError: the file is damaged or too large, or the sheet holds what no table does; all
            problems of one stage.
        ConfigError: there is no such sheet, or openpyxl is not installed.
    """
    try:
        found = _read(path, sheet)
    except FedlearnError:
        raise
    except Exception as error:  # openpyxl trusts what it reads, and has no errors of its own
        raise _damaged(path, error) from error
    where = f"{path}: sheet {found.name!r}"
    if not (found.rows or (by_record and names)):
        raise DataError(f"{where} is empty")
    table, first = _table(found, names, decimal, by_record)
    unclear = [] if by_record else [*_unclear(found, where, first)]
    header_found = _header_problems(found, path, table, first, by_record)
    refuse([*header_found, *unclear])
    named = [place for place, name in enumerate(table.header) if name]
    table = replace(
        table,
        header=tuple(table.header[place] for place in named),
        columns=tuple(table.columns[place] for place in named),
    )
    if header == "units":
        table = table.take(np.arange(1, len(table)))
    if by_record:
        return table
    problems: list[str] = []
    if header == "look":
        problems = ([] if names else header_problem(path, table)) or units_problem(path, table)
    return with_records(path, table, problems)


def _damaged(path: Path, error: Exception) -> DataError:
    reason = next(iter(str(error).splitlines()), "")[:_REASON] or type(error).__name__
    return DataError(f"{path}: cannot be read as Excel ({reason})")


# --- What is in the file -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sheet:
    """Rows that hold a value, by their numbers, all as wide as the widest; what is merged, as
    `(first row, first column, last row, last column)` from 1; and formulas without a value."""

    name: str
    rows: list[tuple[int, list[Any]]]
    merged: tuple[tuple[int, int, int, int], ...]
    uncomputed: tuple[str, ...]


def _read(path: Path, sheet: str) -> _Sheet:
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ConfigError(
            f"{path}: reading Excel needs openpyxl; install it with pip install 'fedlearn[xlsx]', "
            "or save the sheet as CSV"
        ) from None
    with zipfile.ZipFile(path) as archive:
        memory.require(path, _FACTOR * sum(one.file_size for one in archive.infolist()))
        parts = dict(_sheets(archive))
        name = sheet or next(iter(parts), "")
        if name not in parts:
            known = some([*map(repr, parts)]) or "none"
            raise ConfigError(f"scenario.sheet: no sheet {sheet!r} in {path}; there are {known}")
        merged, uncomputed = _odd_cells(archive, parts[name])
    with closing(load_workbook(path, read_only=True, data_only=True)) as book:
        own = book[name]
        own.reset_dimensions()  # what a file says of its own size may be wrong
        rows = [(place, [*row]) for place, row in enumerate(own.iter_rows(values_only=True), 1)
                if any(not _is_empty(value) for value in row)]  # fmt: skip
    wide = max((len(row) for _, row in rows), default=0)
    for _, row in rows:
        row += [None] * (wide - len(row))
    return _Sheet(name=name, rows=rows, merged=merged, uncomputed=uncomputed)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _sheets(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """The sheets of cells that are not hidden, by name, and the parts that they are in."""
    places = {
        one.get("Id", ""): one.get("Target", "")
        for one in ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
        if one.get("Type", "").endswith("/worksheet")
    }
    for one in ElementTree.fromstring(archive.read(_BOOK)).iter():
        if _tag(one) == "sheet" and one.get("state", "visible") == "visible":
            own = next((value for key, value in one.items() if key.endswith("}id")), "")
            if own in places:
                place = places[own]
                yield one.get("name", ""), place[1:] if place[0] == "/" else f"xl/{place}"


def _tag(one: ElementTree.Element) -> str:
    return str(one.tag).rpartition("}")[2]


def _odd_cells(
    archive: zipfile.ZipFile, part: str
) -> tuple[tuple[tuple[int, int, int, int], ...], tuple[str, ...]]:
    """Areas of merged cells, and the cells with formulas that hold no value."""
    merged, uncomputed = [], []
    with archive.open(part) as file:
        for _, one in ElementTree.iterparse(file):
            if _tag(one) == "c":
                inside = {_tag(child): child.text for child in one}
                if "f" in inside and not inside.get("v") and one.get("t") != "str":
                    uncomputed.append(one.get("r", "?"))
            elif _tag(one) == "mergeCell":
                ends = _REFERENCE.findall(one.get("ref", ""))
                (left, top), (right, bottom) = (ends[0], ends[-1])
                merged.append((int(top), _number(left), int(bottom), _number(right)))
            elif _tag(one) == "row":
                one.clear()
    return tuple(merged), tuple(uncomputed)


def _number(letters: str) -> int:
    """The place of a column that is called so, from 1."""
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


def _letters(number: int) -> str:
    """What the column at a place, from 1, is called."""
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


# --- What it means ----------------------------------------------------------------------


def _table(found: _Sheet, names: Sequence[str], decimal: str, by_record: bool) -> tuple[Table, int]:
    """All columns, also those without a name; and the number of the header's row, 0 for none."""
    rows = found.rows
    wide = len(rows[0][1]) if rows else 0
    if names:
        header, first = [*names, *[""] * (wide - len(names))], 0
        rows = [(place, [*row, *[None] * (len(header) - wide)]) for place, row in rows]
    else:
        header, first = [_text(value, decimal) for value in rows[0][1]], rows[0][0]
        rows = rows[1:]
    cells = _each if by_record else _cells
    columns = [cells([row[place] for _, row in rows], decimal) for place in range(len(header))]
    lines = np.array([place for place, _ in rows], np.int64)
    return Table(header=tuple(map(clean_text, header)), columns=tuple(columns), lines=lines,
                 counted="row"), first  # fmt: skip


def _header_problems(
    found: _Sheet, path: Path, table: Table, first: int, by_record: bool
) -> Iterator[str]:
    row = f"row {first}" if first else "scenario.names"
    where = f"{path}: sheet {found.name!r}"
    over = [area for area in found.merged if area[0] <= first <= area[2]]
    if over:
        yield (
            f"{where}: {row}, the first with a value, should name the columns, and its cells "
            f"{some(_areas(over))} are merged; give each column a name of its own in one row, and "
            "delete what is above it"
        )
        return
    unnamed = [
        _letters(place)
        for place, (name, cells) in enumerate(zip(table.header, table.columns, strict=True), 1)
        if not name and not cells.among(("",)).all()
    ]
    if unnamed and not by_record:  # of a cell there, a record would decide
        yield (
            f"{where}: {row}, the first with a value, should name the columns, and "
            f"{some(unnamed)} have no name there; give them one, and delete what is above the names"
        )
    named = tuple(name for name in table.header if name)
    yield from header_problems(path, named, f"sheet {found.name!r}, {row}")


def _unclear(found: _Sheet, where: str, first: int) -> Iterator[str]:
    below = [area for area in found.merged if area[0] > first]
    if below:
        yield (
            f"{where}: cells {some(_areas(below))} are merged, so that only the first of them "
            "holds the value; unmerge them, and fill it in where it belongs"
        )
    if found.uncomputed:
        yield (
            f"{where}: cells {some(found.uncomputed)} hold formulas without values, as a program "
            "has written them; open the file in a spreadsheet, and save it"
        )


def _areas(merged: Sequence[tuple[int, int, int, int]]) -> list[str]:
    return [
        f"{_letters(left)}{top}:{_letters(right)}{bottom}" for top, left, bottom, right in merged
    ]


def _cells(values: Sequence[Any], decimal: str) -> Cells:
    """A column: numbers where all values are, else texts."""
    given = [value for value in values if not _is_empty(value)]
    if given and all(_is_number(value) for value in given):
        numbers = [np.nan if _is_empty(one) else _float(one) for one in values]
        return encode_numbers(np.array(numbers), decimal)
    days = all(one.time() == time() for one in given if isinstance(one, datetime))
    plain = [one.date() if days and isinstance(one, datetime) else one for one in values]
    own = encode([_text(one, decimal) for one in plain])
    texts = all(isinstance(value, str) for value in given)
    return replace(own, is_text=texts and bool(given) and are_codes(own))


def _each(values: Sequence[Any], decimal: str) -> Cells:
    """A column of which every cell is read for itself: a day that has no time is one, whatever
    times others have, and a number the text that it has where others are words."""
    days = (isinstance(one, datetime) and one.time() == time() for one in values)
    plain = [one.date() if is_day else one for one, is_day in zip(values, days, strict=True)]
    return encode([_text(one, decimal) for one in plain])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, timedelta)) and not isinstance(value, bool)


def _float(value: Any) -> float:
    try:
        return value.total_seconds() if isinstance(value, timedelta) else float(value)
    except OverflowError:  # of more digits than numbers have
        return math.nan


def _text(value: Any, decimal: str) -> str:
    """A value as a cell of a table; dates as ISO 8601 has them."""
    if value is None:
        return ""
    if _is_number(value):
        return number_text(_float(value), decimal)
    return value.isoformat() if isinstance(value, (date, time)) else str(value)
