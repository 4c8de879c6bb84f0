"""What a plain model of all records together gets: a yardstick that only a simulation has.

Never computed in a deployment, where nobody has all records, nor where private evaluation pays for
what is told of test records: its figures are exact and covered by no epsilon.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from clients.owner import owner_of
from clients.records import simulated_sites, simulated_task
from clients.site import open_site
from fedlearn import models
from fedlearn.auditing.settings import slots_of
from fedlearn.config import RunConfig
from fedlearn.core.rng import Streams
from fedlearn.core.vector import to_vector
from fedlearn.data import SiteData
from fedlearn.data.datasets.archives import default_cache
from fedlearn.models.slots import attach
from fedlearn.results.result import BaselineResult
from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, TextInput
from fedlearn.training.local import grade

_MOST: Final = 20_000_000
"""Numbers in all rows, times outputs: more take longer than a run of a small model."""
_MOST_TOKENS: Final = 50_000


def baseline_of(config: RunConfig) -> BaselineResult | None:
    """What it gets on the test records of the simulation `config`; None where none is computed.

    That is where nothing is tested or tests are private, where the task knows no such model, and
    where it would take long.

    Raises:
        DataError: the records cannot be read.
    """
    if config.evaluation in ("none", "private"):
        return None
    task, sites = simulated_task(config), simulated_sites(config)
    (train, targets), (test, truth) = _pooled(sites, "train"), _pooled(sites, "test")
    if (known := task.known_baseline(truth)) is not None:
        name, found = known
        return BaselineResult(name=name, evaluate=found)
    if not len(truth) or _size(task.input, train) * task.num_outputs > _MOST:
        return None
    encoded = _encoder(task.input, train)
    answers = task.plain(encoded(train), targets)
    if answers is None:
        return None
    name = f"{task.plain_model} on all records together"
    return BaselineResult(name=name, evaluate=task.score(answers(encoded(test)), truth))


def untouched(config: RunConfig) -> dict[str, float]:
    """What a model that is pretrained to its very end gets before it is trained; else nothing.

    On the test records of all sites; nothing either where `baseline_of` computes none.

    Raises:
        ConfigError, DataError: as `open_site`.
    """
    model = config.model
    if model.learns_head or config.evaluation in ("none", "private"):
        return {}
    names = simulated_sites(config)
    sites = [open_site(owner_of(config, name), config) for name in names]
    task, weights = sites[0].task, model.weights(default_cache(os.environ))
    learner = models.build(model, task, Streams(config.seed), config.training.trained_part, weights)
    attach(learner.model, slots_of(config.audit))
    first, sums = to_vector(learner.model), []
    for site in sites:
        site.load(first)
        targets = site.data.test.labels
        graded = grade(site.model, task, site.test_tensors[0], targets, site.training.max_batch)
        sums.append(task.sums(graded, targets))
    return task.metrics(task.added(sums))


def _pooled(sites: Mapping[str, SiteData], part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features and targets of the training or test records of all sites."""
    records = [getattr(site, part) for site in sites.values()]
    return (
        np.concatenate([one.features for one in records]),
        np.concatenate([one.labels for one in records]),
    )


def _size(shape: Input, rows: NDArray[Any]) -> int:
    """Numbers in all encoded rows, of sparse ones those that are not zero."""
    match shape:
        case TableInput():
            return len(rows) * (shape.numeric + sum(shape.cardinalities))
        case TextInput() | ImageInput() | SeriesInput():
            return int(rows.size)
        case _:
            assert_never(shape)


def _encoder(shape: Input, train: NDArray[Any]) -> Callable[[NDArray[Any]], Any]:
    """From records to rows that a linear model takes; numbers on the scale of `train`."""
    match shape:
        case TableInput():
            center, width = train[:, : shape.numeric].mean(0), train[:, : shape.numeric].std(0)
            width = np.where(width > 0, width, 1.0)
            return lambda rows: _one_hot(rows, shape, center, width)
        case TextInput():
            return lambda rows: _counted(rows, shape)
        case ImageInput() | SeriesInput():
            return lambda rows: rows.reshape(len(rows), -1).astype(np.float64)
        case _:
            assert_never(shape)


def _one_hot(
    rows: NDArray[Any], table: TableInput, center: NDArray[Any], width: NDArray[Any]
) -> NDArray[np.float64]:
    parts = [((rows[:, : table.numeric] - center) / width).astype(np.float64)]
    for column, size in enumerate(table.cardinalities, start=table.numeric):
        parts.append(np.eye(size)[rows[:, column].astype(np.int64)])
    return np.concatenate(parts, axis=1)


def _counted(rows: NDArray[Any], texts: TextInput) -> Any:
    """How often each piece occurs in each text, on a scale of its logarithm: sparse rows."""
    from scipy.sparse import csr_matrix

    place = np.nonzero(rows != texts.pad_id)
    pieces = rows[place] % min(texts.vocabulary, _MOST_TOKENS)
    shape = len(rows), min(texts.vocabulary, _MOST_TOKENS)
    counts = csr_matrix((np.ones(len(pieces)), (place[0], pieces)), shape=shape)
    return counts.log1p()
