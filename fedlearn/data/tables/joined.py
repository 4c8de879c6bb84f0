"""Several columns of yes and no as the one column of labels that a task reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.csv_problems import yes_or_no
from fedlearn.data.tables.table import Table
from fedlearn.tasks import JOINED

if TYPE_CHECKING:
    from fedlearn.data.tables.csv import Csv


def joined(config: Csv, table: Table, *, by_record: bool = False) -> Table:
    """The table with the column `config.label` in the place of `config.labels`.

    A cell lists the columns that are yes in its row, each with `JOINED` behind it. Where one of
    them is missing so is the label, and where one is neither yes nor no, read `by_record`.
    A table that lacks some of these columns stays as it is.

    Raises:
        ConfigError: the label has the name of a column.
        DataError: a cell is neither yes nor no.
    """
    if not config.labels or not {*config.labels} <= {*table.header}:
        return table
    if config.label in table.header:
        raise ConfigError(
            f"scenario.label={config.label}: is a column of {config.path}; with scenario.labels it "
            "is what these together are called, and a name of its own"
        )
    parts, problems = [], []
    for name in config.labels:
        cells = table.cells(name)
        part = yes_or_no(cells, config.decimal, config.missing)[cells.codes]
        absent = cells.among(config.missing)[cells.codes]
        parts.append(part)
        if (wrong := np.flatnonzero(np.isnan(part) & ~absent)).size and not by_record:
            problems.append(
                f"{config.path}: column {name!r}: {table.places(wrong)}: neither yes nor no (1 or "
                "0); scenario.labels are columns of these"
            )
    if problems:
        raise DataError("\n".join(problems))
    rows = np.stack(parts, 1)
    written = [_cell(config.labels, row) for row in rows.tolist()]
    kept = [at for at, name in enumerate(table.header) if name not in config.labels]
    return Table(
        header=(*(table.header[at] for at in kept), config.label),
        columns=(*(table.columns[at] for at in kept), encode(written)),
        lines=table.lines,
        counted=table.counted,
    )


def _cell(names: Sequence[str], row: Sequence[float]) -> str:
    """The columns that are 1 in a row; empty where one of them is not known."""
    if any(map(math.isnan, row)):
        return ""
    found = (name + JOINED for name, value in zip(names, row, strict=True) if value)
    return "".join(found) or JOINED
