"""All sums of a table as one vector: which there are, what a record adds, and what is given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.data.tables.scaling import Scaling, public_ranges
from fedlearn.figures.parts import (
    ChoicePart,
    CountPart,
    CrossingPart,
    Floats,
    NumberPart,
    OutcomePart,
    PairPart,
    SumPart,
    TableRows,
    points_of_size,
    points_within,
)
from fedlearn.figures.settings import TableStatistics
from fedlearn.privacy import Unit
from fedlearn.tasks import TableInput, Task

GAP: Final = "_missing"
"""What the name of a column of gaps ends in."""

FIXED: Final = 1 << 20
"""Steps in 1 of what a record adds: whole numbers add up to the same in every order."""

MOST_NUMBERS: Final = 100_000

_OF_COUNT: Final = 0.25
_OF_NUMBERS: Final = 4.0
_OF_PAIRS: Final = 2.0
_OF_OUTCOMES: Final = 4.0
"""Parts of the precision, where a column of categories has 1: what is read off many sums needs
more of it than a single count."""

P = TypeVar("P", bound=SumPart)


@dataclass(frozen=True)
class TableLayout:
    """The parts of all sums, one after the other; the first counts the records."""

    parts: tuple[SumPart, ...]

    @cached_property
    def size(self) -> int:
        """NumberPart of all of them."""
        return sum(part.width for part in self.parts)

    @property
    def weights(self) -> tuple[float, ...]:
        """Parts of the precision, which sum to 1."""
        total = sum(part.weight for part in self.parts)
        return tuple(part.weight / total for part in self.parts)

    @property
    def guarded(self) -> bool:
        """Whether there are categories that are not public: a threshold keeps those of one."""
        return self.most_alone("record") > 0

    def most_alone(self, unit: Unit) -> int:
        """How many categories that are not public one alone can have: a record one of each such
        column, a person with many records all of them."""
        hidden = [part for part in self.of(ChoicePart) if not part.public]
        return len(hidden) if unit == "record" else sum(part.codes for part in hidden)

    def of(self, kind: type[P]) -> list[P]:
        """The parts of one kind."""
        return [part for part in self.parts if isinstance(part, kind)]

    def slices(self) -> Iterator[tuple[int, SumPart, slice]]:
        """Every part, its number, and where its sums are."""
        at = 0
        for number, part in enumerate(self.parts):
            yield number, part, slice(at, at + part.width)
            at += part.width

    def added(self, rows: TableRows) -> NDArray[np.int64]:
        """What records add, in steps of `FIXED`: `int64[n, size]`, rounded towards zero."""
        found = np.hstack([part.added(rows) for part in self.parts])
        return np.asarray(np.trunc(found * FIXED), np.int64)

    def given(self, sums: NDArray[np.int64], steps: Sequence[int]) -> NDArray[np.int64]:
        """What is given for sums in steps of `FIXED`: whole numbers, `steps` for each `bound`.

        Guarantees: sums that differ by what one record adds, or by a mean of such, are given as
        vectors that differ by at most the norm of `steps` and the root of `size`: every number is
        rounded once.
        """
        found = np.empty(self.size)
        for number, part, at in self.slices():
            found[at] = part.encoded(sums[at] / FIXED) * (steps[number] / part.bound)
        return np.asarray(np.rint(found), np.int64)

    def opened(self, given: NDArray[np.int64], steps: Sequence[int]) -> Floats:
        """The sums, of what was given for them."""
        found = np.empty(self.size)
        for number, part, at in self.slices():
            own = np.asarray(given[at], np.float64)
            found[at] = part.decoded(own * (part.bound / steps[number]))
        return found


def layout_of(
    task: Task,
    scaling: Scaling | None,
    settings: TableStatistics,
    categories: Mapping[str, tuple[str, ...]],
    label: str,
) -> TableLayout:
    """The sums of records of this task.

    Args:
        categories: by column, those that are public.
        label: what the label is called.

    Raises:
        ConfigError: there are none for such records, or a setting names what is not there.
    """
    table, ranges = task.form.input, public_ranges(scaling)
    if not isinstance(table, TableInput) or ranges is None:
        raise ConfigError(["statistics=table: it is for rows of a table; other records have none"])
    columns = {c.name: c for c in _columns(table, ranges, settings.points, categories)}
    columns |= {c.name: c for c in _labels(task, label, settings.points)}
    refuse(_problems(settings, columns), ConfigError)
    chosen = [c for c in columns.values() if not settings.columns or c.name in settings.columns]
    layout = TableLayout(
        (CountPart(name="", weight=_OF_COUNT), *chosen, *_pairs(settings, columns))
    )
    if layout.size > MOST_NUMBERS:
        raise ConfigError(
            [
                f"statistics: {layout.size:,} sums are more than the {MOST_NUMBERS:,} that are "
                "released; name fewer statistics.columns or statistics.tables"
            ]
        )
    return layout


def _columns(
    table: TableInput,
    ranges: Mapping[str, tuple[float, float]],
    points: int,
    categories: Mapping[str, tuple[str, ...]],
) -> Iterator[SumPart]:
    names = table.names or tuple(f"column {i + 1}" for i in range(table.width))
    numeric = {name: i for i, name in enumerate(names[: table.numeric])}
    for name, i in numeric.items():
        if name.endswith(GAP) and name.removesuffix(GAP) in numeric:
            continue
        gap = numeric.get(name + GAP)
        low, high = ranges.get(name, (math.nan, math.nan))
        if (name in ranges and (low, high) != (0, 1)) or i in table.squashed:
            sized = i in table.squashed
            count = points_of_size(points) if sized else points_within(low, high, points)
            yield NumberPart(
                name=name, weight=_OF_NUMBERS, at=i, gap=gap,
                low=low, high=high, size=sized, points=count,
            )  # fmt: skip
        else:
            # A range from 0 to 1 is that of a yes, and comes as -1 to 1.
            least = -1.0 if name in ranges else 0.0
            yield ChoicePart(name=name, at=i, codes=2, names=("0", "1"), flag=True, low=least)
    for at, (name, size) in enumerate(
        zip(names[table.numeric :], table.cardinalities, strict=True), table.numeric
    ):
        yield ChoicePart(name=name, at=at, codes=size, names=categories.get(name, ()))


def _labels(task: Task, label: str, points: int) -> Iterator[SumPart]:
    """The label: a class, what became of records over time, or a number in a public range."""
    if task.form.classes:
        classes = task.form.classes
        yield ChoicePart(name=label, at=None, codes=len(classes), names=classes)
    elif task.has_events:
        ends, unit = tuple(task.settings.ends.tolist()), task.settings.unit  # type: ignore[attr-defined]
        yield OutcomePart(name=label, weight=_OF_OUTCOMES, ends=ends, unit=unit)
    elif (settings := getattr(task, "settings", None)) and hasattr(settings, "low"):
        low, high = settings.low, settings.high
        yield NumberPart(
            name=label, weight=_OF_NUMBERS, at=None, gap=None,
            low=low, high=high, size=False, points=points_within(low, high, points),
        )  # fmt: skip


def _pairs(settings: TableStatistics, columns: Mapping[str, SumPart]) -> Iterator[SumPart]:
    for one, other in settings.tables:
        a, b = columns[one], columns[other]
        if isinstance(a, ChoicePart) and isinstance(b, ChoicePart):
            yield CrossingPart(name=f"{one}, {other}", one=a, other=b)
    for one, other in itertools.combinations(settings.correlations, 2):
        x, y = columns[one], columns[other]
        if isinstance(x, NumberPart) and isinstance(y, NumberPart):
            yield PairPart(name=f"{one}, {other}", weight=_OF_PAIRS, one=x, other=y)


def _problems(settings: TableStatistics, columns: Mapping[str, SumPart]) -> Iterator[str]:
    """Columns that are not there, or of the wrong kind."""
    there = ", ".join(columns)
    asked = list[tuple[str, str, type[Any], str]]()
    asked += [("columns", name, SumPart, "") for name in settings.columns]
    asked += [
        ("tables", n, ChoicePart, "no column of categories") for t in settings.tables for n in t
    ]
    asked += [
        ("correlations", n, NumberPart, "no column of numbers") for n in settings.correlations
    ]
    for setting, name, kind, wrong in dict.fromkeys(asked):
        if name not in columns:
            yield f"statistics.{setting}: no column {name!r}; there are {there}"
        elif not isinstance(columns[name], kind):
            yield f"statistics.{setting}: {name!r} is {wrong}"
        elif isinstance(columns[name], NumberPart) and columns[name].size and setting != "columns":  # type: ignore[attr-defined]
            yield (
                f"statistics.{setting}: {name!r} has no public range; give one "
                f"(scenario.scaling.columns.{name}=[LOW,HIGH])"
            )
    for one, other in settings.tables:
        for name in (one, other):
            if isinstance(found := columns.get(name), ChoicePart) and not found.public:
                yield (
                    f"statistics.tables: the categories of {name!r} are not public; name them "
                    f"(scenario.categories.{name}=[...])"
                )
