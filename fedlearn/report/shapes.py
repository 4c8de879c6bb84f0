"""The functions that an additive model is a sum of: the contents of `shapes.json`, for the report.

What a column adds can be moved by a constant from it to the intercept, and no answer changes. Here
each has a mean of zero over the bins that are shown, and of several classes the scores of a bin
have a mean of zero over the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from fedlearn.core.vector import Vector
from fedlearn.core.weights import values_of
from fedlearn.models.bins import Axis
from fedlearn.models.ebm import functions
from fedlearn.prediction import ModelFile, row_scenario
from fedlearn.tasks import Task

SCHEMA: Final = "fedlearn/shapes/v1"
FILE: Final = "shapes.json"
NOISE: Final = "noise.safetensors"

Floats = NDArray[np.float64]

_CLEAR: Final = 5.0
"""Deviations of the noise from which on a bin is taken to have records."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapeOfColumn:
    """What one column adds: `values: float64[bins, outputs]`, and the deviation of their noise.

    Of a number bin `i` begins at `cuts[i - 1]`, in the units of the table, and the last is that of
    records without a value. Of categories the first is that of what is missing or was never seen;
    `categories` are the names of the others, where they may be told. `shown` are the bins from the
    first to the last that stand out of noise, and those of the same widest bins.
    """

    name: str
    kind: str
    cuts: Floats
    categories: tuple[str, ...] | None
    values: Floats
    deviation: Floats | None
    gap: bool
    shown: slice
    open: bool

    @property
    def clear(self) -> bool:
        """Whether anything is known of it: of what goes as far as numbers do, less than all."""
        return not self.open or self.shown != slice(0, len(self.cuts) + 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shapes:
    """The whole model."""

    sha256: str
    answers: str
    """What scores become: `classes`, a `number`, or nothing else (`scores`)."""
    outputs: tuple[str, ...]
    classes: tuple[str, ...]
    low: float | None
    high: float | None
    intercept: Floats
    columns: tuple[ShapeOfColumn, ...]

    def tree(self) -> dict[str, Any]:
        """As JSON has it."""
        columns = [
            {
                "name": one.name,
                "kind": one.kind,
                "cuts": one.cuts.tolist(),
                "categories": None if one.categories is None else list(one.categories),
                "values": one.values.tolist(),
                "deviation": None if one.deviation is None else one.deviation.tolist(),
            }
            for one in self.columns
        ]
        return {
            "schema": SCHEMA,
            "model_sha256": self.sha256,
            "answers": self.answers,
            "outputs": list(self.outputs),
            "classes": list(self.classes),
            "low": self.low,
            "high": self.high,
            "intercept": self.intercept.tolist(),
            "columns": columns,
        }


def shapes_of(file: ModelFile, vector: Vector, noise: Vector | None) -> Shapes | None:
    """The functions of a model with the trained values `vector`; None where it is no such sum.

    `noise` is the deviation of the noise in each of them, where it is known.
    """
    task = file.learned.of(file.task)
    axes = file.model.axes(task)
    if axes is None:
        return None
    table = vector.reshape(-1, task.num_outputs).astype(np.float64)
    spread = None if noise is None else noise.reshape(table.shape)
    names = _categories(file, axes)
    columns = [*_columns(axes, table, spread, names)]
    intercept, columns = _centred(table[0], columns, several=_one_of_them(task))
    return _in_units(file, task, intercept, columns)


def _columns(
    axes: Sequence[Axis],
    table: Floats,
    spread: NDArray[np.floating] | None,
    names: Mapping[str, tuple[str, ...]],
) -> Iterator[ShapeOfColumn]:
    values = functions(axes, table)
    noise = [None] * len(axes) if spread is None else deviations(axes, spread)
    for axis, own, deviation in zip(axes, values, noise, strict=True):
        yield ShapeOfColumn(
            name=axis.name,
            kind=axis.kind,
            cuts=axis.own_cuts(),
            categories=names.get(axis.name) if axis.kind == "categories" else None,
            values=own,
            deviation=deviation,
            gap=axis.gap is not None,
            shown=_shown(axis, own, deviation),
            open=axis.open,
        )


def deviations(axes: Sequence[Axis], spread: NDArray[np.floating]) -> list[Floats]:
    """Of what each column adds: the noise of different values is independent."""
    squares = functions(axes, spread.astype(np.float64) ** 2, power=2)
    return [np.sqrt(own) for own in squares]


def _shown(axis: Axis, values: Floats, deviation: Floats | None) -> slice:
    """Bins that have had no record hold zero, or noise alone; those at both ends are left out."""
    if not axis.open:
        return slice(0, axis.size)
    widest = axis.widths[-1]
    inside = np.abs(values[: axis.size])
    bar = 0.0 if deviation is None else _CLEAR * deviation[: axis.size]
    places = np.flatnonzero((inside > bar).any(1))
    if not len(places):
        return slice(0, axis.size)
    first, last = int(places[0]) // widest, int(places[-1]) // widest
    return slice(first * widest, min(axis.size, (last + 1) * widest))


def _centred(
    intercept: Floats, columns: Sequence[ShapeOfColumn], *, several: bool
) -> tuple[Floats, list[ShapeOfColumn]]:
    found, start = [], intercept.astype(np.float64)
    for one in columns:
        middle = one.values[one.shown].mean(0)
        start, values = start + middle, one.values - middle
        found.append(replace(one, values=_even(values) if several else values))
    return _even(start[None])[0] if several else start, found


def _even(scores: Floats) -> Floats:
    """With a mean of zero over the classes, which changes no chance."""
    return np.asarray(scores - scores.mean(1, keepdims=True))


def _in_units(
    file: ModelFile, task: Task, intercept: Floats, columns: Sequence[ShapeOfColumn]
) -> Shapes:
    # Other tasks have labels too, of which not just one is true.
    classes = tuple(file.task.classes) if _one_of_them(task) else ()
    outputs = tuple(f"chance of {name}" for name in classes) or task.answer_columns
    low, high = (getattr(file.learned, end, None) for end in ("low", "high"))
    answers = "classes" if classes else "scores"
    if len(intercept) == 1 and low is not None and high is not None:
        half = (high - low) / 2
        intercept, answers = intercept * half + (low + high) / 2, "number"
        columns = [
            replace(
                one,
                values=one.values * half,
                deviation=None if one.deviation is None else one.deviation * half,
            )
            for one in columns
        ]
    if answers == "scores":
        outputs, low, high = tuple(f"score {i + 1}" for i in range(len(intercept))), None, None
    return Shapes(
        sha256=file.sha256, answers=answers, outputs=outputs, classes=classes,
        low=low if answers == "number" else None, high=high if answers == "number" else None,
        intercept=intercept, columns=tuple(columns),
    )  # fmt: skip


def _one_of_them(task: Task) -> bool:
    """Whether its answers are the chances of classes of which one is true: they add up to 1."""
    asked = torch.eye(1, task.num_outputs)
    found = task.answers(asked)
    return found.shape == asked.shape and asked.shape[1] > 1 and abs(float(found.sum()) - 1) < 1e-6


def _categories(file: ModelFile, axes: Sequence[Axis]) -> Mapping[str, tuple[str, ...]]:
    """The names of categories that the config tells."""
    rows = row_scenario(file.scenario)
    named = dict(rows.categories) if rows is not None else {}
    return {
        axis.name: tuple(named[axis.name])
        for axis in axes
        if axis.name in named and len(named[axis.name]) == axis.size - 1
    }


def read_noise(folder: Path, size: int) -> Vector | None:
    """The deviation of the noise in every value of a model; None where it is not told."""
    path = folder / NOISE
    try:
        found = values_of(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return found if found.size == size and (found >= 0).all() else None
