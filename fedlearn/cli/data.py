"""`fedlearn data`: which sets are known, and what is in one's own, and wrong with it."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.cli.completion import data_names
from fedlearn.cli.form import command, takes
from fedlearn.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from fedlearn.data.check.report import Report


@command("data list", "data list")
def data_list(_: argparse.Namespace) -> None:
    """Known data sets."""
    from fedlearn.core import terminal
    from fedlearn.data import DATASETS
    from fedlearn.data.images.medmnist_sets import SETS

    table = terminal.texts("name", "records", "sites", "classes", "source", "licence")
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, data in DATASETS.items():
        sites = str(len(data.sites) or "any")
        counts = f"{data.records:,}", sites, str(len(data.classes) or "-")
        table.add_row(name, *counts, data.source, data.archive.licence)
    for name, known in SETS.items():
        counts = f"{sum(known.records):,}", "any", str(len(known.classes))
        table.add_row(name, *counts, "MedMNIST v2 (Zenodo)", known.file.licence)
    terminal.show(terminal.console(), table)


@command(
    "data fetch",
    "data fetch heart",
    takes("name", "one that `fedlearn data list` shows", "NAME", completed=data_names),
)
def data_fetch(options: argparse.Namespace) -> None:
    """Bring a known set into the cache."""
    from fedlearn.data.datasets import archives
    from fedlearn.data.images.medmnist_sets import SETS

    cache = archives.default_cache(os.environ)
    known = {**archives.ARCHIVES, **{name: one.file for name, one in SETS.items()}}
    if options.name not in known:
        raise ConfigError(f"{options.name}: must be one of {', '.join(known)}")
    print(archives.fetch(known[options.name], cache))


@command(
    "data check",
    "data check my.csv",
    takes(
        "path",
        "a table (CSV, Parquet), texts (CSV, JSONL, a folder that Hugging Face `datasets` "
        "saved), images (a folder for every class, or .npz)",
        "PATH",
        there=DataError,
    ),
)
def data_check(options: argparse.Namespace) -> int:
    """Look at one's own data: what is understood, and what is wrong, by line or file."""
    from fedlearn.core import terminal
    from fedlearn.data.check.files import check

    report = check(Path(options.path))
    _show(report, terminal.console())
    return 5 if report.problems else 0


def _show(report: Report, console: Console) -> None:
    """Print what was found."""
    from rich.markup import escape

    from fedlearn.data.tables.table import some_lines

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
        file = escape(_shell_word(str(report.path)))
        console.print(f"or, as a file to read: fedlearn new my-study --data {file}", soft_wrap=True)


def _shell_word(word: str) -> str:
    """As a shell takes it; a word that holds single quotes is easier to read in double ones."""
    double = "'" in word and not set(word) & set('"$`\\!')
    return f'"{word}"' if double else shlex.quote(word)


_SPAN = "smallest, median, largest"


def _show_columns(report: Report, console: Console) -> None:
    from rich.markup import escape

    from fedlearn.core import terminal

    table = terminal.texts("column", "kind", "missing", "different values", _SPAN, "looks like")
    for column in report.columns:
        table.add_row(
            escape(column.name),
            "text" if column.name in report.texts else column.kind,
            str(column.missing),
            f"{column.distinct:,}",
            ", ".join(f"{one:.6g}" for one in column.span) if column.span else "",
            escape(column.identifier),
        )
    terminal.show(console, table)
    roles = {"text": report.texts} if report.texts else {}
    roles |= {"label": report.labels, "site": report.sites}
    for role, names in roles.items():
        console.print(f"could be the {role}: {escape(', '.join(names)) or 'no column'}")
