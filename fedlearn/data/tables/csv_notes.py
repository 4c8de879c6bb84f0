"""What is unusual in a table that can be learned from, in sentences for its owner.

They stay where the records are: in the log of a site, and on the screen of a simulation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedlearn.data.tables import scaling
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.scaling import Ranges
from fedlearn.data.tables.sentinels import Sentinel, sentinels
from fedlearn.data.tables.spelling import Spellings, lookalikes, may_be_one, taken_as_one
from fedlearn.data.tables.table import Table, duplicates
from fedlearn.data.tables.written import way_of

if TYPE_CHECKING:
    from fedlearn.data.tables.csv import Csv


def notes(
    config: Csv, table: Table, features: Sequence[Column], several: Mapping[str, list[Spellings]]
) -> Iterator[str]:
    """All of them; `several` are the spellings that were taken as one value, by column."""
    yield from _of_columns(config, table, features)
    yield from _of_spellings(config, table, features, several)
    yield from _of_numbers(config, table, features)


def _of_numbers(config: Csv, table: Table, features: Sequence[Column]) -> Iterator[str]:
    """Numbers that may be gaps, and numbers that a public range cuts off."""
    ranges = config.scaling.columns if isinstance(config.scaling, Ranges) else {}
    for column in features:
        if column.kind != "numeric":
            continue
        cells, where = table.cells(column.name), f"{config.path}: column {column.name!r}"
        if found := sentinels(cells, config.missing, config.decimal):
            yield f"{where}: {may_be_gaps(found)}"
        if column.name in ranges:
            low, high = ranges[column.name]
            numbers = np.where(cells.among(config.missing), np.nan, cells.numbers(config.decimal))
            beyond = int(cells.counts[(numbers < low) | (numbers > high)].sum())
            if beyond:
                yield (
                    f"{where}: {beyond:,} of {len(cells):,} numbers lie outside of its public "
                    f"range {[low, high]} and count as its ends"
                )


def may_be_gaps(found: Sequence[Sentinel]) -> str:
    """What is said of values that may stand for gaps."""
    one = f"{'; '.join(map(str, found))} may stand for a gap"
    return f"{one}, and is trained on as a number; if so, add it to scenario.missing"


def _of_spellings(
    config: Csv, table: Table, features: Sequence[Column], several: Mapping[str, list[Spellings]]
) -> Iterator[str]:
    """Values that were taken as one, and values that may be one."""
    for name, groups in several.items():
        yield f"{config.path}: column {name!r}: {taken_as_one(groups)}"
    named = (config.label, config.event, config.site, config.record, config.person)
    roles = [name for name in named if name]
    coded = [column.name for column in features if column.kind == "categorical"]
    for name in (*roles, *coded):
        cells = table.cells(name)
        if groups := lookalikes(cells.texts((cells.counts > 0) & ~cells.among(config.missing))):
            yield f"{config.path}: column {name!r}: {may_be_one(groups)}"


def _of_columns(config: Csv, table: Table, features: Sequence[Column]) -> Iterator[str]:
    for column in features:
        if column.kind == "empty":
            yield f"{config.path}: column {column.name!r} holds nothing, left out"
        elif column.kind == "categorical" and column.name not in (
            *config.categories,
            *config.buckets,
        ):
            cells = table.cells(column.name)
            if (way := way_of(cells, config.missing, config.decimal)) is not None:
                yield (
                    f"{config.path}: column {column.name!r}: each value is a category of its own; "
                    f"they look like numbers (scenario.written.{column.name}='{way}')"
                )
        elif column.name in config.categories:
            known = {*column.categories, *config.missing}
            unseen = sum(cell not in known for cell in table.column(column.name))
            if unseen:
                yield (
                    f"{config.path}: column {column.name!r}: {unseen} values that are not "
                    "among its categories are taken as missing"
                )
    numbers = [column.name for column in features if column.kind == "numeric"]
    squashed = [numbers[i] for i in scaling.squashed(config.scaling, numbers)]
    if squashed:
        yield (
            "numbers without a public range are told apart by some ten percent: "
            f"{', '.join(squashed)}; a range costs no privacy and helps those that vary by less, "
            "as years and temperatures do (scenario.scaling.columns.NAME=[LOW,HIGH])"
        )
    copies = duplicates(table, aside=(config.site, *config.drop))
    if copies:
        yield (
            f"{config.path}: {table.places(copies)}: copies of an earlier record; a person in the "
            "table twice weighs twice, and may be in training and test alike where dropped columns "
            "differ"
        )
