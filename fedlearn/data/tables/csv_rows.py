"""Which rows of a table are records, of whom, and in which part: all but their features.

The scenario is `fedlearn.data.tables.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.arrays import is_kept, kept_table
from fedlearn.data.persons import Persons, in_bytes, nobody_note, persons_of
from fedlearn.data.scenario import Reading
from fedlearn.data.split import by_content, rows_of
from fedlearn.data.tables import series
from fedlearn.data.tables.by_time import parts_by_time
from fedlearn.data.tables.csv_columns import found_categories
from fedlearn.data.tables.csv_problems import feature_names, label_column, parts, translation
from fedlearn.data.tables.joined import joined
from fedlearn.data.tables.parquet import from_arrow
from fedlearn.data.tables.reading import read_file
from fedlearn.data.tables.spelling import Spellings, spelled
from fedlearn.data.tables.table import Table
from fedlearn.tasks import TaskConfig

if TYPE_CHECKING:
    from fedlearn.data.tables.csv import Csv


def read_rows(config: Csv, *, by_record: bool = False) -> Table:
    """The file, or what is in memory, as a table in the words of the config.

    Raises as `read_file` does, and as `Translation.of`.
    """
    path = Path(config.path)
    aside = {*config.drop}  # by their names in the file as well
    aside.update(theirs for theirs, name in config.rename.items() if name in config.drop)
    if is_kept(config.path):
        table = from_arrow(path, kept_table(config.path), config.decimal, aside=aside)
    else:
        table = read_file(
            path,
            config.separator,
            config.encoding,
            config.decimal,
            by_record=by_record,
            names=config.names,
            header=config.header,
            aside=aside,
            sheet=config.sheet,
        )
    table = translation(config).of(table, config.missing, config.decimal)
    return joined(config, table, by_record=by_record)


def spelled_alike(
    config: Csv, task: TaskConfig, table: Table, *, by_record: bool
) -> tuple[Table, dict[str, list[Spellings]]]:
    """The table with one text for every value of a role or a category, and what had several.

    Read `by_record`, a value is what the config names, or is as it stands: other records decide
    nothing.
    """
    named = {**config.categories, **({config.label: config.classes} if config.classes else {})}
    label = config.label if task.is_open(label_column(config, table)) else ""
    owners = [name for name in (config.record, config.person) if name]
    roles = [name for name in (label, config.site, *owners) if name]
    features = feature_names(config, table)
    found = owners
    if not by_record:
        found = [*roles, *found_categories(config, table, features)]
    rest = [name for name in dict.fromkeys(found) if name not in named]
    return spelled(table, config.decimal, named=named, found=rest, persons=owners)


def parts_of(
    config: Csv, reading: Reading, table: Table, persons: Persons | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_] | None, list[str]]:
    """The rows that are used, which of these are trained on, and which validated on where the
    table itself says so; notes about others."""
    rows = np.arange(len(table))
    if config.part:
        used, is_train, notes = parts(config, table)
        return used, is_train, None, notes
    if config.split == "time":
        owners = series.owners_of(config, table) if config.record else None
        owners = owners if persons is None else persons.tolist()
        found = parts_by_time(config, table, owners, by_record=reading.by_record)
        validation = found.validation[found.known] if config.validates else None
        return np.flatnonzero(found.known), found.train[found.known], validation, []
    contents = _contents(config, table, persons)
    return rows, by_content(contents, config.test_fraction, reading.streams), None, []


def labelled_rows(
    config: Csv, table: Table, task: TaskConfig | None, persons: Persons | None
) -> tuple[NDArray[np.int64], list[str]]:
    """The rows that have a label, which `task` can read where it is given; a note about others.

    And a person, where records are somebody's.
    """
    labels = table.cells(config.label)
    absent = labels.among(config.missing)[labels.codes]
    if task is not None:
        absent |= task.unreadable(label_column(config, table))
    unlabelled = np.flatnonzero(absent)
    notes = [f"{config.path}: {table.places(unlabelled)}: no label, left out"]
    if persons is not None:
        absent |= persons == ""
    return np.flatnonzero(~absent), notes if unlabelled.size else []


def owners_of(config: Csv, table: Table) -> tuple[Persons | None, list[str]]:
    """Whose every row is, where the config says by what; a note about rows that are nobody's."""
    if not config.person:
        return None, []
    persons = persons_of(table.cells(config.person), config.missing, config.decimal)
    if not len(nobody := np.flatnonzero(persons == "")):
        return persons, []
    return persons, [nobody_note(config.path, config.person, table.places(nobody))]


def taken_rows(config: Csv, table: Table) -> Table:
    """The rows that a run takes before it looks at features: those of a part and of somebody, where
    columns say so, that have a label."""
    if config.part in table.header:
        table = table.take(parts(config, table)[0])
    persons, _ = owners_of(config, table) if config.person in table.header else (None, [])
    labelled, _ = labelled_rows(config, table, None, persons)
    return table.take(labelled)


def _contents(config: Csv, table: Table, persons: Persons | None) -> Iterator[bytes]:
    """What decides whether a row is trained on or tested on."""
    if persons is not None:
        return in_bytes(persons)
    if config.record:
        return map(str.encode, table.cells(config.record).each())
    return rows_of(table, config.decimal, aside=(config.site,))
