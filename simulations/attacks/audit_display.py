"""What an audit has found, in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedlearn.auditing.findings import Findings
from fedlearn.core import terminal
from fedlearn.report.measured import MeasuredPrivacy, Row


def show_findings(found: Findings, console: Console) -> None:
    """Bounds beside their ceilings, attacks beside theirs, and the verdict."""
    shown = MeasuredPrivacy(found=found)
    if shown.bounds:
        console.print(shown.texts["about"])
        terminal.show(console, _table(("an attacker who sees", *shown.columns), shown.bounds))
    if shown.attacks:
        console.print(shown.texts["attacks"])
        columns = ("attack", "AUC", "found at 1% false alarms", "at .1%")
        terminal.show(console, _table(columns, shown.attacks))
    for note in found.notes:
        console.print(escape(note))
    style = "bold red" if shown.broken else "bold"
    console.print(f"[{style}]{escape(shown.texts['verdict'])}[/]")


def _table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    table = terminal.numbers(*columns)
    for row in rows:
        table.add_row(escape(row[0]), *row[1:])
    return table
