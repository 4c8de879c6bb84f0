"""What keeps columns of a table from being learned from, in sentences with the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from fedlearn.data.tables import columns, guess, identifiers
from fedlearn.data.tables.cells import Cells
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.measured import several_units
from fedlearn.data.tables.table import Table

MAX_CATEGORIES: Final = 50
"""Different values that categories may have."""
_UNIT: Final = re.compile(r"[-+]?[0-9]+([.,][0-9]+)? ?[^\W\d_][^\d]{0,11}")


def has_many_values(column: Column) -> bool:
    """Whether a column has more values than categories have."""
    return column.kind == "categorical" and column.distinct > MAX_CATEGORIES


def odd_numbers(cells: Cells) -> str:
    """What kind of numbers most cells hold, that are not read as such; empty for none."""
    if identifiers.groups_thousands(cells):
        return "a sign between thousands"
    if columns.has_commas(cells):
        return "a comma"
    fits = [_UNIT.fullmatch(text) is not None for text in cells.texts()]
    return "a unit" if int(cells.counts[fits].sum()) > len(cells) / 2 else ""


def several_units_of(column: Column) -> str:
    """The units of a column that has several which are not one."""
    return several_units(column.categories) if column.kind == "categorical" else ""


_REMEDIES: Final = {
    "a sign between thousands": "; write them without",
    "a comma": ", where other columns have a point; write all in one way",
    "a unit": "; name the one that all have (scenario.written.NAME='in UNIT'), or leave it out",
}


def problems(
    table: Table,
    found: Sequence[Column],
    looked_at: Callable[[Column], bool],
    may_be_bucketed: Callable[[Column], bool],
) -> Iterator[str]:
    """Columns that cannot be learned from as they are, and what can be done about each."""
    for column in filter(looked_at, found):
        where, cells = f"column {column.name!r}", table.cells(column.name)
        if several := several_units_of(column):
            yield (
                f"{where}: numbers in units that do not convert into one another: {several}; say "
                f"of what they are ({guess.key_of('scenario.written', column.name)}='in UNIT of "
                "SUBSTANCE'), or write all in one unit; sites that differ each say theirs "
                "(scenario.units)"
            )
        elif column.identifier:
            yield f"{where}: {column.identifier}; {identifiers.remedy(column.identifier)}"
        elif column.not_numbers:
            yield f"{where}: {table.places(column.not_numbers)}: not a number"
        elif column.kind == "empty":
            yield f"{where}: holds nothing"
        elif not has_many_values(column) or may_be_bucketed(column):
            continue
        elif odd := odd_numbers(cells):
            yield f"{where}: numbers with {odd}, as in {column.categories[0]}{_REMEDIES[odd]}"
        else:
            yield f"{where}: {column.distinct} different values; text, or an identifier?"
