"""What `fedlearn data` says in a terminal: which sets are known, and what is in one's own."""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.markup import escape

from fedlearn.core import terminal
from fedlearn.data import DATASETS
from fedlearn.data.check.report import Report
from fedlearn.data.images.medmnist_sets import SETS
from fedlearn.data.tables.table import some_lines


def show_list(console: Console) -> None:
    """Print the data sets that scenarios fetch by themselves."""
    table = terminal.texts("name", "records", "sites", "classes", "source", "licence")
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, data in DATASETS.items():
        sites = str(len(data.sites) or "any")
        counts = f"{data.records:,}", sites, str(len(data.classes))
        table.add_row(name, *counts, data.source, data.archive.licence)
    for name, known in SETS.items():
        counts = f"{sum(known.records):,}", "any", str(len(known.classes))
        table.add_row(name, *counts, "MedMNIST v2 (Zenodo)", known.file.licence)
    terminal.show(console, table)


def show_check(report: Report, console: Console) -> None:
    """Print what `fedlearn data check` found."""
    if report.kind:
        by = f", separated by {report.separator}" if report.separator else ""
        where = f"[bold]{escape(str(report.path))}[/]"
        console.print(f"{where}: {report.kind}, {report.records:,} records{by}", soft_wrap=True)
    for fact in report.facts:
        console.print(escape(fact))
    if report.columns:
        _show_columns(report, console)
    if report.duplicates:
        copies = some_lines(report.duplicates, report.counted)
        console.print(f"{copies}: copies of an earlier record")
    for hint in report.hints:
        console.print(f"[yellow]hint:[/] {escape(hint)}")
    for problem in report.problems:
        console.print(f"[red]problem:[/] {escape(problem)}")
    if report.settings:
        words = " ".join(map(_shell_word, report.settings))
        console.print(f"try: fedlearn simulate {escape(words)}", soft_wrap=True)


def _shell_word(word: str) -> str:
    """As a shell takes it; a word that holds single quotes is easier to read in double ones."""
    double = "'" in word and not set(word) & set('"$`\\!')
    return f'"{word}"' if double else shlex.quote(word)


def _show_columns(report: Report, console: Console) -> None:
    table = terminal.texts("column", "kind", "missing", "different values", "looks like")
    for column in report.columns:
        table.add_row(
            escape(column.name),
            "text" if column.name in report.texts else column.kind,
            str(column.missing),
            f"{column.distinct:,}",
            escape(column.identifier),
        )
    terminal.show(console, table)
    roles = {"text": report.texts} if report.texts else {}
    roles |= {"label": report.labels, "site": report.sites}
    for role, names in roles.items():
        console.print(f"could be the {role}: {escape(', '.join(names)) or 'no column'}")
