"""What `fedlearn data check` found: facts, hints and problems, whatever kind of data it was.

For the eyes of the data's owner alone: names of files, line numbers, and the
different values of columns are in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedlearn.core.errors import some
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.table import Separator

SHOWN = 10
"""Names and classes that are written out; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Data as understood; without `kind` where it could not be read.

    `columns` are those of a table or of texts; `texts`, `labels` and `sites` are
    columns that could serve as such, likely ones first. `duplicates` are lines
    whose record repeats an earlier one. `facts` are sentences, `hints` what could
    be better, `problems` what keeps the data, as it is, from being learned from.
    `settings` would read it: overrides of `fedlearn simulate`.
    """

    path: Path
    kind: str = ""
    records: int = 0
    separator: Separator | None = None
    columns: tuple[Column, ...] = ()
    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    duplicates: tuple[int, ...] = ()
    counted: str = "line"
    facts: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


def sizes_in_words(what: str, sizes: Mapping[str, int]) -> str:
    """How many records each of several classes, sites or splits has, in one sentence."""
    counts = [f"{name} {count:,}" for name, count in sizes.items()]
    return f"{len(sizes)} {what}: {some(counts, SHOWN)}"
