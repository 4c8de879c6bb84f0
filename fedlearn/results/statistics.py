"""The files of a run that made a table of figures: `statistics.json`, and what the next run can use
of it, `statistics.yaml`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from sys import float_info
from typing import Any, Final

from fedlearn.config import encode
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, DataError, prefixed
from fedlearn.core.files import write_atomically
from fedlearn.figures import FILE, StatisticsFile, TableFigures
from fedlearn.figures.table import SCHEMA, ChoiceFigures, NumberFigures
from fedlearn.results.reading import parse, read_bytes

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
    what = "a table of figures"
    found = parse(StatisticsFile, path, read_bytes(path), schema=SCHEMA, what=what)
    tables = {"pooled": found.pooled, **{f"by_site.{s}": one for s, one in found.by_site.items()}}
    strange = [where for where, one in tables.items() if not _is_like(one, found.pooled)]
    if strange:
        raise DataError(f"{path}: not {what}: {', '.join(strange)}: columns that do not fit")
    return found


def _is_like(one: TableFigures, pooled: TableFigures) -> bool:
    """Whether a table has the columns of all sites' together, and each what it shows."""
    return (
        [number.name for number in one.numbers] == [number.name for number in pooled.numbers]
        and [choice.name for choice in one.choices] == [choice.name for choice in pooled.choices]
        and [curve.times for curve in one.survival] == [curve.times for curve in pooled.survival]
        and all(len(curve.surviving) == len(curve.times) for curve in one.survival)
        and all(_is_share(name) for number in one.numbers for name in number.quantiles)
    )


def _is_share(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


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
    if not isinstance(columns, dict) or not all(isinstance(one, dict) for one in columns.values()):
        raise ConfigError([f"{path}: columns: must be a mapping of mappings"])
    with prefixed(path):
        return [word for name, one in columns.items() for word in _words(str(name), one)]


def _words(name: str, column: Mapping[str, Any]) -> Iterator[str]:
    from fedlearn.data.tables.guess import key_of

    if (limits := column.get("range")) is not None:
        if not _is_range(limits):
            raise ConfigError(f"columns.{name}.range: must be two numbers, the smaller first")
        low, high = map(_digits, limits)
        yield f"{key_of('scenario.scaling.columns', name)}=[{low},{high}]"
    if isinstance(categories := column.get("categories"), list):
        values = ",".join(json.dumps(str(one), ensure_ascii=False) for one in categories)
        yield f"{key_of('scenario.categories', name)}=[{values}]"


def _digits(value: float) -> str:
    """As few digits as say this very number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def _is_range(found: object) -> bool:
    if not (isinstance(found, list) and len(found) == 2):
        return False
    if not all(type(one) in (int, float) and abs(one) <= float_info.max for one in found):
        return False
    return bool(found[0] < found[1])
