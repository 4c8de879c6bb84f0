"""What `fedlearn data check` says could be better about a table that can be learned from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from fedlearn.data.check.report import some
from fedlearn.data.tables.cells import Cells
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.guess import Writing
from fedlearn.data.tables.table import Table

_OWNER = re.compile(
    r"(patient(en)?|person(en)?|subject|client|customer|account|user|case|stay|admission"
    r"|kunden?|fall)([ _-]?(id|no|number|nr|nummer))?",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"(visit|chart|event|time)?[ _-]?"
    r"(time(stamp)?|hour|day|week|month|quarter|year|date|step|visit)s?([ _-]?(no|number|nr))?",
    re.IGNORECASE,
)
_POSTCODE = re.compile(r"zip([ _-]?code)?|post(al)?[ _-]?code|plz", re.IGNORECASE)
_AGE = re.compile(r"age|age[ _-]?(in[ _-]?)?years|alter", re.IGNORECASE)
_NARROW = 0.25
"""Middle nine tenths of a column, over its largest size: below, a model sees its values as one."""
_RARE = 0.1
"""Share of a class below which a model may well never name it."""


def hints(
    table: Table,
    found: Sequence[Column],
    label: Sequence[str],
    writing: Writing,
    texts: Sequence[str] = (),
) -> Iterator[str]:
    """All of them; `label` is the column that is likely to be it, if any.

    Where there are `texts`, these alone are learned from, and other columns need nothing.
    """
    yield from _rare_classes(table, label, writing.missing)
    if texts:
        return
    numbers = [one.name for one in found if one.kind == "numeric" and not one.identifier]
    yield from _ranges(table, numbers, writing.decimal)
    for column in found:
        yield from _coarser(column)
    yield from _over_time(table, found)


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


def roughly(number: float) -> int:
    """A whole number from 1 with two digits that are not zero, as 1300 for 1284."""
    return max(1, int(float(f"{number:.2g}")))


def _over_time(table: Table, found: Sequence[Column]) -> Iterator[str]:
    """A table in long form: several rows a person, and a column that orders them."""
    most = len(table) / 2
    owners = [c.name for c in found if _OWNER.fullmatch(c.name) and c.distinct <= most]
    times = [c.name for c in found if _TIME.fullmatch(c.name)]
    if owners and times:
        yield (
            f"several rows for each {owners[0]!r}: if they are one record over time, choose "
            f"scenario.record={owners[0]} scenario.time={times[0]} model=sequence; otherwise rows "
            "of one person are trained on and tested on"
        )
