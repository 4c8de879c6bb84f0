"""When two cells are one value, whoever wrote them.

Three degrees, from what is always done to what is only said:

1. A text is in the normal form NFC and has no signs that nobody sees (zero-width spaces, marks of
   direction, soft hyphens, byte order marks), nor spaces around it. Joiners stay inside of a
   text, where Persian, Indian scripts and emoji need them.
2. Among labels, categories, sites and persons equal numbers are one value: `0` and `0.0`, `7` and
   `007`. A name that the config gives is matched as it stands first, so codes that are
   numbers only by their looks (`1.1`, `1.10`) are kept apart by naming them.
3. What differs in case, spaces, width or joiners alone, and `1` beside `true`, may well be two
   values: it is left, and found by `lookalikes` for somebody to look at.

Source: Unicode Standard Annex 15 (normal forms) and section 5.21 (default ignorable characters).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from fedlearn.core.errors import some
from fedlearn.data.tables.cells import Cells, clean_text, encode
from fedlearn.data.tables.table import Table

Spellings = tuple[str, ...]
"""Different texts of one value."""

_WORDS: Final = (
    frozenset({"1", "true", "t", "yes", "y", "ja", "j", "oui", "si", "sí", "sim", "да", "是"}),
    frozenset({"0", "false", "f", "no", "n", "nein", "non", "não", "нет", "否", "не"}),
)
"""Yes and no, as tables write them."""
_PLAIN: Final = {
    sign: re.compile(rf"([+-]?)0*([0-9]*)(?:[{sign}]([0-9]*?)0*)?", re.ASCII) for sign in ".,"
}
_JOINERS: Final = re.compile("[\u200c\u200d]")
_FEW: Final = 2


def number_key(text: str, decimal: str = ".") -> str | None:
    """The number in `text`, the same text for equal ones, of any length; None where it is none.

    Numbers with an exponent are none: `1E5` is as likely a code.
    """
    found = _PLAIN[decimal].fullmatch(text)
    if found is None or not any(map(str.isdigit, text)):
        return None
    sign, whole, fraction = found[1], found[2] or "0", found[3] or ""
    number = f"{whole}{decimal}{fraction}" if fraction else whole
    return number if sign != "-" or number == "0" else f"-{number}"


def one_spelling(
    cells: Cells, decimal: str = ".", *, persons: bool = False
) -> tuple[Cells, list[Spellings]]:
    """The column with one text for equal numbers, and those that had several.

    A number that is written in one way keeps its zeros in front, as a postcode does, and loses
    those behind. Of `persons` every number is its shortest text, whoever else is there.
    """
    codes = cells.is_text and not persons
    if cells.are_numbers or codes or not np.isfinite(cells.numbers(decimal)).any():
        return cells, []
    texts = cells.texts(cells.counts > 0)
    shorter: dict[str, set[str]] = {}
    written: dict[str, set[str]] = {}
    for text in texts:
        if (key := number_key(text, decimal)) is not None:
            shorter.setdefault(key, set()).add(_shortened(text, key))
            written.setdefault(key, set()).add(text)
    one = {
        text: key if persons or len(shorter[key]) > 1 else next(iter(shorter[key]))
        for key, group in written.items()
        for text in group
    }
    several = sorted(tuple(sorted(group)) for group in written.values() if len(group) > 1)
    return _renamed(cells, one), several


def _shortened(text: str, key: str) -> str:
    """The text of the number `key` with its zeros in front, and none behind."""
    bare = text.lstrip("+-")
    zeros = len(bare) - len(bare.lstrip("0"))
    digits = key.lstrip("-")
    own = "0" * (zeros - digits.startswith("0")) + digits
    return f"-{own}" if key.startswith("-") else own


def as_named(cells: Cells, names: Sequence[str], decimal: str = ".") -> Cells:
    """The column with every cell that is one of the `names` written as that one.

    By its text first, else by its number: each cell for itself, whatever others there are.
    """
    meant = {clean_text(name): name for name in reversed(names)}
    numbers = {key: name for name in reversed(names) if (key := number_key(name, decimal))}
    for text in cells.texts():
        if text not in meant and (key := number_key(text, decimal)) in numbers:
            meant[text] = numbers[key]
    return _renamed(cells, meant)


def _renamed(cells: Cells, names: Mapping[str, str]) -> Cells:
    texts = cells.texts()
    new = [names.get(text, text) for text in texts]
    return cells if new == texts else encode(new, cells.codes)


def spelled(
    table: Table,
    decimal: str = ".",
    *,
    named: Mapping[str, Sequence[str]],
    found: Iterable[str],
    persons: Collection[str] = (),
) -> tuple[Table, dict[str, list[Spellings]]]:
    """The table with one text for every value of its columns, and by column what had several.

    `named` are columns whose values the config gives, `found` those whose values are looked for;
    of columns of numbers nothing is changed, for there a number is read as such.
    """
    columns, several = {}, {}
    for name, names in named.items():
        columns[name] = as_named(table.cells(name), names, decimal)
    for name in found:
        cells = table.cells(name)
        columns[name], merged = one_spelling(cells, decimal, persons=name in persons)
        if merged:
            several[name] = merged
    return table.with_columns(columns), several


def may_be_categories(cells: Cells, missing: Collection[str], decimal: str) -> bool:
    """Whether a column is not clearly one of numbers: it has words, or few different numbers."""
    given = ~cells.among(missing) & (cells.counts > 0)
    numbers = cells.numbers(decimal)
    finite = given & np.isfinite(numbers)
    return bool((given & ~finite).any()) or len(np.unique(numbers[finite])) <= _FEW


def lookalikes(texts: Iterable[str]) -> list[Spellings]:
    """Values that may be one: in another case, width or spacing, or a yes beside another yes."""
    groups: dict[str, set[str]] = {}
    for text in texts:
        groups.setdefault(_folded(text), set()).add(text)
    alike = [tuple(sorted(group)) for group in groups.values() if len(group) > 1]
    if not alike and groups.keys() <= _WORDS[0] | _WORDS[1]:
        for words in _WORDS:
            found = sorted(text for key in groups.keys() & words for text in groups[key])
            alike += [tuple(found)] if len(found) > 1 else []
    return sorted(alike)


def _folded(text: str) -> str:
    whole = unicodedata.normalize("NFKC", _JOINERS.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", "".join(whole.split()))


def taken_as_one(groups: Sequence[Spellings]) -> str:
    """What is said of equal numbers that are written in several ways."""
    return (
        f"{_in_words(groups)} are taken as one value, being equal numbers; where they are codes "
        "that differ, name them all (scenario.categories, scenario.classes)"
    )


def may_be_one(groups: Sequence[Spellings]) -> str:
    """What is said of values that differ in their writing alone."""
    return f"{_in_words(groups)} are different values that may be one; if so, write them in one way"


def _in_words(groups: Sequence[Spellings]) -> str:
    return some([" and ".join(map(repr, group)) for group in groups], 3, between="; ")
