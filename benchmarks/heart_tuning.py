"""How the settings of `experiment=medical_heart` were chosen: cross-validation on training records.

The test records are never read. Five folds, stratified by hospital and class,
several shuffles; every fold trains as a run does (`fedlearn.training`, the mean
of the sites' models as the next global model). The learning rate of a budget is
the one with the smallest validation loss; accuracy is shown, but on some 490
patients it is too coarse to choose by.

    python benchmarks/heart_tuning.py [--shuffles 3] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from fedlearn import models
from fedlearn.config import RunConfig, compose, plan_of
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector, to_vector
from fedlearn.data import Pool, load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.privacy import SystemNoise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import predict, train
from fedlearn.training.private import train_private

BUDGETS = {"none": ["privacy=none"], "4": ["privacy.epsilon=4.0"], "1": ["privacy.epsilon=1.0"]}
RATES = (0.1, 0.2, 0.35, 0.5, 1.0)
FOLDS = 5

Tensors = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Fold:
    """Training records by site, and the validation records of all sites together."""

    sites: dict[str, Tensors]
    validation: Tensors


def folds(pool: Pool, shuffles: int) -> Iterator[Fold]:
    """All folds of the training records."""
    assert pool.natural_site is not None
    rows = np.flatnonzero(pool.is_train)
    strata = [f"{pool.natural_site[i]}/{pool.labels[i]}" for i in rows]
    for seed in range(shuffles):
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        for kept, held in splitter.split(rows, strata):
            sites = pool.natural_site[rows[kept]]
            parts = {str(s): tensors(pool, rows[kept][sites == s]) for s in np.unique(sites)}
            yield Fold(parts, tensors(pool, rows[held]))


def tensors(pool: Pool, rows: NDArray[np.int64]) -> Tensors:
    """Features and labels of some rows."""
    return torch.from_numpy(pool.features[rows]), torch.from_numpy(pool.labels[rows])


def fit(config: RunConfig, pool: Pool, fold: Fold) -> dict[str, float]:
    """Train as a run does; the validation metrics."""
    model = models.build(config.model, pool.task, Streams(config.seed)).model
    vector = to_vector(model)
    for number in range(1, config.rounds + 1):
        vectors, weights = [], []
        for site, records in fold.sites.items():
            load_vector(model, vector)
            weights.append(train_site(config, model, site, number, records))
            vectors.append(to_vector(model))
        vector = mean(vectors, weights)
    load_vector(model, vector)
    features, labels = fold.validation
    return pool.task.score(predict(model, pool.task, features, 1024), labels.numpy())


def train_site(
    config: RunConfig, model: torch.nn.Module, site: str, number: int, records: Tensors
) -> float:
    """One round at one site; its weight in the mean."""
    plan = plan_of(config)
    if plan is None:
        rng = Streams(config.seed).get("batches", site, number)
        train(model, *records, config.training, loss=cross_entropy, rng=rng)
        return float(len(records[1]))
    # Fewer records are trained on than in a run, so the public constant shrinks with them.
    constant = round(config.training.nominal_records * (FOLDS - 1) / FOLDS)
    training = replace(config.training, nominal_records=constant)
    train_private(model, *records, training, plan, loss=cross_entropy, noise=SystemNoise())
    return 1.0


def mean(vectors: list[Vector], weights: list[float]) -> Vector:
    """The weighted mean of the sites' models."""
    return np.average(np.stack(vectors), axis=0, weights=weights).astype(np.float32)


def main() -> None:
    """Print a line per budget and learning rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shuffles", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for budget, overrides in BUDGETS.items():
        for rate in RATES:
            chosen = [f"training.learning_rate={rate}", *overrides]
            config = compose(["experiment=medical_heart", *chosen])
            pool = load_pool(config.scenario, Streams(0), default_cache(os.environ))
            found = [fit(config, pool, fold) for fold in folds(pool, options.shuffles)]
            row = {name: float(np.mean([f[name] for f in found])) for name in ("loss", "accuracy")}
            table.append({"budget": budget, "learning_rate": rate, **row})
            print(f"epsilon {budget:5} learning rate {rate:<5} loss {row['loss']:.4f} "
                  f"accuracy {row['accuracy']:.4f}", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
