"""Records without a label, made as those of a run were: what a trained model is asked about.

Nothing is learned from them. What a run found in its own records and did not
take from its config (the categories of a column) is not part of a model; it is
named in the config, or found again in the table that was trained on.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import Csv, OwnText, Scenario
from fedlearn.data.tables import columns
from fedlearn.data.tables.csv import codes_of, not_numbers, numbers_of, read_rows, scaled
from fedlearn.data.tables.deidentify import deidentified
from fedlearn.data.tables.scaling import reads_records
from fedlearn.data.tables.table import Table, read_file
from fedlearn.data.texts.files import is_lines, keys_of, read_objects, table_of
from fedlearn.data.texts.tokens import tokenize
from fedlearn.tasks import TableInput

Categories = Mapping[str, tuple[str, ...]]

_GAP = "_missing"


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlabelled:
    """`features: [n, ...]` in the form of the run, and the line that each record is from."""

    features: NDArray[Any]
    lines: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The columns of a table's rows, in the order in which the model takes them."""

    numeric: tuple[str, ...]
    gaps: tuple[str, ...]
    categorical: tuple[str, ...]


def roles_of(shape: TableInput) -> Roles:
    """Which of the names are numbers, which say that one is missing, which are categories."""
    first, categorical = shape.names[: shape.numeric], shape.names[shape.numeric :]
    start = len(first)
    while start and first[start - 1].removesuffix(_GAP) in first[: start - 1]:
        start -= 1
    gaps = tuple(name.removesuffix(_GAP) for name in first[start:])
    return Roles(numeric=first[:start], gaps=gaps, categorical=categorical)


def read_array(path: Path, shape: tuple[int, ...]) -> Unlabelled:
    """The array `features` of a file `.npz`: `[n, *shape]`, as the model takes it.

    Raises:
        DataError: there is no such array, or its records have another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            features: NDArray[Any] = file["features"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: holds no array 'features' of numbers ({error})") from None
    if features.dtype.kind not in "fiu" or not np.isfinite(features).all():
        raise DataError(f"{path}: 'features' must be finite numbers")
    if features.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise DataError(f"{path}: 'features' is {list(features.shape)}; wanted: [n, {wanted}]")
    return Unlabelled(features=features, lines=tuple(range(1, len(features) + 1)))


# --- texts ------------------------------------------------------------------------


def read_texts(scenario: OwnText, cache: Path) -> Unlabelled:
    """The column `scenario.text` of a table or of JSON lines, as token ids.

    Raises:
        DataError: the file cannot be read, has no such column, or a record has no text.
    """
    path = Path(scenario.path)
    if is_lines(path):
        rows = read_objects(path, scenario.encoding)
        there = keys_of(rows)
        table = table_of(path, rows, [key for key in there if key == scenario.text])
    else:
        table = read_file(path, scenario.separator, scenario.encoding)
        there = table.header
    if scenario.text not in there:
        known = ", ".join(sorted(there))
        raise DataError(f"{path}: no column {scenario.text!r} (--text); there are {known}")
    texts = table.column(scenario.text)
    if empty := [i for i, text in enumerate(texts) if not text]:
        raise DataError(f"{path}: {table.places(empty)}: no text")
    tokens = tokenize(scenario.tokenizer, texts, cache)
    most = scenario.tokenizer.max_length
    notes = (f"{tokens.cut} texts are longer than {most} pieces and were cut off there",)
    return Unlabelled(
        features=tokens.ids,
        lines=tuple(table.lines.tolist()),
        notes=notes if tokens.cut else (),
    )


# --- rows -------------------------------------------------------------------------


def row_scenario(scenario: Scenario) -> Csv | None:
    """How rows are written from which the model's numbers can be made; None if by no file."""
    found = scenario.as_rows()
    return None if found is None or reads_records(found.scaling) else found


def found_categories(config: Csv, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The categories that a run found in the table `config.path`, which it was trained on.

    Raises:
        ConfigError, DataError: the table is not one of that run.
    """
    table = read_rows(config)
    _refuse(_absent(config.path, table, (config.label, *names)))
    table = deidentified(config.deidentify, table, config.missing, config.decimal)
    labels = table.cells(config.label)
    kept = table.take(labels.rows(~labels.among(config.missing)))
    found = {name: set(kept.column(name)) - set(config.missing) for name in names}
    return {name: columns.sort_values(own, config.decimal) for name, own in found.items()}


def read_rows_of(config: Csv, shape: TableInput, categories: Categories) -> Unlabelled:
    """The rows of the table `config.path` as the model takes them; other columns are not read.

    A gap, and a category that is not among `categories`, is what it was in training.

    Raises:
        ConfigError: the categories are not as many as the model has.
        DataError: the file cannot be read, lacks a column, or has words among numbers.
    """
    roles = roles_of(shape)
    _check(shape, roles, categories)
    table = read_rows(config)
    _refuse(_absent(config.path, table, (*roles.numeric, *roles.categorical)))
    table = deidentified(config.deidentify, table, config.missing, config.decimal)
    _refuse(_words(config, table, roles.numeric))
    raw = numbers_of(config, table, [*roles.numeric])
    gaps = np.isnan(raw[:, [roles.numeric.index(name) for name in roles.gaps]])
    codes = [codes_of(table, name, categories[name]) for name in roles.categorical]
    values = scaled(config, [*roles.numeric], raw)
    features = np.column_stack([values, gaps, *codes]).astype(np.float32)
    notes = (*_unseen(config, table, categories), *_gap_notes(roles, raw))
    return Unlabelled(features=features, lines=tuple(table.lines.tolist()), notes=notes)


def _refuse(problems: Iterator[str]) -> None:
    if found := list(problems):
        raise DataError("\n".join(found))


def _check(shape: TableInput, roles: Roles, categories: Categories) -> None:
    sizes = dict(zip(roles.categorical, shape.cardinalities, strict=True))
    wrong = [
        f"scenario.categories.{name}: the model has {size - 1} categories, and these are "
        f"{len(categories[name])}; give the table that it was trained on"
        for name, size in sizes.items()
        if len(categories[name]) != size - 1
    ]
    if wrong:
        raise ConfigError(wrong)


def _absent(path: str, table: Table, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name not in table.header:
            yield f"{path}: no column {name!r}; there are {', '.join(table.header)}"


def _words(config: Csv, table: Table, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if wrong := not_numbers(config, table.cells(name)):
            yield (
                f"{config.path}: {table.places(wrong)}: column {name!r} holds no number; the "
                "model takes one (is the decimal sign another?)"
            )


def _unseen(config: Csv, table: Table, categories: Categories) -> Iterator[str]:
    for name, known in categories.items():
        strange = sum(cell not in (*known, *config.missing) for cell in table.column(name))
        if strange:
            yield f"column {name!r}: {strange} values that the model never saw, taken as missing"


def _gap_notes(roles: Roles, raw: NDArray[np.float64]) -> Iterator[str]:
    for name, absent in zip(roles.numeric, np.isnan(raw).sum(0), strict=True):
        if absent and name not in roles.gaps:
            yield f"column {name!r}: {absent} gaps, where training had none; taken as mid-range"
