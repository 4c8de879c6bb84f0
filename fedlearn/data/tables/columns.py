"""What the columns of a table are: numbers, categories, or something that names a person.

Looks at one column at a time and never at the label. What identifies people is found by
`fedlearn.data.tables.identifiers`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlearn.data.tables.cells import Cells, as_arrow, parse
from fedlearn.data.tables.identifiers import suspect

Kind = Literal["numeric", "categorical", "empty"]

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
"""What stands for a missing value unless the config says otherwise."""

_MOSTLY = 0.9


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column as understood.

    `distinct` is how many different values it has; `categories` are these,
    sorted, where they are no numbers. `not_numbers` are the positions of cells
    that do not read as a number in a column that is otherwise numeric.
    `identifier` says what the column seems to identify people by; empty when
    nothing was found.
    """

    name: str
    kind: Kind
    missing: int
    distinct: int
    categories: tuple[str, ...] = ()
    not_numbers: tuple[int, ...] = ()
    identifier: str = ""
    span: tuple[float, float, float] | None = None
    """The smallest number, the median and the largest, of a numeric column."""


def describe(
    name: str, cells: Cells, *, missing: Sequence[str] = MISSING, decimal: str = "."
) -> Column:
    """What a column is, from its cells.

    A column is numeric when at least nine in ten of its values are numbers
    and there are more than two different ones, unless the file says that they
    are texts; otherwise categorical.
    """
    given = ~cells.among(missing)
    present = cells if given.all() else cells.take(cells.rows(given))
    wrong = given & np.isnan(cells.numbers(decimal))
    distinct = cells.distinct(given)
    numeric = (
        distinct > 2
        and not cells.is_text
        and cells.counts[wrong].sum() <= (1 - _MOSTLY) * len(present)
    )
    kind: Kind = "empty" if not len(present) else "numeric" if numeric else "categorical"
    return Column(
        name=name,
        kind=kind,
        missing=len(cells) - len(present),
        distinct=distinct,
        categories=() if numeric else sort_values(set(present.texts(present.counts > 0)), decimal),
        not_numbers=tuple(cells.rows(wrong).tolist()) if numeric else (),
        identifier=suspect(name, present, numeric),
        span=_span(present, decimal) if numeric else None,
    )


def _span(cells: Cells, decimal: str) -> tuple[float, float, float]:
    numbers = cells.numbers(decimal)[cells.codes]
    low, middle, high = np.nanquantile(numbers, [0, 0.5, 1])
    return float(low), float(middle), float(high)


def sort_values(values: set[str], decimal: str = ".") -> tuple[str, ...]:
    """In order of their numbers where all are numbers, otherwise of their letters."""
    texts = sorted(values)
    numbers = parse(as_arrow(texts), decimal)
    # NaN, which no text with a number has, would be the last.
    order = range(len(texts)) if np.isnan(numbers).any() else np.argsort(numbers, kind="stable")
    return tuple(texts[place] for place in order)


def has_commas(cells: Cells) -> bool:
    """Whether most cells are numbers with a comma, as 0,5."""
    fits = [re.fullmatch(r"[+-]?\d+,\d+", text) is not None for text in cells.texts()]
    return int(cells.counts[fits].sum()) > len(cells) / 2
