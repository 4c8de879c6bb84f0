"""What `fedlearn data check PATH` says about a table: what was understood, and what is wrong.

For the eyes of the table's owner: the report holds the different values of
every column. Ranges for scaling are deliberately not suggested from the data:
a range is what the field holds possible, and a minimum is somebody's value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedlearn.data import columns
from fedlearn.data.columns import Column
from fedlearn.data.table import (
    Separator,
    Table,
    duplicates,
    guess_separator,
    read_table,
    read_text,
    some_lines,
)
from fedlearn.errors import DataError

_LABEL = re.compile(
    r"label|outcome|target|class|y|diagnosis|disease|default|death|status", re.IGNORECASE
)
_SITE = re.compile(
    r".*(site|hospital|cent(er|re)|clinic|bank|branch|shop|store|firm|office|region|country).*",
    re.IGNORECASE,
)
_MAX_CLASSES = 10
_MAX_CATEGORIES = 50


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table as understood; `columns` is empty when the file could not be read.

    `labels` and `sites` are columns that could serve as such, likely ones
    first. `problems` keep the table, as it is, from being learned from.
    """

    path: Path
    records: int = 0
    separator: Separator = "comma"
    columns: tuple[Column, ...] = ()
    labels: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    duplicates: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()


def check(path: Path, *, encoding: str = "utf-8", separator: Separator | None = None) -> Report:
    """Inspects a table; problems are part of the report, with line numbers.

    The separator is guessed from the header when it is not given.

    Raises:
        ConfigError: Python knows no such encoding.

    """
    try:
        chosen = separator or guess_separator(read_text(path, encoding))
        table = read_table(path, separator=chosen, encoding=encoding)
    except DataError as error:
        return Report(path=path, problems=tuple(str(error).splitlines()))
    found = tuple(columns.describe(name, table.column(name)) for name in table.header)
    return Report(
        path=path,
        records=len(table.rows),
        separator=chosen,
        columns=found,
        labels=_labels(found),
        sites=_sites(found),
        duplicates=tuple(duplicates(table)),
        problems=tuple(_problems(table, found)),
    )


def _labels(found: tuple[Column, ...]) -> tuple[str, ...]:
    few = [c for c in found if 2 <= len(c.categories) <= _MAX_CLASSES and not c.identifier]
    return _likely_first(few, _LABEL)


def _sites(found: tuple[Column, ...]) -> tuple[str, ...]:
    several = [c for c in found if len(c.categories) >= 2 and c.kind == "categorical"]
    named = [c for c in found if _SITE.fullmatch(c.name) and len(c.categories) >= 2]
    few = [c for c in several if len(c.categories) <= _MAX_CATEGORIES and c not in named]
    return _likely_first([*named, *(c for c in few if not c.identifier)], _SITE)


def _likely_first(found: list[Column], pattern: re.Pattern[str]) -> tuple[str, ...]:
    ordered = sorted(found, key=lambda column: pattern.fullmatch(column.name) is None)
    return tuple(column.name for column in ordered)


def _problems(table: Table, found: tuple[Column, ...]) -> Iterator[str]:
    for column in found:
        if column.identifier:
            yield f"column {column.name!r}: {column.identifier}; drop it or allow it by name"
        elif column.not_numbers:
            lines = [table.lines[i] for i in column.not_numbers]
            yield f"column {column.name!r}: {some_lines(lines)}: not a number"
        elif column.kind == "empty":
            yield f"column {column.name!r}: holds nothing"
        elif column.kind == "categorical" and len(column.categories) > _MAX_CATEGORIES:
            yield (
                f"column {column.name!r}: {len(column.categories)} different values; "
                "text, or an identifier?"
            )
