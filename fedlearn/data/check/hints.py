"""What could be better in a table of one's own, in sentences for its owner."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from fedlearn.core.errors import some
from fedlearn.data.check.over_time import OverTime, persons
from fedlearn.data.tables import guess
from fedlearn.data.tables.cells import Cells
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.csv_notes import may_be_gaps
from fedlearn.data.tables.sentinels import sentinels
from fedlearn.data.tables.table import Table
from fedlearn.data.tables.written import may_be_either

_POSTCODE = re.compile(r"zip([ _-]?code)?|post(al)?[ _-]?code|plz", re.IGNORECASE)
_AGE = re.compile(
    r"age|age[ _-]?(in[ _-]?)?years|alter|âge|edad|età|idade|leeftijd|wiek|возраст|yaş|年龄|年齢"
    r"|나이|연령|العمر|आयु",
    re.IGNORECASE,
)
FEW: Final = 50
"""Different values that categories may have."""
_NAMED: Final = 10
"""Different values that somebody would write down."""
_NARROW = 0.25
"""Middle nine tenths of a column, over its largest size: below, a model sees its values as one."""
_RARE = 0.1
"""Share of a class below which a model may well never name it."""


def hints(
    table: Table,
    found: Sequence[Column],
    label: Sequence[str],
    writing: guess.Writing,
    texts: Sequence[str] = (),
    over: OverTime | None = None,
    person: str = "",
    taken: Sequence[str] = (),
) -> Iterator[str]:
    """All of them; `label` is the column that is likely to be it, if any, `over` says which
    rows are taken as one record, and `person` is the column of who has several. What is `taken`
    has a role, or is dropped.

    Where there are `texts`, these alone are learned from, and other columns need nothing.
    """
    yield from _rare_classes(table, label, writing.missing)
    if texts:
        return
    yield from _named_gaps(table, found, writing.missing)
    yield from _gaps(table, found, writing)
    yield from _either(table, found, writing)
    numbers = [one.name for one in found if one.kind == "numeric" and not one.identifier]
    yield from _ranges(table, numbers, writing.decimal)
    yield from _categories([one for one in found if one.name not in taken])
    for column in found:
        yield from _coarser(column)
    yield from _persons(table, found, over, person)


def _gaps(table: Table, found: Sequence[Column], writing: guess.Writing) -> Iterator[str]:
    """Numbers, and dates, that may stand for gaps; those of a settings line are said there."""
    for column in found:
        values = sentinels(table.cells(column.name), writing.missing, writing.decimal)
        if values and (column.kind == "numeric" or "dates" in column.identifier):
            yield f"column {column.name!r}: {may_be_gaps(values)}"


def _either(table: Table, found: Sequence[Column], writing: guess.Writing) -> Iterator[str]:
    """Numbers that may be a thousand times as large."""
    for column in found:
        cells = table.cells(column.name)
        plain = column.kind == "numeric" and not cells.are_numbers
        if plain and may_be_either(cells, writing.missing, writing.decimal):
            text = next(one for one in cells.texts(cells.counts > 0) if writing.decimal in one)
            other = "," if writing.decimal == "." else "."
            yield (
                f"column {column.name!r}: {text} may be a number of thousands; if so, the decimal "
                f"sign is another one (scenario.decimal='{other}' and "
                f"{guess.key_of('scenario.written', column.name)}=thousands)"
            )


def _ranges(table: Table, numbers: Sequence[str], decimal: str) -> Iterator[str]:
    narrow = [name for name in numbers if _is_narrow(table.cells(name), decimal)]
    ways = "what the field holds possible: scenario.scaling.columns.NAME=[LOW,HIGH]"
    if narrow:
        yield (
            f"numbers that vary by less than a quarter of their size ({some(narrow)}) need a "
            f"public range to be told apart, {ways}"
        )
    if rest := [name for name in numbers if name not in narrow]:
        yield f"numbers ({some(rest)}) may be learned better from a public range, {ways}"


def _is_narrow(cells: Cells, decimal: str) -> bool:
    values = cells.numbers(decimal)[cells.codes]
    values = values[np.isfinite(values)]
    if not len(values):
        return False
    low, high = np.quantile(values, [0.05, 0.95])
    return bool(high - low < _NARROW * max(abs(low), abs(high)))


def _rare_classes(table: Table, label: Sequence[str], missing: Sequence[str]) -> Iterator[str]:
    for name in label:
        cells = table.cells(name)
        counts = np.where(cells.among(missing), 0, cells.counts)
        if rare := cells.texts((counts > 0) & (counts < _RARE * counts.sum())):
            key = f'"{rare[0]}"' if "=" in rare[0] else rare[0]
            yield (
                f"classes of {name!r} with less than a tenth of the records ({some(rare)}): a "
                "model may never name them; if the rest is to count for less, say how much by "
                f"public knowledge of how common they are (training.class_weights.{key}=WEIGHT)"
            )


def _categories(found: Sequence[Column]) -> Iterator[str]:
    """Columns of few values, which a model names only where they are named in settings."""
    few = [c for c in found if c.kind == "categorical" and 2 <= c.distinct <= _NAMED]
    if few:
        values = ",".join(map(guess.quoted, few[0].categories))
        yield (
            f"categories ({some([column.name for column in few])}): where they are public, name "
            "them, so that every site, and whoever gets the model, has the same "
            f"({guess.key_of('scenario.categories', few[0].name)}=[{values}])"
        )


def _coarser(column: Column) -> Iterator[str]:
    if _POSTCODE.fullmatch(column.name):
        yield (
            f"column {column.name!r}: a postcode narrows people down to a few; keep its "
            f"start (scenario.deidentify.prefixes.{column.name}=3)"
        )
    elif column.kind == "numeric" and _AGE.fullmatch(column.name):
        yield (
            f"column {column.name!r}: great ages are rare; bands tell less "
            f"(scenario.deidentify.bands.{column.name}=10)"
        )


def _persons(
    table: Table, found: Sequence[Column], over: OverTime | None, person: str
) -> Iterator[str]:
    """Several rows of one person, and what they are taken for."""
    if person:
        yield (
            f"rows of one {person!r} are of one person, to whom the whole promise is made, and are "
            "trained on or tested on together; where each row is of another person, leave out "
            "scenario.person; where they are one record over time, see scenario.record"
        )
        return
    if over is not None:
        yield (
            f"rows of one {over.record!r} are taken as one record over time; where each row is "
            "one, leave out scenario.record, scenario.time, scenario.times and model=sequence"
        )
        return
    for column in persons(found):
        rows = len(table) - column.missing
        if again := rows - column.distinct:
            yield (
                f"{again:,} of {rows:,} rows are of a {column.name!r} that an earlier row has: "
                "each row is a record, so that one person may be trained on and tested on, and is "
                f"protected less than a record. Make the person the unit (scenario.person="
                f"{column.name}), keep one row each, or make them one record over time "
                "(scenario.record, scenario.time, model=sequence)"
            )
            return


def _named_gaps(table: Table, found: Sequence[Column], missing: Sequence[str]) -> Iterator[str]:
    """Letters that are taken for gaps in a column of words, where they may be one of these."""
    for column in found:
        cells = table.cells(column.name)
        if column.kind != "categorical" or column.distinct > FEW:
            continue
        letters = [sign for sign in missing if sign.isalpha()]
        for sign in letters:
            rows = int(cells.counts[cells.among((sign,))].sum())
            if rows:
                others = [other for other in missing if other != sign]
                yield (
                    f"column {column.name!r}: {rows:,} rows hold {sign!r}, which is taken for a "
                    f"gap; if it is a value, say what gaps are ({guess.missing_of(others)})"
                )
