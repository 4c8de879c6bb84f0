"""Cells that hold a number and its unit: `70 kg`, `1.2 mmol/L`, `€ 1,200`, `36,6 °C`.

A number is nothing without its unit, so a column of such cells is read in a unit that is named: a
cell in another one is converted where that is exact (`154 lb` in kg), and is no number where it is
not. Nothing is taken for a unit because it stands there once: a column has one, or several that are
known as units.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from fedlearn.core.errors import ConfigError
from fedlearn.data.tables.cells import as_arrow, number_text, parse
from fedlearn.data.tables.units import canonical, conversion, is_known

_MOSTLY: Final = 0.9
_LEAST: Final = 3
_MANY: Final = 20
"""Different cells from which one letter right after the number is a unit: 1a and 2a are codes."""
_NUMBER: Final = (
    r"[<>\u2264\u2265]?=?\s*[-+\u2212]?[.,]?[0-9](?:[0-9.,'\u2019 \u00a0\u2009\u202f_]*[0-9])?"
)
_AFTER: Final = re.compile(
    rf"({_NUMBER})(\s*)([^\s0-9.,+<>=%-][^\s]{{0,11}}(?: [^\W\d_]\S{{0,9}})?)"
)
_BEFORE: Final = re.compile(rf"([^\W\d_]{{2}}?\$|[€$£¥₹₽₩₺₴₪₫฿]|[A-Z]{{3}})\s*({_NUMBER})")
_MONTH: Final = re.compile(
    r"(jan|feb|m[aä]r|apr|may|mai|jun|jul|aug|sep|o[ck]t|nov|de[cz])[^\W\d_]*\.?", re.IGNORECASE
)


def split(text: str) -> tuple[str, str]:
    """The number in a cell and the unit beside it, as they are written; both empty for none."""
    if found := _BEFORE.fullmatch(text):
        return found[2], found[1]
    if found := _AFTER.fullmatch(text):
        return found[1], found[3]
    return "", ""


def in_unit(
    text: str, wanted: str, decimal: str, number_of: Callable[[str], str | None]
) -> str | None:
    """The number in a cell in the unit `wanted`, perhaps `of` a substance, as a plain text; None
    where there is none, or its unit is another one that does not convert.

    `number_of` reads the number as it is written.
    """
    raw, written = split(text)
    number = number_of(raw) if raw else None
    if number is None:
        return None
    unit, _, substance = wanted.partition(" of ")
    own, unit = canonical(written), canonical(unit)
    if own == unit:
        return number
    try:
        scale, offset = conversion(f"{own} to {unit}" + (f" of {substance}" if substance else ""))
    except ConfigError:
        return None
    (value,) = parse(as_arrow([number]), decimal).tolist()
    return number_text(value * scale + offset, decimal)


def unit_of(texts: Sequence[str], counts: Sequence[int]) -> str:
    """The unit of most of the records of a column, of whose different cells each has so many;
    empty where these do not look like numbers with units."""
    records: Counter[str] = Counter()
    for text, count in zip(texts, counts, strict=True):
        records[canonical(split(text)[1])] += count
    return max(units_in(texts), key=lambda unit: records[unit], default="")


def units_in(texts: Sequence[str]) -> Counter[str]:
    """How many of a column's different cells have which unit, by what these are called here.

    Empty where fewer than nine in ten are numbers with units, or these are of no kind that is
    known: then there is one, apart from the number, or many numbers have it.
    """
    found = [split(text) for text in texts]
    parts = [(raw, canonical(unit)) for raw, unit in found if raw]
    if len({raw for raw, _ in parts}) < max(_LEAST, _MOSTLY * len({*texts}) / 2):
        return Counter()
    units = Counter(unit for _, unit in parts)
    if len(parts) < _MOSTLY * len(texts):
        return Counter()
    apart = all(text.removesuffix(unit)[-1:].isspace()
                for text, (_, unit) in zip(texts, found, strict=True) if unit)  # fmt: skip
    if not apart and len(texts) < _MANY and any(len(u) == 1 and u.isalpha() for u in units):
        return Counter()
    if all(is_known(unit) for unit in units):
        return units
    one = len(units) == 1 and apart and not _MONTH.fullmatch(next(iter(units)))
    return units if one else Counter()


def several_units(texts: Sequence[str]) -> str:
    """What is said of a column whose units do not convert into one; empty for any other."""
    units = units_in(texts)
    unit = max(units, key=lambda one: units[one], default="")
    if all(_converts(one, unit) for one in units):
        return ""
    return ", ".join(f"{one} ({number:,} values)" for one, number in units.most_common())


def _converts(one: str, other: str) -> bool:
    try:
        return one == other or bool(conversion(f"{one} to {other}"))
    except ConfigError:
        return False
