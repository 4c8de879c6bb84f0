"""An exported model, asked about records: `load` it, then `read` a file and ask for `answers`.

What a model takes stands beside it in `model.json`: the form of a record, how it
is made from a file, and how the model is built. Nothing here knows of runs, sites
or Flower.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from fedlearn import models
from fedlearn.config import decode, to_tree
from fedlearn.core.errors import ConfigError, DataError, counted, refuse
from fedlearn.core.files import DAMAGED_ARRAYS, named_arrays, possible
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, vector_digest
from fedlearn.core.weights import values_of
from fedlearn.data import SCENARIOS, Csv, OwnPassages, OwnText, Scenario
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.tables import columns
from fedlearn.data.tables.buckets import bucket_names
from fedlearn.data.tables.csv_columns import category_codes, not_numbers, numbers_of, scaled
from fedlearn.data.tables.csv_rows import read_rows, taken_rows
from fedlearn.data.tables.deidentify import deidentified
from fedlearn.data.tables.excel import is_excel
from fedlearn.data.tables.reading import read_file
from fedlearn.data.tables.scaling import reads_records
from fedlearn.data.tables.spelling import spelled
from fedlearn.data.tables.table import Table
from fedlearn.data.texts.json_lines import is_lines, keys_of, read_objects, table_of
from fedlearn.data.texts.tokens import tokenize
from fedlearn.models import MODELS, Finetune, Model
from fedlearn.models.int8 import read_back
from fedlearn.results.categories import kept_categories
from fedlearn.tasks import (
    CLASSIFICATION,
    TASKS,
    TableInput,
    Task,
    TaskConfig,
    TaskForm,
    TextInput,
    shape_of,
)
from fedlearn.training.local import predict

SCHEMA: Final = "fedlearn/model/v1"
FILE: Final = "model.json"
TENSORS: Final = "model.safetensors"
_BATCH = 1024

Rows = TypeVar("Rows", Csv, OwnText, OwnPassages)
Categories = Mapping[str, tuple[str, ...]]

Stored = Literal["float32", "int8"]
BASE: Final = "base"
"""The folder in an export with all weights that has the settings and the tokenizer of the public
model, where there is one."""

_GAP = "_missing"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The contents of `model.json`; `sha256` is that of the vector of all shared tensors."""

    schema: str = SCHEMA
    task: TaskForm
    learned: Annotated[TaskConfig, TASKS] = CLASSIFICATION
    """The task that stands for; a file of an older release is of a classifier."""
    scenario: Annotated[Scenario, SCENARIOS]
    model: Annotated[Model, MODELS]
    finetune: Finetune
    seed: int
    sha256: str
    stored: Annotated[Stored, Field(exclude_if=lambda stored: stored == "float32")] = "float32"
    """`int8`: all weights of the model are there, as `fedlearn.models.int8` writes them."""
    file_sha256: Annotated[str, Field(exclude_if=lambda sha256: not sha256)] = ""
    """Of the file of weights, where these are not those that `sha256` is of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlabelled:
    """Records without a label: `features: [n, ...]` in the form of the run, and their lines."""

    features: NDArray[Any]
    lines: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A model that was exported, on the CPU."""

    file: ModelFile
    network: nn.Module
    """Records, as `read` makes them, to what the task makes answers from."""
    run: Path | None = None
    """The folder of the run that it is of, where it was opened there."""

    @property
    def task(self) -> Task:
        """What was learned."""
        return self.file.learned.of(self.file.task)

    def answers(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """What the model says of records: `float64[n, ...]`, as `Task.answers`.

        Of a classifier the probability of each class, `[n, classes]`, rows sum to 1.
        """
        records = torch.from_numpy(np.ascontiguousarray(features))
        return predict(self.network, self.task, records, _BATCH)

    def read(self, path: Path, like: Path | None = None, **written: str) -> Unlabelled:
        """The records of a file, made as those of the run were; they need no label.

        `like` is the table that was trained on, or the folder of the run, where the config of
        the run names no categories. `written` says where the file is written otherwise than that
        one: `separator`, `encoding`, `decimal`, `text` (the column).

        Raises:
            ConfigError: such records cannot be made from a file.
            DataError: the file cannot be read, or holds other records.
        """
        scenario, shape = self.file.scenario, self.file.task.input
        if path.suffix.lower() == ".npz":
            found = read_array(path, shape_of(shape))
            whole = isinstance(shape, TextInput)
            return replace(found, features=found.features.astype(np.int64 if whole else "f4"))
        if (texts := scenario.as_texts()) is not None:
            return read_texts(written_as(texts, path, written), default_cache(os.environ))
        rows = row_scenario(scenario)
        if rows is None or not isinstance(shape, TableInput):
            raise ConfigError(_no_rows(path, shape_of(shape)))
        asked = written_as(rows, path, written)
        return read_rows_of(asked, shape, _categories(rows, shape, like or self.run))


def load(folder: Path, base: str = "", *, tuned: bool = True) -> Predictor:
    """The model in a folder that `fedlearn export` wrote.

    Args:
        folder: what was exported.
        base: where the public model lies that it was tuned from, if it is not where the run had it.
        tuned: False: as the model was before training.

    Raises:
        DataError: there is none, or it is not what its `model.json` says.
        ConfigError: there is no such model here, or the source of one's own has changed.
    """
    file, weights = _read_export(folder)
    path = folder / FILE
    form, whole = file.task.input, isinstance(weights, Mapping)
    if whole and not tuned:
        raise ConfigError(f"{folder}: holds the trained model alone; ask the run of it untuned")
    # Each column has a weight, or more.
    if isinstance(form, TableInput) and form.numeric > _size(weights):
        raise DataError(f"{path}: is not of the model beside it: {form.numeric} columns")
    if base or (whole and (folder / BASE).is_dir()):
        file = _based_on(file, base or str(folder / BASE))
    try:
        if isinstance(weights, Mapping):
            made = models.restored(file.model, file.learned.of(file.task), weights)
            return Predictor(file=file, network=made.eval())
        return predictor(file, weights if tuned else None)
    except ConfigError as error:
        raise ConfigError([*error.problems, *_way_to_base(file, base)]) from None
    except (ValueError, TypeError, RuntimeError) as error:  # torch, of sizes
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: is not of the model beside it: {reason}") from None


def tuned_part(folder: Path, base: str = "") -> tuple[ModelFile, Vector]:
    """What stands in an export, and the trained part of its model, which is put to no use yet.

    Raises:
        DataError: as `load`.
        ConfigError: it holds all weights, of which no part is what was trained.
    """
    file, weights = _read_export(folder)
    if isinstance(weights, Mapping):
        raise ConfigError(f"{folder}: holds its weights in eight bits; give the run, or its export")
    return (_based_on(file, base) if base else file), weights


def described(folder: Path) -> ModelFile:
    """What stands in an export beside its weights, which are checked and not put to use.

    Raises:
        DataError: as `load`.
    """
    return _read_export(folder)[0]


def _size(weights: Vector | Mapping[str, Tensor]) -> int:
    if isinstance(weights, Mapping):
        return sum(tensor.numel() for tensor in weights.values())
    return len(weights)


def _read_export(folder: Path) -> tuple[ModelFile, Vector | Mapping[str, Tensor]]:
    path = folder / FILE
    try:
        text, content = path.read_text(encoding="utf-8"), (folder / TENSORS).read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{folder}: holds no exported model ({error}); give a folder that `fedlearn export` "
            "wrote with its " + FILE
        ) from None
    try:
        file = decode(ModelFile, text)
        weights, found = _read_weights(file, content)
    except (ConfigError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a model that this version reads: {error}") from None
    if file.schema != SCHEMA:
        raise DataError(f"{path}: schema is {file.schema!r}; this version reads {SCHEMA!r}")
    if found != (named := file.file_sha256 or file.sha256):
        raise DataError(f"{folder / TENSORS}: has the SHA-256 {found}; {FILE} names {named}")
    return file, weights


def _read_weights(file: ModelFile, content: bytes) -> tuple[Vector | Mapping[str, Tensor], str]:
    """What is trained as a vector, or all weights by name; and the hash that it is known by."""
    if file.stored == "int8":
        return read_back(load_tensors(content)), hashlib.sha256(content).hexdigest()
    vector = values_of(content)
    return vector, vector_digest(vector)


def write_table(model: Predictor, found: Unlabelled, to: Path | None) -> None:
    """A line for every record: where it stands, and what the model says of it.

    Raises:
        ConfigError: `to` cannot be written.
    """
    answers, task = model.answers(found.features), model.task
    rows = [[line, *task.answer_cells(own)] for line, own in zip(found.lines, answers, strict=True)]
    write_rows(["line", *task.answer_columns], rows, to)


def write_rows(header: Sequence[str], rows: Sequence[Sequence[object]], to: Path | None) -> None:
    """A table as CSV, into a file or onto the screen; raises ConfigError as `write_table`."""
    if to is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])
        return
    with (
        possible("written", f"--to {to}", ConfigError),
        to.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def unnamed_categories(scenario: Scenario, shape: object) -> tuple[str, ...]:
    """The columns whose categories a run finds in records, so that they are not in its model."""
    rows = row_scenario(scenario)
    if rows is None or not isinstance(shape, TableInput):
        return ()
    named = {*rows.categories, *rows.buckets}
    return tuple(name for name in roles_of(shape).categorical if name not in named)


def predictor(file: ModelFile, vector: Vector | None) -> Predictor:
    """The model that `file` describes, with these trained weights or as it was before training.

    Raises:
        DataError, ConfigError: as `fedlearn.models.trained`.
        ValueError, TypeError, RuntimeError: the weights are not of such a model.
    """
    task, cache = file.learned.of(file.task), default_cache(os.environ)
    streams = Streams(file.seed)
    made = models.trained(file.model, task, streams, file.finetune, vector, cache)
    return Predictor(file=file, network=made.eval())


def _based_on(file: ModelFile, base: str) -> ModelFile:
    """The same model, with what is public of it in the folder `base`."""
    model, before = file.model.based_on(base), getattr(file.model, "folder", "")
    form = file.task.input
    if isinstance(form, TextInput) and form.tokenizer == before:
        form = replace(form, tokenizer=base)
    task, scenario = replace(file.task, input=form), file.scenario.based_on(base, before)
    return replace(file, model=model, task=task, scenario=scenario)


def _way_to_base(file: ModelFile, base: str) -> Iterator[str]:
    if not base and hasattr(file.model, "folder"):
        yield "--base: give the folder of the model that it was tuned from, if that lies elsewhere"


def _categories(rows: Csv, shape: TableInput, like: Path | None) -> dict[str, tuple[str, ...]]:
    names = roles_of(shape).categorical
    named = {**rows.categories, **{name: bucket_names(n) for name, n in rows.buckets.items()}}
    unnamed = [name for name in names if name not in named]
    kept = kept_categories(like) if unnamed and like and like.is_dir() else {}
    if lacking := [name for name in unnamed if name not in kept]:
        if like is None or like.is_dir():
            raise ConfigError(
                f"--like: the categories of {', '.join(lacking)} were found in records and are not "
                "part of the model; give the table that it was trained on (--like TABLE) or the "
                "folder of its run (--like RUN), or name them in scenario.categories before "
                "training"
            )
        kept = found_categories(replace(rows, path=str(like)), unnamed)
    return {name: named.get(name) or kept[name] for name in names}


def written_as(scenario: Rows, path: Path | str, written: Mapping[str, str]) -> Rows:
    """The scenario of a file at `path`, whose form `written` says where it is another."""
    fields = to_tree(scenario)
    if not is_excel(Path(path)):  # the run's own may have been one
        fields["sheet"] = ""
    known = {name: value for name, value in written.items() if name in fields}
    return decode(type(scenario), json.dumps({**fields, **known, "path": str(path)}))


def _no_rows(path: Path, shape: tuple[int, ...]) -> str:
    wanted = ", ".join(map(str, shape))
    return (
        f"{path}: the records of this run are not made from rows alone (they are images, rows "
        "over time, hashed, or scaled by what a site keeps); give them as the model takes them, in "
        f"the array 'features' of a file .npz: [n, {wanted}]"
    )


# --- records without a label, made as those of a run were ---------------------------

# Nothing is learned from them. What a run found in its own records and did not take from its
# config (the categories of a column) is not part of a model; it is named in the config, or
# found again in the table that was trained on.


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
        [features] = named_arrays(path, "features")
    except (OSError, *DAMAGED_ARRAYS) as error:
        raise DataError(f"{path}: holds no array 'features' of numbers ({error})") from None
    if features.dtype.kind not in "fiu" or not np.isfinite(features).all():
        raise DataError(f"{path}: 'features' must be finite numbers")
    if features.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise DataError(f"{path}: 'features' is {list(features.shape)}; wanted: [n, {wanted}]")
    return Unlabelled(features=features, lines=tuple(range(1, len(features) + 1)))


# --- from texts ------------------------------------------------------------------------


def read_texts(scenario: OwnText, cache: Path) -> Unlabelled:
    """The column `scenario.text` of a table or of JSON lines, as token ids.

    Raises:
        DataError: the file cannot be read, has no such column, or no record has a text.
    """
    path = Path(scenario.path)
    if is_lines(path):
        rows = read_objects(path, scenario.encoding)
        there = keys_of(rows)
        table = table_of(path, rows, [key for key in there if key == scenario.text])
    else:
        table = read_file(path, scenario.separator, scenario.encoding, sheet=scenario.sheet)
        there = table.header
    if scenario.text not in there:
        known = ", ".join(sorted(there))
        raise DataError(f"{path}: no column {scenario.text!r} (--text); there are {known}")
    empty = table.cells(scenario.text).among(("",))[table.cells(scenario.text).codes]
    if empty.all():
        raise DataError(f"{path}: no record has a text in column {scenario.text!r}")
    notes = []
    if empty.any():
        notes.append(f"{table.places(np.flatnonzero(empty))}: no text, left out")
        table = table.take(np.flatnonzero(~empty))
    tokens = tokenize(scenario.tokenizer, table.column(scenario.text), cache)
    if tokens.cut:
        most = scenario.tokenizer.max_length
        notes.append(
            f"{counted(tokens.cut, 'text is', 'texts are')} longer than {most} pieces and "
            "cut off there"
        )
    return Unlabelled(features=tokens.ids, lines=tuple(table.lines.tolist()), notes=tuple(notes))


# --- from rows -------------------------------------------------------------------------


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
    refuse(_absent(config.path, table, (config.label, *names)))
    table, _ = spelled(table, config.decimal, named={}, found=names)
    table = taken_rows(config, table)
    kept = deidentified(config.deidentify, table, config.missing, config.decimal)
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
    table = read_rows(replace(config, names=()))  # columns are found by their names
    refuse(_absent(config.path, table, (*roles.numeric, *roles.categorical)))
    known = {name: categories[name] for name in roles.categorical if name not in config.buckets}
    table, _ = spelled(table, config.decimal, named=known, found=())
    table = deidentified(config.deidentify, table, config.missing, config.decimal)
    refuse(_words(config, table, roles.numeric))
    raw = numbers_of(config, table, [*roles.numeric])
    gaps = np.isnan(raw[:, [roles.numeric.index(name) for name in roles.gaps]])
    codes = [
        category_codes(config, table.cells(name), name, categories[name])
        for name in roles.categorical
    ]
    values = scaled(config, [*roles.numeric], raw)
    features = np.column_stack([values, gaps, *codes]).astype(np.float32)
    notes = (*_unseen(config, table, known), *_gap_notes(roles, raw))
    return Unlabelled(features=features, lines=tuple(table.lines.tolist()), notes=notes)


def _check(shape: TableInput, roles: Roles, categories: Categories) -> None:
    sizes = dict(zip(roles.categorical, shape.cardinalities, strict=True))
    wrong = [
        f"scenario.categories.{name}: the model has {size - 1} categories, and these are "
        f"{len(categories[name])}; give the table that it was trained on"
        for name, size in sizes.items()
        if len(categories[name]) != size - 1
    ]
    refuse(wrong, ConfigError)


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
            yield (
                f"column {name!r}: {counted(strange, 'value')} that the model never saw, "
                "taken as missing"
            )


def _gap_notes(roles: Roles, raw: NDArray[np.float64]) -> Iterator[str]:
    for name, absent in zip(roles.numeric, np.isnan(raw).sum(0), strict=True):
        if absent and name not in roles.gaps:
            yield (
                f"column {name!r}: {counted(int(absent), 'gap')}, where training had "
                "none; taken as mid-range"
            )
