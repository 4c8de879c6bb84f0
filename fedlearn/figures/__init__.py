"""Statistics: figures of all sites' tables from one release of sums, private where the run is.

`parts` says what a record adds, `layout` puts the parts of a table together, `prefixes` has the
matrix by which quantiles are released, `estimates` makes figures of opened sums. What the release
costs is planned in `fedlearn.mechanisms.statistics`; docs/statistics.md derives all of it.
"""

from __future__ import annotations

from fedlearn.figures.estimates import TableSums
from fedlearn.figures.layout import TableLayout, layout_of
from fedlearn.figures.parts import (
    ChoicePart,
    CrossingPart,
    NumberPart,
    OutcomePart,
    PairPart,
    TableRows,
)
from fedlearn.figures.settings import NoStatistics, Statistics, TableStatistics, asked
from fedlearn.figures.table import FILE, StatisticsFile, TableFigures

__all__ = [
    "FILE",
    "ChoicePart",
    "CrossingPart",
    "NoStatistics",
    "NumberPart",
    "OutcomePart",
    "PairPart",
    "Statistics",
    "StatisticsFile",
    "TableFigures",
    "TableLayout",
    "TableRows",
    "TableStatistics",
    "TableSums",
    "asked",
    "layout_of",
]
