"""Numbers as people write them: `45%`, `1,002`, `<0.5`, `70 kg`, and what each of them stands for.

Which way a column is written its owner says (`scenario.written`), for the same text may be two
numbers: `1.500` is one and a half or fifteen hundred. Each cell is read by itself.

Source: half of the limit for a value below it, Hornung and Reed 1990, "Estimation of average
concentration in the presence of nondetectable values"; the limit for one above.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from functools import cache, partial
from typing import Final

import numpy as np

from fedlearn.data.tables.cells import Cells, as_arrow, encode, parse
from fedlearn.data.tables.measured import in_unit, split, unit_of
from fedlearn.data.tables.table import Table
from fedlearn.data.tables.units import canonical

Way = str
"""How the numbers of a column are written.

`percent`: with a percent sign, 45% is 0.45. `thousands`: with a sign between thousands, 1,002 is
1002, where a comma is not the decimal sign. `limits`: some as a limit of what is measured; below
0.5 (`<0.5`) is half of it, 0.25, and above 200 (`>200`) is 200. `in UNIT`, or `in UNIT of
SUBSTANCE` as `fedlearn.data.tables.units` knows these: with a unit in every cell, which is that one
or converts into it.
"""

WAYS: Final[tuple[Way, ...]] = ("percent", "thousands", "limits")
_IN: Final = "in "

_MOSTLY: Final = 0.9
_LEAST: Final = 3
"""Different numbers that a column has for its way to be told."""
_LOOKED_AT: Final = 1000
"""Different texts that are looked at."""
_GROUPS: Final = ".,'\u2019 \u00a0\u2009\u202f_"


def written_numbers(table: Table, ways: Mapping[str, Way], decimal: str) -> Table:
    """The table with plain numbers in the columns that are written in some way.

    What is not written so stays as it is, and is no number where it was none.
    """
    there = {name: way for name, way in ways.items() if name in table.header}
    plain = {name: _plain(table.cells(name), way, decimal) for name, way in there.items()}
    return table.with_columns(plain) if plain else table


def _plain(cells: Cells, way: Way, decimal: str) -> Cells:
    if cells.are_numbers:
        return cells
    return encode([number_of(text, way, decimal) or text for text in cells.texts()], cells.codes)


def number_of(text: str, way: Way, decimal: str = ".") -> str | None:
    """The number in a text that is written in some way, as a plain text with the sign `decimal`;
    None where it is not written so. Under `thousands` and `limits` a plain number is one as well.
    """
    if way.startswith(_IN):
        return in_unit(text, way.removeprefix(_IN), decimal, partial(_measured, decimal=decimal))
    found = _pattern(way, decimal).fullmatch(text)
    if found is None:
        return None
    parts = found.groupdict()
    whole = re.sub(f"[{_GROUPS}]", "", parts["whole"])
    minus = "-" if parts["sign"] in ("-", "\u2212") else ""
    fraction = f".{parts['fraction']}" if parts["fraction"] else ""
    value = Decimal(f"{minus}{whole or 0}{fraction}")
    if way == "percent":
        value = value.scaleb(-2)
    elif parts.get("below") and value > 0:
        value /= 2
    return f"{value:f}".replace(".", decimal)


def _measured(text: str, decimal: str) -> str | None:
    """A number beside a unit, which may have thousands, or be a limit."""
    return number_of(text, "thousands", decimal) or number_of(text, "limits", decimal)


def way_problem(way: Way) -> str:
    """What is wrong with a way to write numbers; empty for none."""
    if way in WAYS or (way.startswith(_IN) and way.removeprefix(_IN).strip()):
        return ""
    return f"{way!r} is none of {', '.join(WAYS)}, or 'in UNIT' (as 'in kg')"


@cache
def _pattern(way: Way, decimal: str) -> re.Pattern[str]:
    mark, groups = re.escape(decimal), re.escape(_GROUPS.replace(decimal, ""))
    whole, before, after = r"(?P<whole>[0-9]*)", "", ""
    if way == "thousands":  # one sign throughout; in twos but for the last, as in India
        inside = rf"(?P<group>[{groups}])(?:[0-9]{{2,3}}(?P=group))*[0-9]{{3}}"
        whole = rf"(?P<whole>[1-9][0-9]{{0,2}}{inside}|[0-9]*)"
    elif way == "limits":
        before = r"(?:(?P<below>[<\u2264\uff1c]=?)|[>\u2265\uff1e]=?)?\s*"
    else:
        after = r"\s*[%\uff05\u066a]"
    some = rf"(?=[-+\u2212]?{mark}?[0-9])"
    number = rf"{some}(?P<sign>[-+\u2212]?){whole}(?:{mark}(?P<fraction>[0-9]*))?"
    return re.compile(before + number + after)


def way_of(cells: Cells, missing: Collection[str], decimal: str) -> Way | None:
    """In which way a column is written; None for plain numbers, and for what are none."""
    given = ~cells.among(missing) & (cells.counts > 0)
    if cells.are_numbers or not (given & np.isnan(cells.numbers(decimal))).any():
        return None
    texts = cells.texts(given)[:_LOOKED_AT]
    odd = [text for text in texts if not np.isfinite(parse(as_arrow([text]), decimal)[0])]
    for way in WAYS:
        fit = [text for text in texts if number_of(text, way, decimal)]
        enough = len(fit) >= max(_LEAST, _MOSTLY * len(texts))
        if enough and any(number_of(text, way, decimal) for text in odd):
            return way
    found = unit_of(texts, cells.counts[given][:_LOOKED_AT].tolist())
    way = f"{_IN}{found}"
    fit = [text for text in texts if found and number_of(text, way, decimal)]
    return way if len(fit) >= max(_LEAST, _MOSTLY * len(texts)) else None


def example_of(cells: Cells, way: Way, decimal: str) -> str:
    """A cell that is no plain number, and what it is read as; of units one each."""
    found: dict[str, str] = {}
    for text in cells.texts(cells.counts > 0):
        number = number_of(text, way, decimal)
        if number is not None and np.isnan(parse(as_arrow([text]), decimal)[0]):
            unit = split(text)[1] if way.startswith(_IN) else ""
            found.setdefault(canonical(unit), f"{text} is read as {number}")
    return "; ".join(found.values())


def may_be_either(cells: Cells, missing: Collection[str], sign: str) -> bool:
    """Whether all numbers with that sign may be thousands as well, as 1,002 and 250,000 may."""
    texts = cells.texts(~cells.among(missing) & (cells.counts > 0))
    bare = [split(text)[0] or text for text in texts]
    signed, other = [text for text in bare if sign in text], "," if sign == "." else "."
    return bool(signed) and all(number_of(text, "thousands", other) for text in signed)
