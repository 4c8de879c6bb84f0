"""A study made of what a program holds: its records, its model, and what may be given away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from fedlearn import models
from fedlearn.config import RunConfig, compose
from fedlearn.config.contradictions import learner_problems, task_problems
from fedlearn.core.errors import ConfigError, DataError, counted, refuse
from fedlearn.core.rng import Streams
from fedlearn.data.arrays import PREFIX
from fedlearn.mechanisms import Privacy
from fedlearn.models.given import keep_model
from fedlearn.tasks import ImageInput, Task
from simulations.api.asking import in_python, key_of, words_of
from simulations.api.records import data_words
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
            data_words(data, label=column, site=owner, classes=classes, name=name), settings
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
        return (
            f"Study({counted(len(self.sites), 'site')}, {records}, {classes}, model {self.model})"
        )


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
            f"{counted(len(sites), 'site')} cannot hide their updates from each other in a "
            "sum, so secure "
            "aggregation is off"
        )
    nominal, largest = config.training.nominal_records, max(sites.values())
    clips = hasattr(config.privacy, "clip_norm")
    if clips and not nominal / _FAR <= largest <= nominal * _FAR:
        yield (
            f"steps are scaled for sites of about {nominal} records (nominal_records); give the "
            "order of size that yours are known to have, as nominal_records=1000"
        )


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
    refuse(learner_problems(config, learner, task), ConfigError)


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
