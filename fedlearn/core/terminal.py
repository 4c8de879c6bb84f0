"""What is printed for people and for pipes: consoles that lose nothing, tables that are never cut.

At a terminal lines are wrapped to its width. In a pipe or a file each is whole, for the
programs that read it, unless COLUMNS says how wide it should be.
"""

from __future__ import annotations

import os
from typing import Final, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

_WHOLE: Final = 10_000
"""Columns where no line is wrapped."""
_NAME: Final = 5
"""Columns that a name has at the least before it goes on below."""


def console(file: TextIO | None = None) -> Console:
    """A console on `file`, or else on standard output."""
    made = Console(file=file, highlight=False)
    if made.is_terminal or "COLUMNS" in os.environ:
        return made
    return Console(file=file, highlight=False, width=_WHOLE)


def texts(*columns: str, title: str = "") -> Table:
    """A table whose cells are words; what is too long for a column goes on below.

    `title` and the cells of such a table may hold markup: escape what comes from outside.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_style="",
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    return table


def numbers(*columns: str, title: str = "") -> Table:
    """A table of numbers beside names; where it is narrow, the names in the first column give way.

    Numbers are never broken: a table that has too many for the terminal is wider than that.
    """
    table = texts(*columns, title=title)
    table.columns[0].min_width = _NAME
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    return table


def show(console: Console, table: Table) -> None:
    """Print a table; `console.print` would cut off what is wider than the terminal."""
    least = sum(_least(console, column) + 2 for column in table.columns)
    if least > console.width:
        table.width = least
    console.print(table, crop=False)


def _least(console: Console, column: Column) -> int:
    """How narrow a column may become."""
    if not column.no_wrap:
        return column.min_width or 1
    cells = (column.header, *column.cells)
    return max(console.measure(cell).maximum for cell in cells)
