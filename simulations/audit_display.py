"""What an audit has found, in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedlearn.audit.findings import Findings
from server.report.measured import Row, measured


def show_findings(found: Findings, console: Console) -> None:
    """Bounds beside their ceilings, attacks beside theirs, and the verdict."""
    shown = measured(found)
    if shown is None:
        return
    if shown.bounds:
        console.print(shown.about, soft_wrap=True)
        console.print(_table(("an attacker who sees", *shown.columns), shown.bounds))
    if shown.attacks:
        console.print(shown.attacks_about, soft_wrap=True)
        columns = ("attack", "AUC", "found at 1% false alarms", "at .1%")
        console.print(_table(columns, shown.attacks))
    for note in shown.notes:
        console.print(escape(note), soft_wrap=True)
    style = "bold red" if shown.broken else "bold"
    console.print(f"[{style}]{escape(shown.verdict)}[/]", soft_wrap=True)


def _table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(escape(row.name), *row.cells)
    return table
