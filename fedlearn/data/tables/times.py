"""The times of a table's rows: numbers, or dates as `scenario.times` says they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.tables.moments import IN_WORDS, Dates, moment_of
from fedlearn.data.tables.spelling import number_key
from fedlearn.data.tables.table import Table

if TYPE_CHECKING:
    from fedlearn.data.tables.csv import Csv

Kind = Literal["numbers"] | Dates
IN_WORDS_OF: Final[Mapping[Kind, str]] = {
    "numbers": "a number",
    "dates": IN_WORDS["dates"],
    "day_first": IN_WORDS["day_first"],
    "month_first": IN_WORDS["month_first"],
}
"""What a time is, in words."""


def times_of(config: Csv, table: Table) -> tuple[NDArray[np.float64], Kind]:
    """`float64[n]`, NaN where a cell is no time, and how they are written.

    Where the settings leave it open they are numbers, or dates as ISO 8601 has them, whichever
    most cells are.
    """
    cells = table.cells(config.time)
    numbers = cells.numbers(config.decimal)[cells.codes]
    if config.times == "numbers":
        return numbers, "numbers"
    dates: Dates = config.times or "dates"
    moments = np.array([moment_of(text, dates) for text in cells.texts()] or [np.nan])[cells.codes]
    if config.times or np.isfinite(moments).sum() > np.isfinite(numbers).sum():
        return moments, dates
    return numbers, "numbers"


def time_of(text: str, kind: Kind, decimal: str) -> float:
    """One time that is written so; NaN for what is none."""
    if kind != "numbers":
        return moment_of(text.strip(), kind)
    key = number_key(text.strip(), decimal)
    return float(key) if key else np.nan


def may_be(text: str, config: Csv) -> bool:
    """Whether a text can be a time of a column that nobody has looked at."""
    kinds: tuple[Kind, ...] = (config.times,) if config.times else ("numbers", "dates")
    return any(np.isfinite(time_of(text, kind, config.decimal)) for kind in kinds)
