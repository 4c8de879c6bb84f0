"""What an audit of repeated secrets looks like in a terminal: a table a run."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from fedlearn.core import terminal
from fedlearn.report.exposure_page import ExposurePage

_RARE = 0.05
"""A chance below it is shown in another colour."""


def tables(page: ExposurePage) -> Iterator[Table]:
    """A line for every number of repetitions."""
    for run in page.found.runs:
        shown = terminal.numbers(*page.columns, title=escape(run.called))
        for one, row in zip(run.repeated, page.rows(run), strict=True):
            repeats = one.repetitions and one.first.chance < _RARE
            shown.add_row(*row, style="yellow" if repeats else "")
        yield shown
