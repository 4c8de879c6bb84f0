"""What `fedlearn data check` says of a table: columns, roles, and the settings that read it.

Roles of columns are suggestions. Ranges for scaling are deliberately not suggested from the data:
a range is what the field holds possible, and a minimum is somebody's value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from fedlearn.core.errors import some
from fedlearn.data.check import texts
from fedlearn.data.check.hints import hints
from fedlearn.data.check.over_time import OverTime, over_time, persons
from fedlearn.data.check.problems import (
    MAX_CATEGORIES,
    has_many_values,
    odd_numbers,
    problems,
    several_units_of,
)
from fedlearn.data.check.report import Report
from fedlearn.data.check.roles import is_called, likely_first
from fedlearn.data.check.sizes import dealt, nominal_records, sizes_if_dealt
from fedlearn.data.tables import columns, guess
from fedlearn.data.tables.buckets import USUAL
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.spelling import (
    Spellings,
    lookalikes,
    may_be_categories,
    may_be_one,
    spelled,
    taken_as_one,
)
from fedlearn.data.tables.table import Separator, Table, duplicates
from fedlearn.data.tables.written import example_of, written_numbers

_MAX_CLASSES: Final = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class _Understood:
    """A table as it would be read, and which of its columns could be what."""

    table: Table
    writing: guess.Writing
    columns: tuple[Column, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    sites: tuple[str, ...]
    over: OverTime | None = None
    aside: tuple[str, ...] = ()
    """Columns that hold what no cell does."""

    @property
    def site(self) -> str:
        """The column of sites, if one is called so: what only looks alike may be anything."""
        named = self.sites and is_called(self.sites[0], "site")
        return self.sites[0] if named else ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The columns that are not learned from, for they have a role."""
        over = () if self.over is None else (self.over.record, self.over.time)
        return tuple(filter(None, (*self.labels[:1], self.site, self.person, *over)))

    @property
    def person(self) -> str:
        """The column of persons of whom there are several rows, each a record by itself."""
        if self.over is not None or self.texts:
            return ""
        taken = (*self.labels[:1], self.site)
        owners = [c for c in persons(self.columns) if c.name not in taken]
        several = owners[:1] if owners and owners[0].distinct < len(self.table) else []
        return several[0].name if several and not several[0].missing else ""

    @property
    def dropped(self) -> list[str]:
        """The columns that nothing can be learned from."""
        found = [c.name for c in self.columns if c.name not in self.roles and self._is_lost(c)]
        return [*found, *self.aside]

    def _is_lost(self, column: Column) -> bool:
        many = has_many_values(column) and not self.may_be_bucketed(column)
        mixed = bool(several_units_of(column))
        return bool(column.identifier) or column.kind == "empty" or many or mixed

    def may_be_bucketed(self, column: Column) -> bool:
        """Whether a hash may make categories of a column: values return, and are no numbers."""
        cells = self.table.cells(column.name)
        given = len(self.table) - column.missing
        usable = has_many_values(column) and not column.identifier and 2 * column.distinct <= given
        return usable and column.name not in self.texts and not odd_numbers(cells)

    def looked_at(self, column: Column) -> bool:
        """Whether something may be wrong with a column: not of what says whose a row is."""
        return column.name != self.person and not (self.over and column.name in self.roles)

    @property
    def bucketed(self) -> list[Column]:
        """The columns that have too many values to name them."""
        return [c for c in self.columns if c.name not in self.roles and self.may_be_bucketed(c)]


def check_table(
    path: Path,
    table: Table,
    separator: Separator | None,
    written: Sequence[str],
    aside: Sequence[str] = (),
) -> Report:
    """What there is to say of a table; its columns `aside` hold what no cell does.

    `written` are the settings that say how the file is written.
    """
    found, several = _understood(table, separator, aside)
    return Report(
        path=path,
        kind="a table",
        records=len(table),
        separator=separator,
        counted=table.counted,
        columns=found.columns,
        texts=found.texts,
        labels=found.labels,
        sites=found.sites,
        duplicates=tuple(table.lines[duplicates(found.table)].tolist()),
        facts=tuple(_facts(table, found)),
        hints=(
            *_merged(several),
            *hints(found.table, found.columns, found.labels[:1], found.writing, found.texts,
                   found.over, found.person, (*found.roles, *found.dropped)),
        ),
        problems=(
            *problems(found.table, found.columns, found.looked_at, found.may_be_bucketed),
            *_alike([column for column in found.columns if column.name not in found.texts]),
            *_no_label(found.columns, found.labels),
        ),
        settings=tuple(_settings(path, found, written)),
    )  # fmt: skip


def _understood(
    raw: Table, separator: Separator | None, aside: Sequence[str]
) -> tuple[_Understood, Mapping[str, list[Spellings]]]:
    writing = guess.writing_of(raw, separator)
    table = written_numbers(raw, dict(writing.ways), writing.decimal)
    may_be = partial(may_be_categories, missing=writing.missing, decimal=writing.decimal)
    coded = [name for name in table.header if may_be(table.cells(name))]
    table, several = spelled(table, writing.decimal, named={}, found=coded)
    describe = partial(columns.describe, missing=writing.missing, decimal=writing.decimal)
    found = tuple(describe(name, table.cells(name)) for name in table.header if name not in aside)
    of_texts = texts.text_columns(table, found)
    others = [column for column in found if column.name not in of_texts]
    labels = _classes_of_texts(others, len(table)) if of_texts else _labels(others)
    sites = _sites([column for column in others if column.name not in labels[:1]])
    known = _Understood(table=table, writing=writing, columns=found, texts=of_texts, labels=labels,
                        sites=sites, aside=tuple(aside))  # fmt: skip
    over = None
    if labels and not of_texts:
        over = over_time(table, found, labels[0], known.site, writing.missing, writing.decimal)
    if over is None:  # a row without a site is no record then
        gaps = {column.name for column in found if column.missing}
        known = replace(known, sites=tuple(name for name in sites if name not in gaps))
    return replace(known, over=over), several


def _settings(path: Path, found: _Understood, written: Sequence[str]) -> Iterator[str]:
    records = _records(found)
    sizes = _sizes_of_sites(records, found.site)
    yield from ("scenario=csv", f"scenario.path={guess.quoted(str(path))}")
    yield f"scenario.label={guess.quoted(found.labels[0]) if found.labels else 'COLUMN'}"
    yield from _site(found.site) if found.site else dealt(len(records))
    yield from written
    yield from found.writing.settings()
    if found.dropped:
        yield f"scenario.drop=[{','.join(map(guess.quoted, found.dropped))}]"
    for column in found.bucketed:
        yield f"{guess.key_of('scenario.buckets', column.name)}={USUAL}"
    if found.over is not None:
        yield from found.over.settings()
    if found.person:
        yield f"scenario.person={guess.quoted(found.person)}"
    yield f"training.nominal_records={nominal_records(sizes)}"
    if len(sizes) == 2:  # of a sum over two a site would only have to take away its own part
        yield "secagg=off"


def _facts(raw: Table, found: _Understood) -> Iterator[str]:
    writing = found.writing
    if writing.decimal == ",":
        yield "numbers are written with a comma, as in 0,5"
    for name, way in writing.ways:
        read = example_of(raw.cells(name), way, writing.decimal)
        key = guess.key_of("scenario.written", name)
        yield f"column {name!r}: {read} ({key}={guess.quoted(way)})"
    if writing.gaps:
        signs = ", ".join(map(repr, writing.gaps))
        yield f"among numbers, taken for gaps: {signs}"
    for column in () if found.texts else found.bucketed:
        yield (
            f"column {column.name!r}: {column.distinct:,} different values; a hash makes {USUAL} "
            f"categories of them ({guess.key_of('scenario.buckets', column.name)}={USUAL})"
        )
    if found.over is not None:
        yield (
            f"a record is all rows of one {found.over.record!r}, in the order of "
            f"{found.over.time!r}"
        )
    if found.aside:
        yield f"not looked at, for they hold no text and no number: {some(found.aside)}"


def _merged(several: Mapping[str, list[Spellings]]) -> Iterator[str]:
    for name, groups in several.items():
        yield f"column {name!r}: {taken_as_one(groups)}"


def _alike(found: Sequence[Column]) -> Iterator[str]:
    """Categories that may be one, where there are so few that they are categories."""
    for column in found:
        few = column.kind == "categorical" and not has_many_values(column)
        if few and (groups := lookalikes(column.categories)):
            yield f"column {column.name!r}: {may_be_one(groups)}"


def _classes_of_texts(found: Sequence[Column], records: int) -> tuple[str, ...]:
    """As `_labels`; texts may have more classes than a table, and other names for them."""
    most = min(MAX_CATEGORIES, records // 2)
    few = [c for c in found if 2 <= c.distinct <= most and not c.identifier]
    return likely_first(few, "class")


def _labels(found: Sequence[Column]) -> tuple[str, ...]:
    few = [c for c in found if 2 <= c.distinct <= _MAX_CLASSES and not c.identifier]
    return likely_first(few, "label")


def _sites(found: Sequence[Column]) -> tuple[str, ...]:
    several = [c for c in found if c.distinct >= 2 and c.kind == "categorical"]
    named = [c for c in found if is_called(c.name, "site") and c.distinct >= 2]
    few = [c for c in several if c.distinct <= MAX_CATEGORIES and c not in named]
    return likely_first([*named, *(c for c in few if not c.identifier)], "site")


def _site(name: str) -> tuple[str, ...]:
    return (f"scenario.site={guess.quoted(name)}",)


def _records(found: _Understood) -> Table:
    """One row of what a step draws: of people over time one that says where they are."""
    table = found.table
    if found.person:
        return table.take(np.unique(table.cells(found.person).codes, return_index=True)[1])
    if found.over is None:
        return table
    if found.site:
        sites = table.cells(found.site)
        table = table.take(sites.rows(~sites.among(found.writing.missing)))
    owners = table.cells(found.over.record).codes
    return table.take(np.unique(owners, return_index=True)[1])


def _sizes_of_sites(records: Table, site: str) -> list[int]:
    """As the suggested command has it, training and test records together."""
    if site:
        return list(Counter(records.column(site)).values())
    return sizes_if_dealt(len(records))


def _no_label(found: tuple[Column, ...], labels: tuple[str, ...]) -> Iterator[str]:
    """A table without a column that could be learned; one that is called so has one value only."""
    if labels:
        return
    constant = [c for c in found if c.distinct == 1 and is_called(c.name, "label")]
    for column in constant:
        value = column.categories[0]
        yield f"column {column.name!r}: every record is {value!r}; there is nothing to learn"
    if not constant:
        yield (
            f"no column could be the label, which has 2 to {_MAX_CLASSES} different values: "
            "group those of the column that is to be predicted"
        )
