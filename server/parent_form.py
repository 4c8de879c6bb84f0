"""What the weights of a parent were trained to read and to name, beside what this run has.

A tensor of the right shape may still be of another meaning: two tables with as many columns, two
lists of as many classes. What a run or an export says of its own is compared by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedlearn.config.parent import EXPORT, RESULT
from fedlearn.core.errors import ConfigError, some
from fedlearn.tasks import Task
from fedlearn.tasks.inputs import Input, SeriesInput, TableInput


def other_form(init: str, task: Task) -> Iterator[str]:
    """Why weights that fit in shape would stand for something else here."""
    columns, classes = _theirs(init)
    own = columns_of(task.input)
    if columns and own and columns != own:
        yield from _other_columns(columns, own)
    mine = list(task.classes)
    if classes != mine and sorted(classes) == sorted(mine):
        yield f"its classes stand in another order; set scenario.classes=[{','.join(classes)}]"


def other_classes(init: str, task: Task) -> Iterator[str]:
    """A note where a head goes on from one that named as many other classes."""
    classes, mine = _theirs(init)[1], list(task.classes)
    if len(classes) == len(mine) and sorted(classes) != sorted(mine):
        yield (
            f"init={init}: its classes were {some(classes)}, and are {some(mine)} here: the head "
            "goes on from what it has learned of the others, in this order"
        )


def columns_of(shape: Input) -> list[str]:
    """The names of a table's columns in their order; none of what is no table."""
    row = shape.row if isinstance(shape, SeriesInput) else shape
    return list(row.names) if isinstance(row, TableInput) else []


def _other_columns(theirs: Sequence[str], own: Sequence[str]) -> Iterator[str]:
    gone = [name for name in theirs if name not in own]
    new = [name for name in own if name not in theirs]
    if not (gone or new):
        yield f"its columns stand in another order: {some(theirs)}; list them so"
        return
    parts = [f"{what} {some(names)}" for what, names in (("not", gone), ("but", new)) if names]
    yield (
        f"weights belong to columns, and this run has {', '.join(parts)}. Give it the columns of "
        "that run (scenario.drop, scenario.numeric, scenario.rename; those ending in _missing by "
        "scenario.gaps), or begin without init"
    )


def _theirs(init: str) -> tuple[list[str], list[str]]:
    """The columns and the classes of a run or an export; empty where nothing says them.

    Raises:
        ConfigError: what stands there was written by no run.
    """
    for name in (RESULT, EXPORT):
        if (beside := Path(init) / name).is_file():
            try:
                return _named(json.loads(beside.read_bytes()))
            except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
                raise ConfigError([f"init={init}: {name} was written by no run: {error}"]) from None
    return [], []


def _named(file: dict[str, Any]) -> tuple[list[str], list[str]]:
    task = file.get("task") or {}
    shape = task.get("input") or file.get("model", {}).get("input") or {}
    classes = task.get("classes") or file.get("data", {}).get("classes") or []
    names = shape.get("row", shape).get("names", [])
    if not all(isinstance(one, str) for one in (*names, *classes)):
        raise TypeError("a name that is no text")
    return list(names), list(classes)
