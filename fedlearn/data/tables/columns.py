"""What the columns of a table are: numbers, categories, or something that names a person.

Looks at one column at a time and never at the label. Detection of identifiers
is a safety net over column names and the shape of values, not a proof that a
table is anonymous: combinations of harmless columns can single a person out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlearn.data.tables.cells import Cells, as_arrow, parse

Kind = Literal["numeric", "categorical", "empty"]

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
"""What stands for a missing value unless the config says otherwise."""

_MOSTLY = 0.9
_COUNTS_ROWS = "it counts the rows"
_FEW_ROWS = 100
"""Of fewer, ages may well be all different and without a gap, unless they are in order."""
_GROUPED = r"[-+]?\d{1,3}([.,' \u2019\u00a0\u202f]\d{3})+([.,]\d+)?"

_NAMES = {
    "a person's name": r"(sur|last|first|full|middle|maiden|given|family|patient|client|customer)"
    r"[ _-]?name|name|surname|(vor|nach|familien|geburts|patienten|kunden)name",
    "an e-mail address": r"e[ _-]?mail([ _-]?address)?",
    "a phone number": r"(tele)?phone([ _-]?(no|number))?|mobile|cell[ _-]?phone|fax"
    r"|telefon([ _-]?(nr|nummer))?|handy([ _-]?(nr|nummer))?",
    "a social security or identity number": r"ssn|social[ _-]?security([ _-]?(no|number))?"
    r"|national[ _-]?id|nhs[ _-]?(no|number)|passport([ _-]?(no|number))?|tax[ _-]?id"
    r"|iban|account[ _-]?(no|number)|(sozial)?versicher(ten|ungs)[ _-]?(nr|nummer)"
    r"|steuer[ _-]?(id|nr|nummer)|(personal)?ausweis[ _-]?(nr|nummer)|konto[ _-]?(nr|nummer)",
    "a record number": r"(patient|client|customer|person|subject|record|row|case)?"
    r"[ _-]?(id|no|uuid)|mrn|index"
    r"|(patienten|fall|kunden|akten|vorgangs|vertrags|antrags)[ _-]?(id|nr|nummer)|aktenzeichen",
    "an address": r"(street|home|postal)?[ _-]?address|street|adresse|anschrift|stra(ß|ss)e",
    "a date of birth": r"dob|birth[ _-]?(date|day)|date[ _-]?of[ _-]?birth"
    r"|geburts(datum|tag)|geb[ _-]?dat(um)?",
}
_VALUES = {
    "e-mail addresses": r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}",
    "social security numbers": r"\d{3}-\d{2}-\d{4}",
    "dates": r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})",
    "phone numbers": r"(\+|00)?\(?\d[\d ()/.-]{5,}\d",
    "account numbers": r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}",
    "UUIDs": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}


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


def describe(
    name: str, cells: Cells, *, missing: Sequence[str] = MISSING, decimal: str = "."
) -> Column:
    """What a column is, from its cells.

    A column is numeric when at least nine in ten of its values are numbers
    and there are more than two different ones; otherwise categorical.
    """
    given = ~cells.among(missing)
    present = cells if given.all() else cells.take(cells.rows(given))
    wrong = given & np.isnan(cells.numbers(decimal))
    distinct = cells.distinct(given)
    numeric = distinct > 2 and cells.counts[wrong].sum() <= (1 - _MOSTLY) * len(present)
    kind: Kind = "empty" if not len(present) else "numeric" if numeric else "categorical"
    return Column(
        name=name,
        kind=kind,
        missing=len(cells) - len(present),
        distinct=distinct,
        categories=() if numeric else sort_values(set(present.texts(present.counts > 0)), decimal),
        not_numbers=tuple(cells.rows(wrong).tolist()) if numeric else (),
        identifier=suspect(name, present, numeric),
    )


def sort_values(values: set[str], decimal: str = ".") -> tuple[str, ...]:
    """In order of their numbers where all are numbers, otherwise of their letters."""
    texts = sorted(values)
    numbers = parse(as_arrow(texts), decimal)
    # NaN, which no text with a number has, would be the last.
    order = range(len(texts)) if np.isnan(numbers).any() else np.argsort(numbers, kind="stable")
    return tuple(texts[place] for place in order)


def suspect(name: str, cells: Cells, numeric: bool) -> str:
    """What the column seems to identify people by, in words; empty when nothing was found."""
    if named := suspect_name(name):
        return named
    if numeric:
        return _COUNTS_ROWS if _counts_rows(cells) else ""
    if groups_thousands(cells):
        return ""  # else 240.000 would be a phone number
    likely = (what for what, pattern in _VALUES.items() if _are_mostly(cells, pattern))
    return next((f"its values look like {what}" for what in likely), "")


def suspect_name(name: str) -> str:
    """The same of a column's name alone: no record has a word in it."""
    for what, pattern in _NAMES.items():
        if re.fullmatch(pattern, name.strip(), flags=re.IGNORECASE):
            return f"its name says {what}"
    return ""


def _are_mostly(cells: Cells, pattern: str) -> bool:
    """Whether more than half of the cells are as the pattern says."""
    fits = map(re.compile(pattern).fullmatch, cells.texts())
    return int(cells.counts[[fit is not None for fit in fits]].sum()) > len(cells) / 2


def remedy(identifier: str) -> str:
    """What can be done about a column that `suspect` found, as settings of a scenario."""
    if identifier == _COUNTS_ROWS:
        return "drop it (scenario.drop)"
    if "date" in identifier:
        return "drop it (scenario.drop), or keep the year alone (scenario.deidentify.years.NAME=1)"
    return "drop it (scenario.drop), or hash it with the site's key (scenario.deidentify.hash)"


def _counts_rows(cells: Cells) -> bool:
    """Whether whole numbers go up by one from row to row, or would if rows were in order."""
    if len(cells) <= 2 or cells.counts.max() > 1:
        return False
    numbers = cells.numbers(".")[cells.codes]
    steps = np.diff(np.sort(numbers) if len(cells) > _FEW_ROWS else numbers)
    return bool((steps == 1).all())


def groups_thousands(cells: Cells) -> bool:
    """Whether most cells are numbers with a sign between thousands, as 240.000 or 1 250,50.

    They are not read as numbers: 1.500 may be fifteen hundred or one and a half.
    """
    return _are_mostly(cells, _GROUPED)


def has_commas(cells: Cells) -> bool:
    """Whether most cells are numbers with a comma, as 0,5."""
    return _are_mostly(cells, r"[+-]?\d+,\d+")
