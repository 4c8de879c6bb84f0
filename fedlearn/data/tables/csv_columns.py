"""What the columns of a table are by its config, and their values as a model takes them.

The scenario is `fedlearn.data.tables.csv`. What the config names is so, whatever the cells hold;
the rest is as `fedlearn.data.tables.columns` finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import some
from fedlearn.data.pool import Pool
from fedlearn.data.tables import columns, scaling
from fedlearn.data.tables.buckets import bucket_names, buckets_of
from fedlearn.data.tables.cells import Cells, codes_of
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.identifier_names import suspect_name
from fedlearn.data.tables.identifiers import suspect_values
from fedlearn.data.tables.schema import schemas_of
from fedlearn.data.tables.spelling import may_be_categories
from fedlearn.data.tables.table import Table
from fedlearn.metrics.fairness import Attribute
from fedlearn.tasks import LabelColumn, TableInput, TaskConfig, TaskForm

if TYPE_CHECKING:
    from fedlearn.data.tables.csv import Csv


def found_categories(config: Csv, table: Table, names: Sequence[str]) -> list[str]:
    """Of some columns those whose categories may be looked for in their values."""
    return [
        name
        for name in names
        if name not in (*config.numeric, *config.categories, *config.buckets)
        and may_be_categories(table.cells(name), config.missing, config.decimal)
    ]


def left_open(config: Csv, features: Sequence[str], *, classes: bool) -> Iterator[str]:
    """The settings without which a column, or a class, is what the records make of it."""
    given = {*config.numeric, *config.categories, *config.buckets}
    if unnamed := [name for name in features if name not in given]:
        beyond = (
            f" (nothing is said there of {some([*map(repr, unnamed)])}; scenario.drop leaves out "
            "what is not to be learned from)"
        )
        yield f"scenario.numeric and scenario.categories{beyond if given else ''}"
    if config.gaps is None:
        yield "scenario.gaps"
    if config.record and not config.times:
        yield "scenario.times"
    if classes:
        yield "scenario.classes"
    if scaling.reads_records(config.scaling):
        # A site's own way, where the run's records are of another kind.
        yield "scenario.scaling"


def describe(config: Csv, table: Table, name: str, *, by_record: bool = False) -> Column:
    """The column as found, with what the config says about it put in."""
    cells = table.cells(name)
    found = columns.describe(name, cells, missing=config.missing, decimal=config.decimal)
    if by_record and name in (*config.numeric, *config.categories, *config.buckets):
        found = replace(found, identifier=suspect_name(name))
    if name in config.deidentify.treated:  # its name still says what it was
        seen = "" if by_record else suspect_values(cells, found.kind == "numeric")
        found = replace(found, identifier=seen)
    if name in config.allow_identifiers:
        found = replace(found, identifier="")
    if name in config.buckets:
        given = bucket_names(config.buckets[name])
        return replace(found, kind="categorical", categories=given, not_numbers=())
    if name in config.categories:
        given = config.categories[name]
        return replace(found, kind="categorical", categories=given, not_numbers=())
    if name in config.numeric:
        return replace(found, kind="numeric", not_numbers=not_numbers(config, cells))
    return found


def not_numbers(config: Csv, cells: Cells) -> tuple[int, ...]:
    """The places of cells that are neither gaps nor numbers."""
    words = np.isnan(cells.numbers(config.decimal)) & ~cells.among(config.missing)
    return tuple(cells.rows(words).tolist())


def numbers_of(config: Csv, table: Table, names: list[str]) -> NDArray[np.float64]:
    """`float64[n, names]` in the table's own units; NaN at a gap."""
    raw = np.full((len(table), len(names)), np.nan)
    for i, name in enumerate(names):
        cells = table.cells(name)
        numbers = np.where(cells.among(config.missing), np.nan, cells.numbers(config.decimal))
        raw[:, i] = numbers[cells.codes]
    return raw


def scaled(config: Csv, names: list[str], raw: NDArray[np.float64]) -> NDArray[np.float32]:
    """The numbers as a model takes them: `float32[n, columns]`."""
    values = scaling.scale(config.scaling, names, raw)
    if not scaling.reads_records(config.scaling):  # else the site's mean is filled in later
        values[np.isnan(raw)] = 0.0
    return values


def category_codes(
    config: Csv, cells: Cells, name: str, categories: Sequence[str]
) -> NDArray[np.float32]:
    """The place of every cell of a column among its categories, or buckets, from 1; 0 for none."""
    if name in config.buckets:
        return buckets_of(cells, config.buckets[name], config.missing, config.decimal)
    return codes_of(cells, categories)


def gap_columns(config: Csv, numeric: list[Column], raw: NDArray[np.float64]) -> list[Column]:
    """The columns that have a further one which says where a value is missing."""
    if config.gaps is not None:
        return [column for column in numeric if column.name in config.gaps]
    return [column for i, column in enumerate(numeric) if np.isnan(raw[:, i]).any()]


def attributes(
    config: Csv, table: Table, group_by: str, *, by_record: bool
) -> dict[str, Attribute]:
    """The column that people are to be grouped by, learned from or not; its numbers unscaled."""
    if not group_by:
        return {}
    cells, column = table.cells(group_by), describe(config, table, group_by)
    if group_by in config.numeric if by_record else column.kind == "numeric":
        return {group_by: cells.numbers(config.decimal)[cells.codes]}
    return {group_by: np.array(table.column(group_by), np.str_)}


def pool_of(
    config: Csv,
    task: TaskConfig,
    column: LabelColumn,
    features: list[Column],
    raw: NDArray[np.float64],
    table: Table,
    sites: NDArray[np.str_] | None,
    is_train: NDArray[np.bool_],
) -> Pool:
    """The records of a table, whose columns and labels were found to be right."""
    numeric = [column for column in features if column.kind == "numeric"]
    categorical = [column for column in features if column.kind == "categorical"]
    gaps = gap_columns(config, numeric, raw)
    values = scaled(config, [column.name for column in numeric], raw)
    absent = np.isnan(raw[:, [numeric.index(column) for column in gaps]])
    coded = [
        category_codes(config, table.cells(column.name), column.name, column.categories)
        for column in categorical
    ]
    classes, labels = task.encode(column)
    shape = TableInput(
        numeric=len(numeric) + len(gaps),
        cardinalities=tuple(len(column.categories) + 1 for column in categorical),
        names=(
            *(column.name for column in numeric),
            *(f"{column.name}_missing" for column in gaps),
            *(column.name for column in categorical),
        ),
        squashed=scaling.squashed(config.scaling, [column.name for column in numeric]),
    )
    return Pool(
        name=Path(config.path).stem,
        task=task.of(TaskForm(input=shape, classes=classes)),
        features=np.column_stack([values, absent, *coded]).astype(np.float32),
        labels=labels,
        is_train=is_train,
        natural_site=sites,
        standardise_per_site=scaling.reads_records(config.scaling),
        schemas=schemas_of(numeric, gaps, categorical, raw, sites),
    )
