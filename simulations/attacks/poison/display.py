"""What an audit by lying sites looks like in a terminal: a table."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from fedlearn.core import terminal
from fedlearn.report.poison import COLUMNS, HONEST, Level, Poison, cells, meaning

_STYLES: dict[Level, str] = {"held": "", "hurt": "yellow", "lost": "bold red"}


def table(found: Poison) -> Table:
    """One line for every attack against every rule."""
    shown = terminal.numbers("rule", "attack", *COLUMNS, title=escape(meaning(found)))
    shown.columns[1].justify = "left"
    for row in found.rows:
        style = _STYLES[row.level] if row.attack != HONEST else "dim"
        last = row.attack == found.rows[-1].attack
        name = row.rule if row.attack == HONEST else ""
        shown.add_row(
            escape(name),
            escape(found.called(row)),
            *cells(found, row),
            style=style,
            end_section=last,
        )
    return shown
