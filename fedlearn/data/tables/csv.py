"""Scenario `csv`: one's own table (CSV, Parquet or Excel), with a label and perhaps a site column.

What a column is and which categories it has is found from the whole table:
in a study that is the experimenter's table; where sites may not even learn
each other's categories, name them (`numeric`, `categories`) and nothing is
found. Values are scaled by public ranges; a model encodes those
that have none, at places that are the same for all columns.

Missing values: a label makes its record be left out (with a note); a category
becomes code 0; a number becomes 0 after scaling (the middle of its range) and
a further column `<name>_missing` is 1 there.

Read `by_record` (`Reading`), a label that is none of the classes makes its record be left out as
well, and a cell that is no number where one should be is a gap; nothing is looked for in values.

With `record` and `time` the table is in long form, see `fedlearn.data.tables.series`; with `person`
several records may be of one person, see `fedlearn.data.persons`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.core.settings import Count, Name, Probability, Value, ValueName, config
from fedlearn.data.arrays import is_kept
from fedlearn.data.persons import (
    MOST_RECORDS,
    PersonColumn,
    RecordsPerPerson,
)
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.data.tables import columns, csv_notes, series
from fedlearn.data.tables.buckets import Buckets, bucket_names
from fedlearn.data.tables.csv_columns import (
    attributes,
    describe,
    left_open,
    numbers_of,
    pool_of,
)
from fedlearn.data.tables.csv_problems import (
    check_events,
    check_names,
    feature_names,
    feature_problems,
    identifier_problems,
    label_column,
    range_problems,
    settings_problems,
    site_problems,
    translation,
)
from fedlearn.data.tables.csv_rows import (
    labelled_rows,
    owners_of,
    parts_of,
    read_rows,
    spelled_alike,
)
from fedlearn.data.tables.deidentify import Deidentify, deidentified
from fedlearn.data.tables.excel import sheets_note
from fedlearn.data.tables.heads import Header
from fedlearn.data.tables.moments import Dates
from fedlearn.data.tables.scaling import Ranges, Scaling
from fedlearn.data.tables.table import Separator
from fedlearn.data.tables.translation import Unit, in_order
from fedlearn.data.tables.written import Way
from fedlearn.tasks import TaskConfig, named_classes


@config
class Csv(Scenario):
    """A table, CSV, Parquet or Excel; every column but label, event, site, part, person, record,
    time and `drop` is a feature.

    `numeric`, `categories` and `buckets` override what a column is taken for; a value
    that is not among the `categories` given for its column becomes code 0.
    A column that looks like a direct identifier (names, e-mails, phone or
    identity numbers, dates, row numbers) is refused until it is dropped,
    treated under `deidentify` or named in `allow_identifiers`.
    """

    kind: Literal["csv"] = "csv"
    tells = "columns"
    path: Name
    label: ValueName
    labels: Annotated[tuple[Value, ...], Field(exclude_if=lambda names: not names)] = ()
    """Columns of yes and no that are the labels of a record, which has several; `label` is then
    what they are called together, and no column."""
    event: Value = ""
    """The column that says whether an event ended the time in `label`, 1, or it was lost, 0."""
    site: Value = ""
    part: Value = ""
    """The column that says which records are for `train` and which for `test`; empty: drawn."""
    split: Annotated[Literal["drawn", "time"], Field(exclude_if=lambda how: how == "drawn")] = (
        "drawn"
    )
    """How they are chosen where no column says it: drawn, or by `time`, the latest for the test."""
    validate_from: Annotated[Value, Field(exclude_if=lambda text: not text)] = ""
    """With `split=time`: from when on records are for validation; empty: each site's own times."""
    test_from: Annotated[Value, Field(exclude_if=lambda text: not text)] = ""
    """With `split=time`: from when on they are for the test."""
    person: PersonColumn = ""
    """The column that says whose a record is, where a person has several."""
    records_per_person: RecordsPerPerson = MOST_RECORDS
    """Records of one person that a private step computes, at most; of more it draws some."""
    separator: Separator = "comma"
    encoding: str = "utf-8"
    sheet: Value = ""
    """The sheet of an Excel file; empty: the first that is not hidden."""
    names: tuple[Value, ...] = ()
    """The columns of a file that has no header."""
    header: Header = "look"
    """What is done about a header that looks like a record: refused, or taken for the header;
    whether a row of units is below it."""
    decimal: Literal[".", ","] = "."
    written: dict[str, Way] = field(default_factory=dict)
    """Columns whose numbers are written as `45%`, `1,002` or `<0.5`: percent, thousands, limits;
    or with units, as `70 kg`: 'in kg'."""
    missing: tuple[Value, ...] = columns.MISSING
    rename: dict[ValueName, ValueName] = field(default_factory=dict)
    """Columns of the file by their names there: the names that all other settings have for them."""
    map: dict[ValueName, dict[Value, Value]] = field(default_factory=dict)
    """By column, what values of the file stand for."""
    units: dict[ValueName, Unit] = field(default_factory=dict)
    """By column, what its numbers are multiplied by; `[factor, offset]`; or a pair of units."""
    drop: tuple[Value, ...] = ()
    numeric: tuple[Value, ...] = ()
    categories: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    buckets: dict[str, Buckets] = field(default_factory=dict)
    """Columns of many values, and how many categories a public hash makes of each."""
    allow_identifiers: tuple[Value, ...] = ()
    deidentify: Deidentify = field(default_factory=Deidentify)
    gaps: tuple[Value, ...] | None = None
    """Columns with a further one that is 1 at a gap; None: those in which there is a gap."""
    classes: tuple[Value, ...] = ()
    """The classes of the label, where a site may not have all of them; empty: as found."""
    record: Value = ""
    """The column that says whose a row is, where several rows are one record over time."""
    time: Value = ""
    """The column that the rows of a record are ordered by, or records are split by: numbers, or
    dates."""
    times: Literal["", "numbers"] | Dates = ""
    """Which of the two it holds, and how dates are written; empty: numbers, or dates as ISO 8601
    has them, whichever most of its cells are."""
    steps: Count = 24
    """Rows that every record over time is made to have."""
    keep: Literal["last", "first"] = "last"
    """Which rows are kept of a record that has more."""
    max_categories: Count = 50
    test_fraction: Probability = 0.25
    scaling: Scaling = field(default_factory=Ranges)

    def under(self, folder: Path) -> Self:
        """The same with absolute paths: relative ones are in `folder`."""
        key = self.deidentify.key and str(folder / self.deidentify.key)
        hidden = replace(self.deidentify, key=key)
        path = self.path if is_kept(self.path) else str(folder / self.path)
        return replace(self, path=path, deidentify=hidden)

    def contradictions(self) -> Iterator[str]:
        """What is no translation of a table."""
        return translation(self).problems()

    def problems(self) -> Iterator[str]:
        """What contradicts itself."""
        return settings_problems(self)

    def absent(self) -> Iterator[str]:
        """The table, where there is none."""
        if not Path(self.path).is_file():
            yield f"path={self.path}: there is no such file"

    def left_open(self, task: TaskConfig) -> Iterator[str]:
        """How columns are taken, whether gaps are said, and which classes there are."""
        if not {*self.numeric, *self.categories, *self.buckets}:
            yield "scenario.numeric and scenario.categories"
        yield from left_open(self, (), classes=task.is_open(named_classes(self.classes)))

    def load(self, reading: Reading) -> Pool:
        """The records of the table that have a label; about `test_fraction` are for the test.

        Which, is said by the column `part` where one is named, or by `time`. Else by the cells of
        a row alone, as they are read, but for its site; over time by the value of `record`, and
        where `person` is named by that of a person.

        Raises:
            DataError: the file cannot be read, or its contents cannot be learned
                from; every problem is listed, with line numbers.
            ConfigError: the config names columns that are not there, or ranges
                that do not fit.
        """
        group_by, task, by_record = reading.group_by, reading.task, reading.by_record
        table = read_rows(self, by_record=by_record)
        check_names(self, table, group_by)
        check_events(self, task)
        if reading.by_name:
            table = in_order(table, self.numeric, {*self.categories, *self.buckets})
        names, is_open = feature_names(self, table), task.is_open(label_column(self, table))
        reading.require(left_open(self, names, classes=is_open))
        table, several = spelled_alike(self, task, table, by_record=by_record)
        table = series.spread(self, table) if self.record else table
        persons, notes = owners_of(self, table)
        rows, is_train, is_validation, of_neither = parts_of(self, reading, table, persons)
        table, notes = table.take(rows), notes + of_neither
        persons = None if persons is None else persons[rows]
        table = deidentified(
            self.deidentify, table, self.missing, self.decimal, by_record=by_record
        )
        labelled, others = labelled_rows(self, table, task if by_record else None, persons)
        table, is_train = table.take(labelled), is_train[labelled]
        is_validation = None if is_validation is None else is_validation[labelled]
        labels = label_column(self, table)
        features = [describe(self, table, name, by_record=by_record) for name in names]
        found = [*identifier_problems(self, features)]
        if is_open or not by_record:
            found += task.problems(labels)
        if not by_record:
            found += [*site_problems(self, table), *feature_problems(self, table, features)]
        refuse(found)
        numeric = [column for column in features if column.kind == "numeric"]
        raw = numbers_of(self, table, [column.name for column in numeric])
        sites = np.array(table.column(self.site)) if self.site else None
        if not by_record:
            refuse(range_problems(self, numeric, raw, sites))
        pool = pool_of(self, task, labels, features, raw, table, sites, is_train)
        pool = replace(pool, is_validation=is_validation)
        notes += [*sheets_note(Path(self.path), self.sheet), *others]
        notes += [*csv_notes.notes(self, table, features, several)]
        groups = attributes(self, table, group_by, by_record=by_record)
        persons = None if persons is None else persons[labelled]
        pool = replace(pool, attributes=groups, notes=(*notes,), persons=persons)
        if self.record:
            pool = series.as_series(self, task, pool, table, by_record=by_record)
        return pool

    @property
    def validates(self) -> bool:
        """By a share, or from a time on."""
        return self.validation_fraction > 0 or bool(self.validate_from)

    @property
    def parts_by_all(self) -> str:
        """The time of a cut that is not given."""
        if self.split != "time":
            return ""
        if not (self.test_from and self.times):
            return "scenario.times" if self.test_from else "scenario.test_from"
        return "scenario.validate_from" if self.validates and not self.validate_from else ""

    @property
    def in_memory(self) -> bool:
        """Where the path is that of a table of the program."""
        return is_kept(self.path)

    def agreed(self, of_run: Scenario) -> Scenario:
        """The site's own, with the run's numbers, categories and classes."""
        if not isinstance(of_run, Csv):
            return self
        if self.record != of_run.record:
            raise ConfigError(_another_record(self, of_run))
        return replace(
            self,
            scaling=of_run.scaling,
            gaps=self.gaps if of_run.gaps is None else of_run.gaps,
            classes=of_run.classes or self.classes,
            numeric=of_run.numeric or self.numeric,
            categories={**self.categories, **of_run.categories},
            buckets={**self.buckets, **of_run.buckets},
            times=self.times or of_run.times,
            steps=of_run.steps,
            keep=of_run.keep,
            validation_fraction=of_run.validation_fraction,
            split=of_run.split,
            validate_from=of_run.validate_from,
            test_from=of_run.test_from,
        )

    def stays_with_site(self) -> frozenset[str]:
        """All that says how the file is written and which of its columns are not learned from."""
        agreed = {"scaling", "gaps", "classes", "numeric", "categories", "buckets", "times"}
        of_run = agreed | {"steps", "keep", "kind", "split", "validate_from", "test_from"}
        of_run |= {"validation_fraction"}
        return frozenset(field.name for field in fields(self)) - of_run

    def of_nobody(self, path: str) -> Self:
        """Another table, which may lack the columns of sites and those that are dropped."""
        there = read_rows(replace(self, path=path, labels=())).header
        moment = "" if self.record else self.time
        roles: tuple[str, ...] = (self.site, self.part, self.person, moment)
        labels = self.labels if {*self.labels} <= {*there} else ()
        roles += () if labels else self.labels
        aside = tuple(name for name in (*roles, *self.drop) if name in there)
        return replace(
            self,
            path=path,
            site="",
            labels=labels,
            part="",
            person="",
            time="" if moment else self.time,
            split="drawn",
            validate_from="",
            test_from="",
            drop=aside,
            rename={theirs: name for theirs, name in self.rename.items() if name in there},
            map={name: values for name, values in self.map.items() if name in there},
            units={name: unit for name, unit in self.units.items() if name in there},
            written={name: way for name, way in self.written.items() if name in there},
        )

    def never_groups(self) -> tuple[str, ...]:
        """What is dropped, whatever it is; what says who somebody is."""
        named = (self.record, self.time, self.person)
        return (*self.drop, *self.allow_identifiers, *self.deidentify.hash, *filter(None, named))

    def one_record(self) -> str:
        """All rows of one value of the column `record`, where one is named."""
        return f"all rows of one {self.record!r}" if self.record else ""

    @property
    def named_categories(self) -> dict[str, tuple[str, ...]]:
        """By column, those that are public: named in the settings, or places of a public hash."""
        hashed = {name: bucket_names(one) for name, one in self.buckets.items()}
        return {**self.categories, **hashed}

    def as_rows(self) -> Csv | None:
        """As the run's own; not by what a site keeps to itself, or by rows over time."""
        return None if self.record or self.deidentify.hash else self


def _another_record(own: Csv, of_run: Csv) -> str:
    one, other = (scenario.one_record() or "a row" for scenario in (own, of_run))
    return (
        f"data.record={own.record}: in this site's file one record is {one}, in the run {other}; "
        "privacy is promised to one record, so both must be the same"
    )
