"""A table in the names, codes and units of its owner, as one in those that a run has agreed on.

Names of columns first, then single values, then how numbers are written, then their units: what
comes later speaks of a column by the name that the run has for it, as all other settings do. All of
it is the affair of whoever owns the table: nothing of it is told to others, and a table that is
translated is, to all that comes after, the table that would have been kept in the run's own words.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError
from fedlearn.data.tables.cells import Cells, encode, encode_numbers, number_text
from fedlearn.data.tables.table import Table
from fedlearn.data.tables.units import conversion
from fedlearn.data.tables.written import Way, way_problem, written_numbers

Unit = float | tuple[float, float] | str
"""A factor; a factor and what is added then; or two units by name."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """How a table is written otherwise than in the words of a run.

    `rename` gives columns of the table the run's names; `map` by the run's name of a column
    texts of cells the run's; `written` by the same how numbers are written that are not plain,
    and `units` what makes its numbers the run's.
    """

    rename: Mapping[str, str]
    map: Mapping[str, Mapping[str, str]]
    units: Mapping[str, Unit]
    written: Mapping[str, Way] = field(default_factory=dict)

    def problems(self) -> Iterator[str]:
        """What contradicts itself, as `setting: reason` lines."""
        names = list(self.rename.values())
        for name in sorted({one for one in names if names.count(one) > 1}):
            yield f"rename: two columns become {name!r}"
        for name, way in self.written.items():
            if problem := way_problem(way):
                yield f"written.{name}: {problem}"
        for name, unit in self.units.items():
            try:
                scale, offset = factors(unit)
            except ConfigError as error:
                yield from (f"units.{name}: {problem}" for problem in error.problems)
                continue
            if scale == 0 or not (math.isfinite(scale) and math.isfinite(offset)):
                yield f"units.{name}: {scale:g} is no factor; 0 would make all numbers one"

    def absent(self, header: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each setting with a column that it names and that a translated table has not."""
        ours = {*header}
        yield from (("rename", theirs) for theirs, name in self.rename.items() if name not in ours)
        yield from (("map", name) for name in self.map if name not in ours)
        yield from (("units", name) for name in self.units if name not in ours)
        yield from (("written", name) for name in self.written if name not in ours)

    def of(self, table: Table, missing: Sequence[str], decimal: str) -> Table:
        """The table in the run's words; settings on columns that it lacks change nothing.

        Cells that are among `missing`, and those that hold no number, have no unit. A number is
        within three units in the last place (float64, of the larger of product and offset) of
        what exact arithmetic would make of it.

        Raises:
            ConfigError: a column would be there twice.
        """
        table = self._renamed(table)
        changed = {
            name: _mapped(table.cells(name), values)
            for name, values in self.map.items()
            if name in table.header
        }
        table = written_numbers(table.with_columns(changed), self.written, decimal)
        converted = {
            name: _converted(table.cells(name), *factors(unit), missing, decimal)
            for name, unit in self.units.items()
            if name in table.header
        }
        return table.with_columns(converted)

    def _renamed(self, table: Table) -> Table:
        header = tuple(self.rename.get(name, name) for name in table.header)
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise ConfigError(
                [
                    f"scenario.rename: column {name!r} would be there twice; give the one that has "
                    "the name another one, and drop that"
                    for name in twice
                ]
            )
        return replace(table, header=header)


def factors(unit: Unit) -> tuple[float, float]:
    """Factor and offset of a setting; raises ConfigError for a pair of units that is none."""
    if isinstance(unit, str):
        return conversion(unit)
    return unit if isinstance(unit, tuple) else (unit, 0.0)


def in_order(table: Table, numeric: Sequence[str], categories: Collection[str]) -> Table:
    """The table with its columns in an order that follows from their names alone.

    Those that settings name come first, numbers as they are listed; all others by name. So
    tables of several owners give the same records, in whatever order each of them was written.
    """
    listed = [*numeric, *sorted({*categories} - {*numeric})]
    place = {name: i for i, name in enumerate(listed)}
    names = sorted(table.header, key=lambda name: (place.get(name, len(place)), name))
    return replace(table, header=tuple(names), columns=tuple(table.cells(name) for name in names))


def _mapped(cells: Cells, values: Mapping[str, str]) -> Cells:
    """The column with other texts for some of its values."""
    texts = cells.texts()
    if not any(text in values for text in texts):
        return cells
    found = encode([values.get(text, text) for text in texts], cells.codes)
    return replace(found, is_text=cells.is_text)


def _converted(
    cells: Cells, scale: float, offset: float, missing: Sequence[str], decimal: str
) -> Cells:
    """The column in another unit."""
    gaps, numbers = cells.among(missing), cells.numbers(decimal)
    ours = _apart(numbers * scale + offset, missing, decimal)
    is_number = ~gaps & ~np.isnan(numbers)  # what overflows is written as what no number is
    if cells.are_numbers:
        plain = np.where(gaps & ("" in missing), np.nan, cells.values)
        return encode_numbers(np.where(is_number, ours, plain)[cells.codes], cells.decimal)
    texts = [
        number_text(value, decimal) if number else "" if gap and "" in missing else text
        for text, value, number, gap in zip(
            cells.texts(), ours.tolist(), is_number, gaps, strict=True
        )
    ]
    return encode(texts, cells.codes)


def _apart(
    numbers: NDArray[np.float64], missing: Sequence[str], decimal: str
) -> NDArray[np.float64]:
    """The numbers, none of which is written as a gap is: such a one is moved by its last place."""
    texts = {*missing}
    alike = [number_text(value, decimal) in texts for value in numbers.tolist()]
    beside = np.where(numbers == 0, 5e-324, np.nextafter(numbers, 0.0))
    return np.where(np.array(alike, bool) & ~np.isnan(numbers), beside, numbers)
