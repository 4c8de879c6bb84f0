"""An exported model, asked about records: `load` it, then `read` a file and ask for `answers`.

What a model takes stands beside it in `model.json`: the form of a record, how it
is made from a file, and how the model is built. Nothing here knows of runs, sites
or Flower.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from torch import nn

from fedlearn import models
from fedlearn.config import decode, to_tree
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector, vector_digest
from fedlearn.data import SCENARIOS, Csv, OwnText, Scenario
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.unlabelled import (
    Unlabelled,
    found_categories,
    read_array,
    read_rows_of,
    read_texts,
    roles_of,
    row_scenario,
)
from fedlearn.models import MODELS, Finetune, Model
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

Rows = TypeVar("Rows", Csv, OwnText)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A model that was exported, on the CPU."""

    file: ModelFile
    network: nn.Module
    """Records, as `read` makes them, to what the task makes answers from."""

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

        `like` is the table that was trained on, where the config of the run names
        no categories. `written` says where the file is written otherwise than that
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
            return read_texts(_written(texts, path, written), default_cache(os.environ))
        rows = row_scenario(scenario)
        if rows is None or not isinstance(shape, TableInput):
            raise ConfigError([_no_rows(path, shape_of(shape))])
        asked = _written(rows, path, written)
        return read_rows_of(asked, shape, _categories(rows, shape, like))


def load(folder: Path) -> Predictor:
    """The model in a folder that `fedlearn export` wrote.

    Raises:
        DataError: there is none, or it is not what its `model.json` says.
    """
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
        vector = values_of(content)
    except (ConfigError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a model that this version reads: {error}") from None
    if file.schema != SCHEMA:
        raise DataError(f"{path}: schema is {file.schema!r}; this version reads {SCHEMA!r}")
    if (found := vector_digest(vector)) != file.sha256:
        raise DataError(f"{folder / TENSORS}: has the SHA-256 {found}; {FILE} names {file.sha256}")
    return Predictor(file=file, network=_network(file, vector))


def write_table(model: Predictor, found: Unlabelled, to: Path | None) -> None:
    """A line for every record: where it stands, and what the model says of it.

    Raises:
        ConfigError: `to` cannot be written.
    """
    answers, task = model.answers(found.features), model.task
    rows = [[line, *task.answer_cells(own)] for line, own in zip(found.lines, answers, strict=True)]
    header = ["line", *task.answer_columns]
    if to is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])
        return
    try:
        with to.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
    except OSError as error:
        raise ConfigError([f"--to {to}: cannot be written ({error.strerror})"]) from None


def values_of(content: bytes) -> Vector:
    """The values of a model file in the order in which they were trained: `float32[d]`.

    Raises:
        SafetensorError, ValueError, KeyError, TypeError: it is not one that a run wrote.
    """
    tensors = load_tensors(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    order = json.loads(header["__metadata__"]["order"])
    if sorted(order) != sorted(tensors) or any(t.dtype != "<f4" for t in tensors.values()):
        raise ValueError("its tensors are not those that its header lists, or not float32")
    return np.concatenate([tensors[name].ravel() for name in order])


def unnamed_categories(file: ModelFile) -> tuple[str, ...]:
    """The columns whose categories a run found in records, so that they are not in its model."""
    rows, shape = row_scenario(file.scenario), file.task.input
    if rows is None or not isinstance(shape, TableInput):
        return ()
    return tuple(name for name in roles_of(shape).categorical if name not in rows.categories)


def _network(file: ModelFile, vector: Vector) -> nn.Module:
    weights = file.model.weights(default_cache(os.environ))
    task, streams = file.learned.of(file.task), Streams(file.seed)
    learner = models.build(file.model, task, streams, file.finetune, weights)
    load_vector(learner.model, vector)
    return learner.whole().eval()


def _categories(rows: Csv, shape: TableInput, like: Path | None) -> dict[str, tuple[str, ...]]:
    names = roles_of(shape).categorical
    unnamed = [name for name in names if name not in rows.categories]
    if unnamed and like is None:
        raise ConfigError(
            [
                f"--like: the categories of {', '.join(unnamed)} were found in records and are not "
                "part of the model; give the table that it was trained on (--like TABLE), or name "
                "them in scenario.categories before training"
            ]
        )
    found = found_categories(replace(rows, path=str(like)), unnamed) if unnamed else {}
    return {name: rows.categories.get(name) or found[name] for name in names}


def _written(scenario: Rows, path: Path, written: Mapping[str, str]) -> Rows:
    """The scenario of a file at `path`, whose form `written` says where it is another."""
    fields = to_tree(scenario)
    known = {name: value for name, value in written.items() if name in fields}
    return decode(type(scenario), json.dumps({**fields, **known, "path": str(path)}))


def _no_rows(path: Path, shape: tuple[int, ...]) -> str:
    wanted = ", ".join(map(str, shape))
    return (
        f"{path}: the records of this run are not made from rows alone (they are images, rows "
        "over time, hashed, or scaled by what a site keeps); give them as the model takes them, in "
        f"the array 'features' of a file .npz: [n, {wanted}]"
    )
