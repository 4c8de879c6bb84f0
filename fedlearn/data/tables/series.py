"""A table in long form, several rows a record, as records over time.

`scenario.record` names the column that says whose a row is, `scenario.time` the
one that puts the rows of a record in order. A record is all rows of one: it has
one label and one site, it is trained on or tested on as a whole, and it is what
`privacy=record` protects. What is learned from are the other columns; times give
the order alone, so where the distance between rows matters, have it in a column.

Every record becomes `scenario.steps` rows, a public constant: of more rows the
last are kept (or the first), fewer are padded with zeros, and a further column
is 1 where there is a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import refuse
from fedlearn.data import memory
from fedlearn.data.persons import persons_of
from fedlearn.data.pool import Pool
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.csv_problems import label_column
from fedlearn.data.tables.table import Table
from fedlearn.data.tables.times import IN_WORDS_OF, times_of
from fedlearn.tasks import SeriesInput, TableInput, TaskConfig

if TYPE_CHECKING:
    from fedlearn.data.tables.csv import Csv

_NO_TIMES = (
    " or a date as 2026-01-31: nothing in it is; say how dates are written (scenario.times="
    "day_first or month_first), or name a column of numbers in scenario.time"
)

Rows = Mapping[str, NDArray[np.int64]]
"""The rows of every record in the order of their times; records as they first appear."""


def _of_records(config: Csv) -> Iterator[str]:
    """The columns of which a record has one value: label, event and site, where there are such."""
    return filter(None, (config.label, config.event, config.site))


def owners_of(config: Csv, table: Table) -> list[str]:
    """The record that every row is of; empty for rows of none.

    Where persons are named, rows of two people under one key are two records: what one of them
    becomes is then nothing that the rows of the other can change.
    """
    records = [name if name not in config.missing else "" for name in table.column(config.record)]
    if not config.person:
        return records
    persons = persons_of(table.cells(config.person), config.missing, config.decimal)
    both = zip(persons.tolist(), records, strict=True)
    return [f"{person}\0{record}" if person and record else "" for person, record in both]


def spread(config: Csv, table: Table) -> Table:
    """The table with the label and the site of a record in all of its rows.

    Where a record has two, or none, its cells are left as they are.
    """
    for name in _of_records(config):
        owners, cells = owners_of(config, table), table.column(name)
        known: dict[str, set[str]] = {}
        for owner, cell in zip(owners, cells, strict=True):
            if owner and cell not in config.missing:
                known.setdefault(owner, set()).add(cell)
        one = {owner: next(iter(found)) for owner, found in known.items() if len(found) == 1}
        filled = [one.get(owner, cell) for owner, cell in zip(owners, cells, strict=True)]
        table = table.with_columns({name: encode(filled)})
    return table


def as_series(
    config: Csv, task: TaskConfig, pool: Pool, table: Table, *, by_record: bool = False
) -> Pool:
    """The records of a pool of rows; `table` has the same rows.

    Read `by_record`, rows without a record or a time are left out, and records that have two
    labels or sites; of rows at the same time the one that comes first in the table is the first.

    All rows of a record are for training, or all are for the test.

    Raises:
        DataError: a row has no record or no time, two rows have the same, a record has two
            labels or two sites, a class has one record, or all would not fit into memory.
    """
    if not isinstance(pool.task.input, TableInput):
        raise TypeError("a series is made of rows of a table")
    owners = owners_of(config, table)
    times, kind = times_of(config, table)
    what = IN_WORDS_OF[kind]
    rows = _ordered(owners, times)
    if by_record:
        rows = _sound(config, table, owners, times, rows)
    else:
        problems = [*_row_problems(config, table, owners, times, what)]
        refuse(problems or _record_problems(config, task, table, rows))
    shape = SeriesInput(steps=config.steps, row=pool.task.input)
    size = len(rows) * config.steps * (shape.row.width + 1) * 4
    memory.require(Path(config.path), 2 * size)
    features = _padded(config, pool.features, rows)
    first = np.array([mine[0] for mine in rows.values()], np.int64)
    sites = None if pool.natural_site is None else pool.natural_site[first]
    return replace(
        pool,
        task=pool.task.on(shape),
        features=features,
        labels=pool.labels[first],
        is_train=pool.is_train[first],
        is_validation=None if pool.is_validation is None else pool.is_validation[first],
        natural_site=sites,
        persons=None if pool.persons is None else pool.persons[first],
        attributes={name: values[first] for name, values in pool.attributes.items()},
        notes=(*pool.notes, *_notes(config, rows, features)),
    )


def _ordered(owners: Sequence[str], times: NDArray[np.float64]) -> Rows:
    found: dict[str, list[int]] = {}
    for row in np.argsort(times, kind="stable"):
        found.setdefault(owners[row], []).append(int(row))
    names = dict.fromkeys(owners)
    return {name: np.array(found[name], dtype=np.int64) for name in names}


# --- What is wrong --------------------------------------------------------------------


def _row_problems(
    config: Csv, table: Table, owners: Sequence[str], times: NDArray[np.float64], what: str
) -> Iterator[str]:
    where = f"{config.path}: column"
    if absent := [i for i, owner in enumerate(owners) if not owner]:
        yield f"{where} {config.record!r}: {table.places(absent)}: does not say whose row it is"
    if wrong := [int(i) for i in np.flatnonzero(np.isnan(times))]:
        way = _NO_TIMES if len(wrong) == len(times) else ", as others are"
        yield f"{where} {config.time!r}: {table.places(wrong)}: not {what}{way}"
    seen: set[tuple[str, float]] = set()
    twice = []
    for i, at in enumerate(zip(owners, times.tolist(), strict=True)):
        twice += [i] if at in seen else []
        seen.add(at)
    if twice:
        yield (
            f"{where} {config.time!r}: {table.places(twice)}: a second row of one "
            f"{config.record!r} at the same time; which comes first is not known"
        )


def _sound(
    config: Csv, table: Table, owners: Sequence[str], times: NDArray[np.float64], rows: Rows
) -> Rows:
    """The records, of rows that say whose they are and when, with one label and one site."""
    named = [table.column(name) for name in _of_records(config)]
    placed = {name: mine[np.isfinite(times[mine])] for name, mine in rows.items() if name}
    return {
        name: mine
        for name, mine in placed.items()
        if len(mine) and all(len({cells[i] for i in rows[name]}) == 1 for cells in named)
    }


def _record_problems(config: Csv, task: TaskConfig, table: Table, rows: Rows) -> Iterator[str]:
    of_both: dict[str, list[int]] = {}
    for i, name in enumerate(table.column(config.record)):
        of_both.setdefault(name, []).append(i)
    for name in filter(None, (*_of_records(config), config.person)):
        cells = table.column(name)
        # Two people under one key are two records, and more likely a mistake.
        all_rows = of_both if name == config.person else rows
        torn = [mine for mine in all_rows.values() if len({cells[i] for i in mine}) > 1]
        if torn:
            lines = table.places([min(mine) for mine in torn])
            yield (
                f"{config.path}: column {name!r}: {lines}: a {config.record!r} that begins there "
                "has another value in a later row; a record over time has one"
            )
    first = [int(min(mine)) for mine in rows.values()]
    yield from task.problems(label_column(config, table, first))


def _notes(config: Csv, rows: Rows, features: NDArray[np.float32]) -> Iterator[str]:
    long = sum(len(mine) > config.steps for mine in rows.values())
    if long:
        yield (
            f"{config.path}: {long} of {len(rows)} records have more than scenario.steps="
            f"{config.steps} rows; the {config.keep} {config.steps} are kept"
        )
    different = {hashlib.sha256(one).digest() for one in features}
    if copies := len(features) - len(different):
        yield (
            f"{config.path}: {copies} records hold what another record holds, row by row; a person "
            "under two names weighs twice, and may be in training and test alike"
        )


def _padded(config: Csv, values: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
    """`float32[records, steps, width + 1]`."""
    found = np.zeros((len(rows), config.steps, values.shape[1] + 1), np.float32)
    for record, mine in zip(found, rows.values(), strict=True):
        kept = mine[-config.steps :] if config.keep == "last" else mine[: config.steps]
        record[: len(kept), :-1] = values[kept]
        record[: len(kept), -1] = 1
    return found
