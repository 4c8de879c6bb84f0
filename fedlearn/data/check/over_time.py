"""Tables in long form: several rows a person, and a column that puts them in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.check.roles import is_called
from fedlearn.data.tables import guess
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.moments import ways_of
from fedlearn.data.tables.table import Table


@dataclass(frozen=True, kw_only=True)
class OverTime:
    """Rows that are one record each person: the columns of persons and times, and how the latter
    are written (`scenario.times`)."""

    record: str
    time: str
    times: str

    def settings(self) -> Iterator[str]:
        """The overrides that say so."""
        yield f"scenario.record={guess.quoted(self.record)}"
        yield f"scenario.time={guess.quoted(self.time)}"
        yield f"scenario.times={self.times}"
        yield "model=sequence"


def persons(found: Sequence[Column]) -> list[Column]:
    """The columns that are called as persons, or stays, are, that with most gaps last."""
    named = [column for column in found if is_called(column.name, "person") and column.distinct]
    return sorted(named, key=lambda column: column.missing)


def over_time(
    table: Table,
    found: Sequence[Column],
    label: str,
    site: str,
    missing: Sequence[str],
    decimal: str,
) -> OverTime | None:
    """How rows are one record over time, where a table is so and can be read so.

    That is: at least two rows a person, a column of times of which no person has one twice, and
    one label and one site for all rows of a person.
    """
    owners = [column for column in persons(found) if 2 * column.distinct <= len(table)]
    times = [column.name for column in found if is_called(column.name, "time")]
    for owner in owners:
        who = table.cells(owner.name).codes
        if owner.missing or not all(
            _is_one_each(table, who, name, missing) for name in (label, site) if name
        ):
            continue
        for time in times:
            written = _written(table, time, missing, decimal)
            if written and time not in (owner.name, label, site) and _differ(table, who, time):
                return OverTime(record=owner.name, time=time, times=written)
    return None


def _is_one_each(table: Table, who: NDArray[np.int32], name: str, missing: Sequence[str]) -> bool:
    cells = table.cells(name)
    given = ~cells.among(missing)[cells.codes]
    pairs = np.unique(np.stack([who[given], cells.codes[given]]), axis=1)
    return bool(len(np.unique(pairs[0])) == pairs.shape[1])


def _differ(table: Table, who: NDArray[np.int32], time: str) -> bool:
    pairs = np.stack([who, table.cells(time).codes])
    return bool(np.unique(pairs, axis=1).shape[1] == len(who))


def _written(table: Table, time: str, missing: Sequence[str], decimal: str) -> str:
    """What `scenario.times` is for a column; empty where not all its cells are times, or dates can
    be read in two ways."""
    cells = table.cells(time)
    if cells.among(missing)[cells.codes].any():
        return ""
    if np.isfinite(cells.numbers(decimal)[cells.codes]).all():
        return "numbers"
    ways = ways_of(cells.texts(cells.counts > 0))
    return ways[0] if len(ways) == 1 else ""
