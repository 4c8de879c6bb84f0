"""A study made of what a program holds: its records, its model, and what may be given away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from torch import nn

from fedlearn import models
from fedlearn.config import RunConfig, compose
from fedlearn.config.contradictions import private_learner_problems, task_problems
from fedlearn.core.errors import ConfigError, DataError, refuse
from fedlearn.core.rng import Streams
from fedlearn.data.arrays import PREFIX, keep_arrays, keep_table
from fedlearn.data.tables.csv import Csv, read_rows
from fedlearn.mechanisms import Privacy
from fedlearn.models.given import keep_model
from fedlearn.tasks import ImageInput, Task
from simulations.api.asking import in_python, key_of, words_of
from simulations.run import records

_FEW: Final = 3
"""Fewer sites than this cannot hide among each other: a sum less one's own is the other's."""
_FAR: Final = 4
"""How many times the size of a site may differ from `nominal_records` without a note."""
_LARGE: Final = 100.0
"""Beyond it numbers make steps that training, set up for numbers about 1, does not get over."""


class Study:
    """Records of sites, a model, and the privacy that its training keeps.

    Args:
        data: by the name of a site, its records: `(X, y)` with `X` of shape `[n, columns]` or
            `[n, channels, height, width]` and `y` of `n` whole numbers or texts; a map-style
            torch `Dataset` of such pairs; a DataFrame (pandas, polars), a pyarrow Table or the
            path of a CSV or Parquet file, with `label`. Or one such table with `site`.
        model: an `nn.Module` that maps a batch to `[n, classes]` (it is copied, and trained
            from the weights that it has), a function or class that makes one (of the task or of
            nothing), the name of a model such as "cnn", "package.module:function", or a model's
            settings. By default one that fits the records.
        privacy: such as `fl.Record(epsilon=1)` or `fl.NoPrivacy()`; where nothing is said,
            records are protected with epsilon 4. (None is refused: it says neither.)
        label: the column of a table that is to be predicted.
        site: the column of a table that says whose a row is, where `data` is one table.
        classes: all classes in their order; by default those that are found in the labels.
        name: what the study is called in results, and its folder below `runs/`.
        settings: whatever else a run has, by the names that `fl.simulate` takes; as `strategy`
            also an object of a class of one's own, or of a class of Flower's.

    Records stay in this process: the config of a run names them by a hash. A table's columns
    are understood as those of a CSV: texts become categories, gaps get a column of their own,
    and numbers are scaled by public ranges (`scaling={"columns": {"age": [20, 90]}}`) or
    encoded. Arrays are taken as they are: bring them to about -1 to 1 by public constants.

    Raises:
        ConfigError: what cannot be, by name, such as a layer whose gradient mixes records.
        DataError: what is wrong with the records, by site.

    Example:
        >>> import fedlearn as fl
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> def site(n):
        ...     X = rng.normal(size=(n, 3))
        ...     return X, (X[:, 0] > 0).astype(int)
        >>> study = fl.Study(data={"north": site(80), "south": site(90), "west": site(70)})
        >>> study
        Study(3 sites, 240 records, classes 0 and 1, model tabular)
    """

    def __init__(
        self,
        data: Any,
        *,
        model: nn.Module | Callable[..., Any] | str | Any = None,
        privacy: Privacy | str = "",
        label: str | int = "",
        site: str | int = "",
        classes: Sequence[Any] = (),
        name: str = "study",
        **settings: Any,
    ) -> None:
        self.name = _folder_name(name)
        settings |= {} if privacy == "" else {"privacy": privacy}
        for one in settings:
            key_of(one)
        column, owner = _column("label", label), _column("site", site)
        words = words_of(
            _data_words(data, label=column, site=owner, classes=classes, name=name), settings
        )
        named = _named_model(model)
        config = compose([*words, *named] if named else [*_without_model(words)])
        with called_by_its_keywords(words):
            pool, sites = records(config)
        self.task: Task = pool.task
        """The form of a record and the classes."""
        self.sites = {name: len(one.train) + len(one.test) for name, one in sites.items()}
        """How many records each site has."""
        if len(sites) < 2 and not _names(words, "strategy.min_sites"):
            raise ConfigError(
                "data: has one site, and a federation takes at least two; name the column that "
                "tells them apart (site=...), or give a mapping of several"
            )
        alone = len(sites) < _FEW and not _names(words, "secagg")
        words += ["secagg=off"] if alone else []
        words += named or _model_words(model, self.task)
        self.words: Sequence[str] = tuple(words)
        """The words that a run of this study has on the command line."""
        config = compose(words)
        _check_model(config, self.task)
        self.model = config.model.kind
        self.notes: Sequence[str] = (
            *_notes(config, self.sites, alone=alone),
            *(_scale(pool.features) if config.scenario.in_memory else ()),
        )
        """What there is to know about the study before it runs, in sentences."""

    def __repr__(self) -> str:
        names = self.task.classes
        classes = f"classes {' and '.join(names)}" if len(names) < 4 else f"{len(names)} classes"
        records = f"{sum(self.sites.values())} records"
        return f"Study({len(self.sites)} sites, {records}, {classes}, model {self.model})"


@contextmanager
def called_by_its_keywords(study: Study | Sequence[str] | None) -> Iterator[None]:
    """In messages what a study was given has the names of its keywords: a table is `data`.

    Args:
        study: a study, or the words of one; without it messages stay as they are.
    """
    words = study.words if isinstance(study, Study) else study or ()
    hashes = [word.split("'")[1] for word in words if word.startswith(f"scenario.path='{PREFIX}")]
    try:
        yield
    except (ConfigError, DataError) as error:
        if study is None:
            raise
        text = in_python(str(error))
        for name in hashes:
            text = text.replace(name, "data")
        if isinstance(error, DataError):
            raise DataError(text) from None
        raise ConfigError(text.splitlines()) from None


def _names(words: Sequence[str], key: str) -> bool:
    return any(word.startswith((f"{key}=", f"{key}.")) for word in words)


def _notes(config: RunConfig, sites: Mapping[str, int], *, alone: bool) -> Iterator[str]:
    if alone:
        yield (
            f"{len(sites)} sites cannot hide their updates from each other in a sum, so secure "
            "aggregation is off"
        )
    nominal, largest = config.training.nominal_records, max(sites.values())
    clips = hasattr(config.privacy, "clip_norm")
    if clips and not nominal / _FAR <= largest <= nominal * _FAR:
        yield (
            f"steps are scaled for sites of about {nominal} records (nominal_records); give the "
            "order of size that yours are known to have, as nominal_records=1000"
        )


# --- records ----------------------------------------------------------------------------------


def _scale(features: Any) -> Iterator[str]:
    """A note where the numbers of arrays are far from those that steps are made for."""
    largest = float(np.abs(features).max(initial=0.0))
    if largest > _LARGE:
        yield (
            f"features reach {largest:.3g}, and arrays are learned from as they are: bring them to "
            "about -1 to 1 by public constants, or give a DataFrame with label=... and scaling=..."
        )


def _folder_name(name: Any) -> str:
    """The name of a study, below which its runs are."""
    if isinstance(name, str) and name and Path(name).name == name != "..":
        return name
    raise ConfigError(f"name={name!r}: is no plain name of a folder; runs go below runs/NAME")


def _column(key: str, name: Any) -> str:
    """The name of a column, which may be a number."""
    if isinstance(name, str | int | np.integer) and not isinstance(name, bool):
        return str(name)
    raise ConfigError(f"{key}: is a {type(name).__name__}; give the name of one column")


def _data_words(
    data: Any, *, label: str, site: str, classes: Sequence[Any], name: str
) -> list[str]:
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
    return pa.table({name: table.column(name) for name in table.header})


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


# --- the model --------------------------------------------------------------------------------


def _named_model(model: Any) -> list[str]:
    """The words of a model that is a name or settings; none where it takes the records to say."""
    if isinstance(model, str):
        return ["model=custom", f"model.build={model}"] if ":" in model else [f"model={model}"]
    if is_dataclass(model) and not isinstance(model, type | nn.Module):
        return words_of([], {"model": model})
    return []


def _without_model(words: Sequence[str]) -> list[str]:
    return [word for word in words if not _names([word], "model")]


def _model_words(model: Any, task: Task) -> list[str]:
    """The words of a model that is fitted to the records."""
    if model is None:
        return ["model=cnn" if isinstance(task.input, ImageInput) else "model=tabular"]
    if not callable(model):
        raise ConfigError(
            f"model: is a {type(model).__name__}; give an nn.Module, what makes one, or a name"
        )
    return words_of([], {"model": keep_model(model, task)})


def _check_model(config: RunConfig, task: Task) -> None:
    """Build the model once, so that what is wrong with it is said here.

    Raises:
        ConfigError: every problem, by layer.
    """
    refuse(task_problems(config, task), ConfigError)
    if config.model.starts_pretrained:  # its weights may have to be fetched: the run does
        return
    part = config.training.trained_part
    learner = models.build(config.model, task, Streams(config.seed), part)
    refuse(private_learner_problems(config, learner, task), ConfigError)


def in_this_process(config: RunConfig) -> None:
    """Refuse an engine whose processes do not have what a program holds.

    Raises:
        ConfigError: it is `ray`.
    """
    if config.engine.kind == "ray":
        raise ConfigError(
            "engine=ray: its processes do not have the records and models of this one. Choose "
            "engine=local, or put the records into a file (scenario=csv) and the model into a "
            "module (model=custom)"
        )
