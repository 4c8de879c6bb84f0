"""Times as people write them: ISO 8601, or with the day or the month in front.

Source: ISO 8601-1:2019; of the others Unicode CLDR's short dates (`d/M/y`, `M/d/y`, `d.M.y`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np

Dates = Literal["dates", "day_first", "month_first"]
"""`dates` are written as 2026-01-31 or 2026-01-31T08:15, `day_first` as 31/01/2026 or 31.1.2026,
`month_first` as 01/31/2026; a time of the day may follow."""

IN_WORDS: Final[dict[Dates, str]] = {
    "dates": "a date (as 2026-01-31 or 2026-01-31T08:15)",
    "day_first": "a date with its day in front (as 31/01/2026)",
    "month_first": "a date with its month in front (as 01/31/2026)",
}
_FIRST: Final = re.compile(
    r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?:[T ,]+(\d{1,2}):(\d\d)(?::(\d\d))?)?", re.ASCII
)


def moment_of(cell: str, dates: Dates) -> float:
    """Seconds since 1970, of a time without a zone in UTC; NaN for what is no such date."""
    try:
        found = datetime.fromisoformat(cell) if dates == "dates" else _with_year_last(cell, dates)
    except ValueError:
        return np.nan
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _with_year_last(cell: str, dates: Dates) -> datetime:
    found = _FIRST.fullmatch(cell)
    if found is None:
        raise ValueError(cell)
    one, other = int(found[1]), int(found[3])
    day, month = (one, other) if dates == "day_first" else (other, one)
    hour, minute, second = (int(part or 0) for part in found.groups()[4:])
    return datetime(int(found[4]), month, day, hour, minute, second)


def ways_of(cells: Collection[str]) -> Sequence[Dates]:
    """In which ways all of the cells are dates: none, one, or two where nothing tells."""
    found = [
        dates
        for dates in IN_WORDS
        if cells and not any(np.isnan(moment_of(cell, dates)) for cell in cells)
    ]
    dotted = found == ["day_first", "month_first"] and all("." in cell for cell in cells)
    return found[:1] if dotted else found  # nobody puts a dot behind the month
