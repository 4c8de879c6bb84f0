"""Scenario `csv`: one's own table (CSV or Parquet), with a label and perhaps a site column.

What a column is and which categories it has is found from the whole table:
in a study that is the experimenter's table; where sites may not even learn
each other's categories, name them (`numeric`, `categories`) and nothing is
found. Values are scaled by public ranges, or squashed without reading data.

Missing values: a label makes its record be left out (with a note); a category
becomes code 0; a number becomes 0 after scaling (the middle of its range) and
a further column `<name>_missing` is 1 there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.data import columns, deidentify, scaling
from fedlearn.data.columns import Column
from fedlearn.data.deidentify import Deidentify, deidentified
from fedlearn.data.parquet import is_parquet, read_parquet
from fedlearn.data.pool import Pool
from fedlearn.data.scaling import Ranges, Scaling
from fedlearn.data.split import stratified
from fedlearn.data.table import Separator, Table, duplicates, read_table
from fedlearn.errors import ConfigError, DataError
from fedlearn.fairness import Attribute
from fedlearn.settings import Count, Name, Probability
from fedlearn.task import TableInput, Task


@dataclass(frozen=True, kw_only=True)
class Csv:
    """A table, CSV or Parquet; every column but label, site and `drop` is a feature.

    `numeric` and `categories` override what a column is taken for; a value
    that is not among the `categories` given for its column becomes code 0.
    A column that looks like a direct identifier (names, e-mails, phone or
    identity numbers, dates, row numbers) is refused until it is dropped,
    treated under `deidentify` or named in `allow_identifiers`.
    """

    kind: Literal["csv"] = "csv"
    path: Name
    label: Name
    site: str = ""
    separator: Separator = "comma"
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    missing: tuple[str, ...] = columns.MISSING
    drop: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    allow_identifiers: tuple[str, ...] = ()
    deidentify: Deidentify = field(default_factory=Deidentify)
    max_categories: Count = 50
    test_fraction: Probability = 0.25
    scaling: Scaling = field(default_factory=Ranges)

    def under(self, folder: Path) -> Csv:
        """The same with absolute paths: relative ones are in `folder`."""
        key = self.deidentify.key and str(folder / self.deidentify.key)
        hidden = replace(self.deidentify, key=key)
        return replace(self, path=str(folder / self.path), deidentify=hidden)


def load(config: Csv, rng: np.random.Generator, group_by: str = "") -> Pool:
    """The records of the table that have a label, split by `rng` within site and class.

    Of every class at every site about `test_fraction` are test records, and at
    least one is a training record. `group_by` names a column, dropped or not, that
    becomes the attribute by which test records can be grouped.

    Raises:
        DataError: the file cannot be read, or its contents cannot be learned
            from; every problem is listed, with line numbers.
        ConfigError: the config names columns that are not there, or ranges
            that do not fit.

    """
    table = _read(config)
    _check_names(config, table, group_by)
    table = deidentified(config.deidentify, table, config.missing, config.decimal)
    table, notes = _with_label(config, table)
    features = [_describe(config, table, name) for name in feature_names(config, table)]
    problems = [*_label_problems(config, table), *_site_problems(config, table)]
    problems += _feature_problems(config, table, features)
    if problems:
        raise DataError("\n".join(problems))
    pool = _pool(config, table, features, notes, rng)
    return replace(pool, attributes=_attributes(config, table, group_by))


def _read(config: Csv) -> Table:
    path = Path(config.path)
    if is_parquet(path):
        return read_parquet(path)
    return read_table(path, separator=config.separator, encoding=config.encoding)


def feature_names(config: Csv, table: Table) -> list[str]:
    """The columns that are learned from, in the order of the table."""
    aside = {config.label, config.site, *config.drop}
    return [name for name in table.header if name not in aside]


def _pool(
    config: Csv,
    table: Table,
    features: list[Column],
    notes: list[str],
    rng: np.random.Generator,
) -> Pool:
    numeric = [column for column in features if column.kind == "numeric"]
    categorical = [column for column in features if column.kind == "categorical"]
    values, gaps = _numbers(config, table, numeric)
    coded = [_codes(table, column) for column in categorical]
    classes = columns.sort_values(set(table.column(config.label)), config.decimal)
    labels = np.array([classes.index(cell) for cell in table.column(config.label)], dtype=np.int64)
    sites = np.array(table.column(config.site)) if config.site else None
    shape = TableInput(
        numeric=values.shape[1] + gaps.shape[1],
        cardinalities=tuple(len(column.categories) + 1 for column in categorical),
    )
    return Pool(
        name=Path(config.path).stem,
        task=Task(input=shape, classes=classes),
        features=np.column_stack([values, gaps, *coded]).astype(np.float32),
        labels=labels,
        is_train=stratified(labels, sites, config.test_fraction, rng),
        natural_site=sites,
        standardise_per_site=scaling.reads_records(config.scaling),
        notes=(*notes, *_notes(config, table, features)),
    )


def _check_names(config: Csv, table: Table, group_by: str) -> None:
    roles = {"label": [config.label], "site": [config.site] if config.site else []}
    lists = {"drop": config.drop, "numeric": config.numeric, "categories": config.categories}
    lists |= {"allow_identifiers": config.allow_identifiers}
    lists |= {f"deidentify.{way}": names for way, names in config.deidentify.ways.items()}
    problems = [
        f"scenario.{setting}: no column {name!r} in {config.path}; "
        f"there are {', '.join(table.header)}"
        for setting, names in (roles | lists).items()
        for name in names
        if name not in table.header
    ]
    if group_by and group_by not in table.header:
        there = ", ".join(table.header)
        problems.append(f"fairness.column={group_by}: no such column; there are {there}")
    if config.label in (config.site, *config.drop):
        problems.append(f"scenario.label={config.label}: is the site column or dropped as well")
    problems += [
        f"scenario.numeric: {name!r} is in scenario.categories as well"
        for name in config.numeric
        if name in config.categories
    ]
    problems += deidentify.problems(config.deidentify)
    if not problems and not feature_names(config, table):
        problems.append("scenario.drop: leaves no column to learn from")
    if problems:
        raise ConfigError(problems)


def _with_label(config: Csv, table: Table) -> tuple[Table, list[str]]:
    """The table without the records that have no label, and a note about them."""
    labelled = [cell not in config.missing for cell in table.column(config.label)]
    if all(labelled):
        return table, []
    absent = [i for i, keep in enumerate(labelled) if not keep]
    kept = replace(
        table,
        rows=tuple(row for row, keep in zip(table.rows, labelled, strict=True) if keep),
        lines=tuple(line for line, keep in zip(table.lines, labelled, strict=True) if keep),
    )
    return kept, [f"{config.path}: {table.places(absent)}: no label, left out"]


def _describe(config: Csv, table: Table, name: str) -> Column:
    """The column as found, with what the config says about it put in."""
    cells = table.column(name)
    found = columns.describe(name, cells, missing=config.missing, decimal=config.decimal)
    if name in config.deidentify.treated:  # its name still says what it was
        found = replace(found, identifier=columns.suspect("", cells, found.kind == "numeric"))
    if name in config.allow_identifiers:
        found = replace(found, identifier="")
    if name in config.categories:
        given = config.categories[name]
        return replace(found, kind="categorical", categories=given, not_numbers=())
    if name in config.numeric:
        return replace(found, kind="numeric", not_numbers=_not_numbers(config, cells))
    return found


def _not_numbers(config: Csv, cells: list[str]) -> tuple[int, ...]:
    return tuple(
        i
        for i, cell in enumerate(cells)
        if cell not in config.missing and np.isnan(columns.parse(cell, config.decimal))
    )


def _label_problems(config: Csv, table: Table) -> Iterator[str]:
    cells = table.column(config.label)
    classes = columns.sort_values(set(cells), config.decimal)
    where = f"{config.path}: label {config.label!r}"
    if not cells:
        yield f"{where}: no record has one"
    elif len(classes) == 1:
        yield f"{where}: every record is {classes[0]!r}; there is nothing to learn"
    elif len(classes) > config.max_categories:
        yield (
            f"{where}: {len(classes)} different values; a label is one of a few classes "
            f"(at most scenario.max_categories={config.max_categories}): group the values first"
        )
    else:
        for value in classes:
            if cells.count(value) == 1:
                place = table.places([cells.index(value)])
                yield (
                    f"{where}: {place} is the only record of class {value!r}; "
                    "training and testing take at least two"
                )


def _site_problems(config: Csv, table: Table) -> Iterator[str]:
    if not config.site:
        return
    absent = [i for i, cell in enumerate(table.column(config.site)) if cell in config.missing]
    if absent:
        yield (
            f"{config.path}: {table.places(absent)}: no site in column {config.site!r}; "
            "fill it in or leave the records out"
        )


def _feature_problems(config: Csv, table: Table, features: list[Column]) -> Iterator[str]:
    for column in features:
        where = f"{config.path}: column {column.name!r}"
        if column.identifier:
            yield (
                f"{where}: {column.identifier}, which can identify people; "
                f"{columns.remedy(column.identifier)}, or name it in scenario.allow_identifiers "
                "if it must be learned from as it is"
            )
        elif column.not_numbers:
            yield (
                f"{where}: {table.places(column.not_numbers)}: not a number; correct the cells, "
                "or add what stands for a gap to scenario.missing"
            )
        elif column.kind == "categorical" and len(column.categories) > config.max_categories:
            yield (
                f"{where}: {len(column.categories)} different values; if it is text or an "
                "identifier add it to scenario.drop, if it holds numbers check scenario.decimal, "
                "if they are categories raise scenario.max_categories"
            )


def _numbers(
    config: Csv, table: Table, numeric: list[Column]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scaled `float32[n, numeric]`, and `float32[n, columns with gaps]` that are 1 at a gap."""
    raw = np.full((len(table.rows), len(numeric)), np.nan)
    for i, column in enumerate(numeric):
        raw[:, i] = [
            np.nan if cell in config.missing else columns.parse(cell, config.decimal)
            for cell in table.column(column.name)
        ]
    scaled = scaling.scale(config.scaling, [column.name for column in numeric], raw)
    absent = np.isnan(raw)
    if not scaling.reads_records(config.scaling):  # else the site's mean is filled in later
        scaled[absent] = 0.0
    return scaled, absent[:, absent.any(axis=0)].astype(np.float32)


def _attributes(config: Csv, table: Table, group_by: str) -> dict[str, Attribute]:
    """The column that people are to be grouped by, learned from or not; its numbers unscaled."""
    if not group_by:
        return {}
    cells = table.column(group_by)
    if _describe(config, table, group_by).kind == "numeric":
        return {group_by: np.array([columns.parse(cell, config.decimal) for cell in cells])}
    return {group_by: np.array(cells)}


def _codes(table: Table, column: Column) -> NDArray[np.float32]:
    code = {value: i for i, value in enumerate(column.categories, start=1)}
    return np.array([code.get(cell, 0) for cell in table.column(column.name)], dtype=np.float32)


def _notes(config: Csv, table: Table, features: list[Column]) -> Iterator[str]:
    for column in features:
        if column.kind == "empty":
            yield f"{config.path}: column {column.name!r} holds nothing, left out"
        elif column.name in config.categories:
            known = {*column.categories, *config.missing}
            unseen = sum(cell not in known for cell in table.column(column.name))
            if unseen:
                yield (
                    f"{config.path}: column {column.name!r}: {unseen} values that are not "
                    "among its categories are taken as missing"
                )
    copies = duplicates(table, aside=(config.site, *config.drop))
    if copies:
        yield (
            f"{config.path}: {table.places(copies)}: copies of an earlier record; a person in the "
            "table twice weighs twice, and may be in training and test alike"
        )
