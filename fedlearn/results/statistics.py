"""The files of a run that made a table of figures: `statistics.json`, and what the next run can use
of it, `statistics.yaml`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fedlearn.config import decode, encode
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import possible, write_atomically
from fedlearn.figures import FILE, StatisticsFile, TableFigures
from fedlearn.figures.table import SCHEMA, ChoiceFigures, NumberFigures

USABLE: Final = "statistics.yaml"
USABLE_SCHEMA: Final = "fedlearn/statistics/columns/v1"

Names = Mapping[str, tuple[str, ...]]


def write_statistics(folder: Path, found: StatisticsFile) -> None:
    """Write both files into the folder of a run."""
    text = json.dumps(json.loads(encode(found)), indent=2, ensure_ascii=False)
    write_atomically(folder / FILE, text.encode())
    write_atomically(folder / USABLE, yaml_file.dump(usable(found)).encode())


def read_statistics(folder: Path) -> StatisticsFile:
    """What a run has found.

    Raises:
        DataError: there is nothing, or it cannot be read.
    """
    path = folder / FILE
    with possible("read", path, DataError):
        text = path.read_text("utf-8")
    try:
        found = decode(StatisticsFile, text)
    except ConfigError as error:
        raise DataError([f"{path}: {problem}" for problem in error.problems]) from None
    if found.schema != SCHEMA:
        raise DataError(f"{path}: its schema is {found.schema!r}, and this version reads {SCHEMA}")
    return found


# --- names of categories -------------------------------------------------------------------


def named(found: StatisticsFile, names: Names) -> StatisticsFile:
    """With the names of categories that are not public, in the place of their numbers.

    None is there that is not above its threshold.
    """
    return replace(
        found,
        pooled=_with_names(found.pooled, names),
        by_site={site: _with_names(one, names) for site, one in found.by_site.items()},
    )


def _with_names(table: TableFigures, names: Names) -> TableFigures:
    return replace(table, choices=[_renamed(choice, names) for choice in table.choices])


def _renamed(choice: ChoiceFigures, names: Names) -> ChoiceFigures:
    known = names.get(choice.name)
    if known is None or choice.threshold is None:
        return choice
    called = {f"#{number}": name for number, name in enumerate(known, 1)}
    return replace(
        choice,
        categories=[replace(one, name=called.get(one.name, one.name)) for one in choice.categories],
    )


# --- for the next run ----------------------------------------------------------------------


def usable(found: StatisticsFile) -> dict[str, Any]:
    """What the next run may take for public, with what it has cost.

    `columns` has for each number its `range`, quantiles and `edges` of bins with about as many
    records each; for each column of categories their names.
    """
    columns: dict[str, Any] = {}
    for number in found.pooled.numbers:
        if not number.is_label:
            columns[number.name] = _of_number(number)
    for choice in found.pooled.choices:
        if choice.categories and not (choice.is_label or choice.is_share):
            columns[choice.name] = {"categories": [one.name for one in choice.categories]}
    return {
        "schema": USABLE_SCHEMA,
        "experiment": found.experiment,
        "run_id": found.run_id,
        "cost": {"unit": found.unit, "epsilon": found.epsilon, "delta": found.delta},
        "columns": columns,
    }


def _of_number(number: NumberFigures) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if number.low is not None and number.high is not None and number.low < number.high:
        found["range"] = [number.low, number.high]
    if not number.unsure:
        found["quantiles"] = {name: _short(one.value) for name, one in number.quantiles.items()}
        found["edges"] = [_short(edge) for edge in number.edges]
    return found


def _short(value: float) -> float:
    """What is left of steps of a range in floating point."""
    return float(f"{value:.9g}")


def words_of(path: Path) -> list[str]:
    """The overrides that a `statistics.yaml` stands for: ranges and categories of columns.

    Raises:
        ConfigError: it is no such file.
    """
    tree = yaml_file.read(path)
    if not isinstance(tree, dict) or tree.get("schema") != USABLE_SCHEMA:
        raise ConfigError([f"{path}: is no statistics.yaml of `fedlearn statistics`"])
    columns = tree.get("columns")
    if not isinstance(columns, dict):
        raise ConfigError([f"{path}: columns: must be a mapping"])
    return [
        word
        for name, one in columns.items()
        if isinstance(one, dict)
        for word in _words(str(name), one)
    ]


def _words(name: str, column: Mapping[str, Any]) -> Iterator[str]:
    from fedlearn.data.tables.guess import key_of

    if isinstance(limits := column.get("range"), list) and len(limits) == 2:
        low, high = limits
        yield f"{key_of('scenario.scaling.columns', name)}=[{low:g},{high:g}]"
    if isinstance(categories := column.get("categories"), list):
        values = ",".join(json.dumps(str(one), ensure_ascii=False) for one in categories)
        yield f"{key_of('scenario.categories', name)}=[{values}]"
