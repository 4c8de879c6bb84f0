"""The records of a study, in whatever form a program holds them, as the words that name them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fedlearn.core.errors import ConfigError, DataError, refuse
from fedlearn.data.arrays import keep_arrays, keep_table
from fedlearn.data.tables.cells import Cells
from fedlearn.data.tables.columns import MISSING
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.csv_rows import read_rows
from simulations.api.asking import words_of


def data_words(data: Any, *, label: str, site: str, classes: Sequence[Any], name: str) -> list[str]:
    """Keep the records of `data`, as `Study` takes it, and name them.

    Raises:
        ConfigError, DataError: with what is wrong, and what to give.
    """
    if site and label:
        for key, column in (("label", label), ("site", site)):
            if column in map(str, getattr(getattr(data, "index", None), "names", ())):
                raise ConfigError(f"{key}={column}: is the index; give frame.reset_index()")
        return _table_words(_table(data, "data"), site, label, classes)
    if label and not site and hasattr(data, "columns") and not isinstance(data, Mapping):
        raise ConfigError(
            "site: name the column that says whose a row is (site=...), or give a table for each "
            "site, as {'north': table, ...}"
        )
    if site or not isinstance(data, Mapping):
        raise ConfigError(
            "data: give the records by site, as {'north': (X, y), ...}; or one table with "
            "label=... and site=..., the names of its columns"
        )
    if not data:
        raise ConfigError("data: holds no site")
    named = {_site_name(key): value for key, value in data.items()}
    if all(_is_arrays(value) for value in named.values()):
        if label:
            raise ConfigError(f"label={label}: arrays have their labels beside them")
        arrays = {key: _pair(key, value) for key, value in named.items()}
        return ["scenario=python", f"scenario.records='{keep_arrays(name, arrays, classes)}'"]
    if any(_is_arrays(value) for value in named.values()):
        raise ConfigError("data: some sites give arrays and others tables; give one of them")
    if loaders := [key for key, value in named.items() if hasattr(value, "batch_sampler")]:
        raise ConfigError(f"data: site {loaders[0]} gives a DataLoader; give its `.dataset`")
    if not label:
        raise ConfigError("label: name the column of the tables that is to be predicted")
    tables = {key: _table(value, key) for key, value in named.items()}
    return _table_words(*_together(tables), label, classes)


def _site_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"data: {name!r} is no name of a site; give a text")
    return name


def _is_arrays(value: Any) -> bool:
    """A pair of arrays, or a map-style dataset of pairs."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return True
    is_table = isinstance(value, str | Path | Mapping) or hasattr(value, "columns")
    return not is_table and hasattr(value, "__getitem__") and hasattr(value, "__len__")


def _pair(site: str, value: Any) -> tuple[Any, Any]:
    """Features and labels as arrays."""
    if isinstance(value, tuple | list) and len(value) == 2:
        x, y = value
        return _array(x, f"site {site}: features"), _array(y, f"site {site}: labels")
    try:
        pairs = [value[i] for i in range(len(value))]
        if odd := [type(pair).__name__ for pair in pairs if isinstance(pair, str | Mapping)]:
            raise TypeError(f"it is a {odd[0]}")
        x, y = zip(*pairs, strict=True) if pairs else ((), ())
        return np.stack([*map(_array, x)]) if x else np.zeros((0, 1)), np.array([*map(_array, y)])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"site {site}: an item of the dataset is no pair (x, y) of a tensor, the same in "
            f"shape for all, and a class ({error})"
        ) from None


def _array(value: Any, where: str = "an item") -> Any:
    """Of torch, and of a DataFrame or Series, the array; in one of pandas' numbers a gap is NaN."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if not hasattr(value, "to_numpy"):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise DataError(f"{where} are no array ({_line(error)})") from None
    array = value.to_numpy()
    kinds = {getattr(one, "kind", "O") for one in np.atleast_1d(getattr(value, "dtypes", "O"))}
    if array.dtype.kind == "O" and kinds <= set("iufb"):
        return value.to_numpy(dtype="float64", na_value=np.nan)
    return array


def _table(value: Any, where: str) -> pa.Table:
    """A DataFrame, a mapping of columns, a table of Arrow's or the file of one."""
    table = _in_arrow(value, where)
    # What pandas numbers its rows by, where it has kept that.
    return table.select([name for name in table.column_names if not name.startswith("__index_")])


def _in_arrow(value: Any, where: str) -> pa.Table:
    _check_columns(value, where)
    try:
        if isinstance(value, pa.Table):
            return value
        if isinstance(value, str | Path):
            return _of_file(Path(value))
        if hasattr(value, "to_arrow"):  # polars
            return value.to_arrow()
        if isinstance(value, Mapping):
            return pa.table(dict(value))
        return pa.Table.from_pandas(value, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: cannot be read as a table ({_line(error)}); a column holds numbers, texts, "
            "dates or truth values, one kind of them"
        ) from None


def _check_columns(value: Any, where: str) -> None:
    """Refuse what pandas has beyond columns of one name each.

    Raises:
        DataError: with what to do to the frame.
    """
    columns: Any = getattr(value, "columns", None)
    if not hasattr(columns, "nlevels"):
        return
    if columns.nlevels > 1:
        raise DataError(
            f"{where}: its columns have names of {columns.nlevels} levels; give them one, as in "
            "frame.columns = ['_'.join(map(str, name)) for name in frame.columns]"
        )
    if twice := [name for name, count in Counter(map(str, columns)).items() if count > 1]:
        raise DataError(f"{where}: two columns are called {twice[0]!r}; rename or drop one of them")


def _of_file(path: Path) -> pa.Table:
    table = read_rows(Csv(path=str(path), label="-"))
    return pa.table(
        {name: _of_cells(table.cells(name), table.column(name)) for name in table.header}
    )


def _of_cells(cells: Cells, texts: Sequence[str]) -> pa.Array:
    """A column whose type is a file's: what has none there is numbers where all of it can be."""
    numbers = cells.numbers(".")[cells.codes]
    absent = np.isnan(numbers)
    gaps = cells.among(MISSING)[cells.codes]
    if cells.is_text or absent.all() or (absent & ~gaps).any():
        return pa.array(texts, pa.string())
    return pa.array(numbers, mask=absent)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _together(tables: Mapping[str, pa.Table]) -> tuple[pa.Table, str]:
    """One table of all sites' rows, and its column that says whose each is."""
    columns = {name: set(table.column_names) for name, table in tables.items()}
    every, common = set.union(*columns.values()), set.intersection(*columns.values())
    if apart := sorted(every - common):
        where = {one: [name for name in tables if one not in columns[name]] for one in apart[:5]}
        lacking = (f"{one!r} is not at {', '.join(names)}" for one, names in where.items())
        raise DataError(f"sites have different columns: {'; '.join(lacking)}")
    owner = "site"
    while owner in common:
        owner += "_"
    order = next(iter(tables.values())).column_names
    parts = [
        table.select(order).append_column(owner, pa.array([name] * len(table), pa.string()))
        for name, table in tables.items()
    ]
    empty = (name for name, table in tables.items() if not len(table))
    refuse(f"site {name}: no records; leave the site out" for name in empty)
    try:
        return pa.concat_tables(parts, promote_options="permissive"), owner
    except pa.ArrowException as error:
        raise DataError(f"a column is not of one kind at all sites ({_line(error)})") from None


def _table_words(table: pa.Table, site: str, label: str, classes: Sequence[Any]) -> list[str]:
    named: dict[str, Any] = {"label": label, "site": site}
    named |= {"classes": [str(one) for one in classes]} if len(classes) else {}
    inside = {f"scenario.{name}": value for name, value in named.items()}
    return words_of(["scenario=csv", f"scenario.path='{keep_table(table)}'"], inside)
