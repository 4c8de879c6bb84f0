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
from fedlearn.data.parquet import is_parquet, read_parquet
from fedlearn.data.table import (
    Separator,
    Table,
    duplicates,
    guess_separator,
    read_table,
    read_text,
)
from fedlearn.errors import DataError

_LABEL = re.compile(
    r"label|outcome|target|class|y|diagnosis|disease|default|death|status", re.IGNORECASE
)
_SITE = re.compile(
    r".*(site|hospital|cent(er|re)|clinic|bank|branch|shop|store|firm|office|region|country).*",
    re.IGNORECASE,
)
_POSTCODE = re.compile(r"zip([ _-]?code)?|post(al)?[ _-]?code|plz", re.IGNORECASE)
_AGE = re.compile(r"age|age[ _-]?(in[ _-]?)?years", re.IGNORECASE)
_MAX_CLASSES = 10
_MAX_CATEGORIES = 50


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table as understood; `columns` is empty when the file could not be read.

    `labels` and `sites` are columns that could serve as such, likely ones
    first. `problems` keep the table, as it is, from being learned from; `hints` are
    columns that narrow people down and could be made less telling.
    """

    path: Path
    records: int = 0
    separator: Separator | None = None
    columns: tuple[Column, ...] = ()
    labels: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    duplicates: tuple[int, ...] = ()
    counted: str = "line"
    hints: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def check(path: Path, *, encoding: str = "utf-8", separator: Separator | None = None) -> Report:
    """Inspects a table; problems are part of the report, with line numbers.

    The separator is guessed from the header when it is not given.

    Raises:
        ConfigError: Python knows no such encoding.

    """
    try:
        chosen, table = _read(path, encoding, separator)
    except DataError as error:
        return Report(path=path, problems=tuple(str(error).splitlines()))
    found = tuple(columns.describe(name, table.column(name)) for name in table.header)
    return Report(
        path=path,
        records=len(table.rows),
        separator=chosen,
        counted=table.counted,
        columns=found,
        labels=_labels(found),
        sites=_sites(found),
        duplicates=tuple(table.lines[i] for i in duplicates(table)),
        hints=tuple(_hints(found)),
        problems=tuple(_problems(table, found)),
    )


def _read(path: Path, encoding: str, separator: Separator | None) -> tuple[Separator | None, Table]:
    """The table, and what separates its cells; None where it is no text."""
    if is_parquet(path):
        return None, read_parquet(path)
    chosen = separator or guess_separator(read_text(path, encoding))
    return chosen, read_table(path, separator=chosen, encoding=encoding)


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


def _hints(found: tuple[Column, ...]) -> Iterator[str]:
    for column in found:
        if _POSTCODE.fullmatch(column.name):
            yield (
                f"column {column.name!r}: a postcode narrows people down to a few; keep its "
                f"start (scenario.deidentify.prefixes={{{column.name}: 3}})"
            )
        elif column.kind == "numeric" and _AGE.fullmatch(column.name):
            yield (
                f"column {column.name!r}: great ages are rare; bands tell less "
                f"(scenario.deidentify.bands={{{column.name}: 10}})"
            )


def _problems(table: Table, found: tuple[Column, ...]) -> Iterator[str]:
    for column in found:
        if column.identifier:
            remedy = columns.remedy(column.identifier)
            yield f"column {column.name!r}: {column.identifier}; {remedy}"
        elif column.not_numbers:
            yield f"column {column.name!r}: {table.places(column.not_numbers)}: not a number"
        elif column.kind == "empty":
            yield f"column {column.name!r}: holds nothing"
        elif column.kind == "categorical" and len(column.categories) > _MAX_CATEGORIES:
            yield (
                f"column {column.name!r}: {len(column.categories)} different values; "
                "text, or an identifier?"
            )
