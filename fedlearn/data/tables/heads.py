"""How a table in text begins: with remarks, with a header, or with its first record already.

A record that is taken for a header becomes the names of columns, which everybody in a study is
told. So a first line that looks like the others is refused until its owner says what it is.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.tables.cells import Cells, as_arrow, parse
from fedlearn.data.tables.table import SEPARATORS, Separator, Table

Header = Literal["look", "first", "units"]
"""Whether the first line is looked at before it is taken for the names, or is them for sure, with
a row of units below it or without one."""

_LINE: Final = re.compile(r"[\r\n]*([^\r\n]*)")
_DIRECTIVE: Final = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_MARKED: Final = re.compile(rf"#|{_DIRECTIVE.pattern}$", re.IGNORECASE)
_MOSTLY: Final = 0.9
_MEASURED: Final = re.compile(r"[<>=\u2264\u2265\s]*[-+\u2212]?[0-9][0-9.,'\u2019\s]*[%\uff05]?")
_FEW: Final = 3
_LOOKED_AT: Final = 60
"""Lines that are looked at for the separator."""
_GAPS: Final = ("", "na", "n/a", "nan", "null", "none", "?", "-", ".")


def without_remarks(text: str, separator: str) -> str:
    """The text with blank lines in the place of what stands above its header.

    That is `sep=;`, as spreadsheets write it, and lines that begin with `#` and have fewer
    cells than the first line that does not.
    """
    at, above = 0, list[tuple[str, int]]()
    while (line := _line_at(text, at))[0] and _MARKED.match(line[0]):
        above.append(line)
        at = line[1]
    wide = _cells_in(line[0], separator)
    ends = [
        end
        for line, end in above
        if _DIRECTIVE.fullmatch(line) or _cells_in(line, separator) < wide
    ]
    at = max(ends, default=0)
    return re.sub(r"[^\r\n]", "", text[:at]) + text[at:] if at else text


def _line_at(text: str, at: int) -> tuple[str, int]:
    """The first line that is not blank from there, and where it ends."""
    found = _LINE.match(text, at)
    return (found[1], found.end()) if found else ("", at)


def _cells_in(line: str, separator: str) -> int:
    return len(next(csv.reader([line], delimiter=separator, skipinitialspace=True), ()))


def guess_separator(text: str) -> Separator:
    """That which a first line `sep=;` names, or which the header has; or comma.

    Where it has several, that into which most lines have as many cells as the header, and a comma
    last of equals: where there is no header, it may well be the decimal sign.
    """
    first = _DIRECTIVE.fullmatch(_line_at(text, 0)[0])
    if first is not None and first[1] in SEPARATORS:
        return SEPARATORS[first[1]]
    heads = {one: _first_lines(without_remarks(text, one)) for one in SEPARATORS}
    cells = {one: _cells_in(lines[0], one) if lines else 0 for one, lines in heads.items()}

    def fit(separator: str) -> tuple[int, bool, int]:
        wide = cells[separator]
        alike = sum(_cells_in(line, separator) == wide for line in heads[separator])
        return alike, separator != ",", wide

    several = [one for one, wide in cells.items() if wide > 1]
    return SEPARATORS[max(several, key=fit, default=",")]


def _first_lines(text: str) -> list[str]:
    lines, at = list[str](), 0
    while len(lines) < _LOOKED_AT and (line := _line_at(text, at))[0]:
        lines.append(line[0])
        at = line[1]
    return lines


def line_of(names: Sequence[str], separator: str) -> str:
    """A header of these names, as a line."""
    line = io.StringIO()
    csv.writer(line, delimiter=separator, lineterminator="\n").writerow(names)
    return line.getvalue()


def is_record(table: Table) -> bool:
    """Whether the header looks like one more record.

    It does where it has numbers over columns of numbers, or categories of the columns below, and
    hardly anything that these do not hold. Numbers that go up in order are names: years,
    wavelengths, places.
    """
    alike, unlike, inside = 0, 0, list[bool]()
    values = list[tuple[int, float]]()
    for place, (name, cells) in enumerate(zip(table.header, table.columns, strict=True)):
        held = _numbers(cells)
        if name.casefold() in _GAPS or not cells.counts.any():
            continue
        if held is None:
            known = cells.texts(cells.counts > 0)
            alike += name in known
            unlike += name not in known and len(known) <= len(table) / 2
        elif np.isnan(value := _number(name)):
            if not _is_written_as(name, cells):
                return False
            alike += 1
        else:
            values.append((place, value))
            inside.append(_is_near(value, held))
    if not _in_order(values):
        alike, unlike = alike + inside.count(True), unlike + inside.count(False)
    return alike > unlike


def _is_written_as(name: str, cells: Cells) -> bool:
    """Whether a name is written as those cells are that are no numbers, digits and letters alike:
    an identity number may end in a letter."""
    odd = np.isnan(cells.numbers(".")) & (cells.counts > 0)
    form = _form(name)
    return "0" in form and any(_form(text) == form for text in cells.texts(odd))


def _form(text: str) -> str:
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "0", text))


def _number(text: str) -> float:
    """The number in a text, whatever its decimal sign; NaN where there is none."""
    return next((float(n) for sign in ".," if np.isfinite(n := parse(as_arrow([text]), sign)[0])),
                np.nan)  # fmt: skip


def _numbers(cells: Cells) -> NDArray[np.float64] | None:
    """The numbers of a column that is mostly numbers, else None."""
    for sign in ".,":
        numbers = cells.numbers(sign)
        found = np.isfinite(numbers) & (cells.counts > 0)
        texts = cells.texts()
        given = cells.counts[[text.casefold() not in _GAPS for text in texts]].sum()
        if cells.counts[found].sum() >= _MOSTLY * max(given, 1):
            return np.asarray(numbers[found])
    return None


def _is_near(value: float, others: NDArray[np.float64]) -> bool:
    low, high = others.min(), others.max()
    return bool(low - (high - low) <= value <= high + (high - low))


def _in_order(values: Sequence[tuple[int, float]]) -> bool:
    """Whether numbers over columns go up with them, or count their places."""
    places, numbers = np.array(values).reshape(-1, 2).T
    rising = len(numbers) > _FEW and bool((np.diff(numbers) > 0).all())
    return rising or len({*(numbers - places).tolist()}) == 1 <= len(numbers) - 1


def header_problem(path: Path, table: Table) -> list[str]:
    """The sentence that refuses a header which is none."""
    if not is_record(table):
        return []
    names = ",".join(f"c{place}" for place in range(1, len(table.header) + 1))
    return [
        f"{path}: the first line looks like a record and not like a header, which names the "
        f"columns. Give them names (scenario.names=[{names}]), or say that it is the header "
        "(scenario.header=first)"
    ]


def holds_units(table: Table) -> bool:
    """Whether the first row has units, as `mg/dl`, and the rows below it have records.

    It has no number where numbers stand below, a word in one such column at least, and in
    other columns nothing, or what stands in no row below.
    """
    if len(table) <= _FEW:
        return False
    rest, units = np.arange(1, len(table)), 0
    for cells in table.columns:
        first, below = cells.texts()[cells.codes[0]], cells.take(rest)
        empty = first.casefold() in _GAPS
        if not _measures(below):
            if not empty and first in below.texts(below.counts > 0):
                return False
        elif not empty:
            if _MEASURED.fullmatch(first) or first in below.texts(below.counts > 0):
                return False
            units += 1
    return units > 0


def _measures(cells: Cells) -> bool:
    """Whether a column is mostly of numbers, however these are written."""
    texts = [text for text in cells.texts(cells.counts > 0) if text.casefold() not in _GAPS]
    fits = sum(_MEASURED.fullmatch(text) is not None for text in texts)
    return 0 < _MOSTLY * len(texts) <= fits


def units_problem(path: Path, table: Table) -> list[str]:
    """The sentence that refuses a row of units among the records."""
    if not holds_units(table):
        return []
    return [
        f"{path}: {table.places([0])}: looks like units and not like a record; say so, and it is "
        "passed over (scenario.header=units), or delete it"
    ]
