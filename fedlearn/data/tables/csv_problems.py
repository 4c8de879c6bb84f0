"""What keeps a table from being learned from, in sentences with lines and the way out.

The scenario is `fedlearn.data.tables.csv`; here nothing is changed and nothing is raised but
the config's own contradictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.data.tables import columns, deidentify, identifiers
from fedlearn.data.tables.buckets import USUAL
from fedlearn.data.tables.by_time import time_problems
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.guess import missing_of
from fedlearn.data.tables.scaling import Ranges, reads_records
from fedlearn.data.tables.table import Table
from fedlearn.data.tables.translation import Translation
from fedlearn.tasks import LabelColumn, TaskConfig

if TYPE_CHECKING:
    from fedlearn.data.tables.cells import Cells
    from fedlearn.data.tables.csv import Csv

ROLES: Final = ("label", "event", "site", "part", "person", "record", "time")
"""Settings that name a column which is no feature."""


def settings_problems(config: Csv) -> Iterator[str]:
    """What is wrong with the config by itself, as `dotted.path: reason` lines."""
    if config.record and not config.time:
        yield "scenario.time: name the column that the rows of a scenario.record are ordered by"
    if config.time and not config.record and config.split != "time":
        yield (
            "scenario.record: name the column that says whose a row is, or drop scenario.time; "
            "scenario.split=time takes the latest rows for the test"
        )
    yield from time_problems(config)
    if config.part and (config.record or config.person):
        yield (
            "scenario.part: what is one person's, or one record over time, is never in both parts, "
            "so its part is drawn; leave scenario.part out, and drop its column"
        )
    if config.names and config.header == "units":
        yield "scenario.header=units: a table with scenario.names has no header; leave one out"
    if config.record and reads_records(config.scaling):
        yield (
            f"scenario.scaling.kind={config.scaling.kind}: is for one row a record; choose ranges, "
            "or leave scenario.record out"
        )


def check_names(config: Csv, table: Table, group_by: str) -> None:
    """Raises `ConfigError` with every setting that names a column which is not there."""
    single = {role: getattr(config, role) for role in ROLES}
    roles = {role: [name] if name else [] for role, name in single.items()}
    lists = {"drop": config.drop, "numeric": config.numeric, "categories": config.categories}
    lists |= {"buckets": config.buckets}
    lists |= {"labels": () if config.label in table.header else config.labels}
    lists |= {"allow_identifiers": config.allow_identifiers, "gaps": config.gaps or ()}
    lists |= {f"deidentify.{way}": names for way, names in config.deidentify.ways.items()}
    problems = [
        f"scenario.{setting}: no column {name!r} in {config.path}; "
        f"there are {', '.join(table.header)}"
        for setting, names in (roles | lists).items()
        for name in names
        if name not in table.header
    ]
    there = ", ".join(table.header)
    problems += [
        f"scenario.{setting}: no column {name!r} in {config.path}; there are {there}"
        for setting, name in translation(config).absent(table.header)
    ]
    if group_by and group_by not in table.header:
        problems.append(f"fairness.column={group_by}: no such column; there are {there}")
    if config.label in (config.site, config.event, *config.drop):
        problems.append(
            f"scenario.label={config.label}: is another role's column, or dropped, as well"
        )
    problems += [
        f"scenario.{role}={single[role]}: is another role's column as well"
        for role in ("event", "part", "person", "record", "time")
        if single[role] and list(single.values()).count(single[role]) > 1
    ]
    problems += [
        f"scenario.{one}: {name!r} is in scenario.{other} as well"
        for one, other in (
            ("numeric", "categories"),
            ("numeric", "buckets"),
            ("categories", "buckets"),
        )
        for name in getattr(config, one)
        if name in getattr(config, other)
    ]
    problems += [
        f"scenario.buckets: {name!r} is in scenario.deidentify.hash as well, whose values mean "
        "nothing at another site"
        for name in config.buckets
        if name in config.deidentify.hash
    ]
    problems += deidentify.problems(config.deidentify)
    if not problems and not feature_names(config, table):
        problems.append("scenario.drop: leaves no column to learn from")
    refuse(problems, ConfigError)


def check_events(config: Csv, task: TaskConfig) -> None:
    """Raises `ConfigError` where a column of events is named and not asked for, or the reverse."""
    if task.learns.has_events and not config.event:
        raise ConfigError(
            f"scenario.event: task={task.kind} asks for the column that says whether an event "
            f"ended the time in {config.label!r}: 1, or 0 where the record was lost before"
        )
    if config.event and not task.learns.has_events:
        raise ConfigError(
            f"scenario.event={config.event}: task={task.kind} looks at no events; choose "
            "task=survival, or name the column in scenario.drop"
        )


def parts(config: Csv, table: Table) -> tuple[NDArray[np.int64], NDArray[np.bool_], list[str]]:
    """The rows that `config.part` puts into a part, which are to train on, and a note on others.

    Nothing but its own cell decides about a row.
    """
    cells = table.cells(config.part)
    written = np.array([text.strip().casefold() for text in cells.texts()])[cells.codes]
    used = np.isin(written, ("train", "test"))
    others = np.flatnonzero(~used)
    note = (
        f"{config.path}: {table.places(others)}: neither train nor test in {config.part!r}, unused"
    )
    return np.flatnonzero(used), written[used] == "train", [note] if others.size else []


def translation(config: Csv) -> Translation:
    """How the file is written otherwise than in the words of the config."""
    return Translation(
        rename=config.rename, map=config.map, units=config.units, written=config.written
    )


def feature_names(config: Csv, table: Table) -> list[str]:
    """The columns that are learned from, in the order of the table."""
    aside = {*(getattr(config, role) for role in ROLES), *config.drop}
    return [name for name in table.header if name not in aside]


_EVENTS: Final = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def yes_or_no(cells: Cells, decimal: str, missing: Sequence[str]) -> NDArray[np.float64]:
    """Of every value: 1 for yes, as of an event, 0 for no, NaN where it says neither."""
    numbers = cells.numbers(decimal)
    found = np.where((numbers == 0) | (numbers == 1), numbers, np.nan)
    for code, text in enumerate(cells.texts()):
        if text not in missing:
            found[code] = _EVENTS.get(text.strip().casefold(), found[code])
    return found


def label_column(config: Csv, table: Table, rows: Sequence[int] | None = None) -> LabelColumn:
    """The labels of all rows, or of records that begin in `rows`, for the task to read."""
    cells, rest = table.cells(config.label), slice(None) if rows is None else rows
    texts = cells.texts()
    events = table.cells(config.event) if config.event else None

    def places(some: Sequence[int]) -> str:
        if rows is None:
            return table.places(some)
        return f"the rows from {table.places([rows[i] for i in some])} on"

    return LabelColumn(
        where=f"{config.path}: label {config.label!r}",
        cells=[texts[code] for code in cells.codes[rest].tolist()],
        values=columns.sort_values(
            {texts[code] for code in {*cells.codes.tolist()}}, config.decimal
        ),
        numbers=lambda: cells.numbers(config.decimal)[cells.codes[rest]],
        events=None
        if events is None
        else lambda: yes_or_no(events, config.decimal, config.missing)[events.codes[rest]],
        places=places,
        classes=config.classes,
        most=config.max_categories,
        most_key="scenario.max_categories",
    )


def site_problems(config: Csv, table: Table) -> Iterator[str]:
    """Records without a site."""
    if not config.site:
        return
    sites = table.cells(config.site)
    absent = sites.rows(sites.among(config.missing))
    if absent.size:
        yield (
            f"{config.path}: {table.places(absent)}: no site in column {config.site!r}; "
            "fill it in or leave the records out"
        )


def identifier_problems(config: Csv, features: list[Column]) -> Iterator[str]:
    """Columns that identify people."""
    for column in features:
        if column.identifier:
            yield (
                f"{config.path}: column {column.name!r}: {column.identifier}, which can identify "
                f"people; {identifiers.remedy(column.identifier)}, or name it in "
                "scenario.allow_identifiers if it must be learned from as it is"
            )


def feature_problems(config: Csv, table: Table, features: list[Column]) -> Iterator[str]:
    """Columns that hold words among numbers, or are no categories."""
    for column in features:
        where = f"{config.path}: column {column.name!r}"
        if column.not_numbers:
            yield (
                f"{where}: {table.places(column.not_numbers)}: not a number; correct the cells, "
                f"or list what stands for a gap: {missing_of((*config.missing, 'SIGN'))}"
            )
        elif column.identifier or column.name in config.buckets:
            pass  # whoever is to drop it, or names it as allowed, need not count its values
        elif column.kind == "categorical" and len(column.categories) > config.max_categories:
            yield (
                f"{where}: {len(column.categories)} different values; if it is text or an "
                "identifier add it to scenario.drop, if it holds numbers check scenario.decimal or "
                "name it in scenario.numeric, if they are categories let a hash make fewer of them "
                f"(scenario.buckets.{column.name}={USUAL}) or raise scenario.max_categories"
            )


def range_problems(
    config: Csv, numeric: Sequence[Column], raw: NDArray[np.float64], sites: NDArray[np.str_] | None
) -> Iterator[str]:
    """Sites most of whose numbers lie outside of a column's public range: other units?"""
    if not isinstance(config.scaling, Ranges):
        return
    owner = np.full(len(raw), "") if sites is None else sites
    for i, column in enumerate(numeric):
        if column.name not in config.scaling.columns:
            continue
        low, high = config.scaling.columns[column.name]
        outside = (raw[:, i] < low) | (raw[:, i] > high)
        known = np.isfinite(raw[:, i])
        for site in np.unique(owner[outside]):
            here = known & (owner == site)
            if outside[here].mean() > 0.5:
                yield (
                    f"{config.path}: column {column.name!r}{f' at {site}' if site else ''}: most "
                    f"values lie outside of its public range {[low, high]}; other units? Convert "
                    f"them, or correct scenario.scaling.columns.{column.name}"
                )
