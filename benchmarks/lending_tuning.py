"""How `financial_credit` and `financial_risk` were tuned: cross-validation on training records.

The test records are never read. The noise of `privacy=distributed` is that of
one curator, so a fold is trained as one: the same clipping, noise and server
step as in a run, without the sites. Of the values of an experiment those with
the smallest validation loss are taken, by the sum over the budgets; the area
under the curve is shown beside it.

    nice python benchmarks/lending_tuning.py financial_credit [--try 'KEY=VALUE ...'] [--folds 1]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from fedlearn import models
from fedlearn.algorithms import RoundMean, State
from fedlearn.config import RunConfig, compose, plan_of
from fedlearn.core.rng import Streams
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.data import Pool, load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.privacy import SystemNoise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import predict, train
from fedlearn.training.private import train_private

BUDGETS = {
    "none": "privacy=none",
    "8": "privacy=record privacy.epsilon=8.0",
    "2": "privacy=record privacy.epsilon=2.0",
}
TRIED = {
    "financial_credit": (
        "",
        "tuned.server_learning_rate=0.1",
        "tuned.server_learning_rate=0.3",
        "tuned.server_learning_rate=1.0",
        "tuned.clip_norm=2.0",
        "tuned.clip_norm=8.0",
        "rounds=10",
        "rounds=40",
        "tuned.beta_1=0.9",
        "strategy=fedavg training.learning_rate=4.0 tuned.clip_norm=2.0",
        "model.architecture=mlp model.width=16 model.depth=1",
        "model.architecture=ft_transformer model.width=16 model.depth=1",
    ),
    "financial_risk": (
        "",
        "model.architecture=linear",
        "tuned.server_learning_rate=0.1",
        "tuned.server_learning_rate=0.3",
        "tuned.clip_norm=0.5",
        "tuned.clip_norm=4.0",
        "rounds=20",
        "rounds=40",
        "model.width=64",
    ),
}
FOLDS = 3
Tensors = tuple[torch.Tensor, torch.Tensor]


def folds(pool: Pool) -> Iterator[tuple[Tensors, Tensors]]:
    """Records to train on and records to validate on, all of them training records."""
    rows = np.flatnonzero(pool.is_train)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for kept, held in splitter.split(rows, pool.labels[rows]):
        yield tensors(pool, rows[kept]), tensors(pool, rows[held])


def tensors(pool: Pool, rows: NDArray[np.int64]) -> Tensors:
    """Features and labels of some rows."""
    return torch.from_numpy(pool.features[rows]), torch.from_numpy(pool.labels[rows])


def fit(config: RunConfig, pool: Pool, records: Tensors, held: Tensors) -> dict[str, float]:
    """Train as the sites of a run do together; the validation metrics."""
    model = models.build(config.model, pool.task, Streams(config.seed)).model
    vector = to_vector(model)
    state: State = {}
    for number in range(1, config.rounds + 1):
        load_vector(model, vector)
        train_all(config, model, number, records)
        mean = RoundMean(number=number, before=vector, model=to_vector(model), extra={}, share=1.0)
        vector, state = config.strategy.server(mean, state)
    load_vector(model, vector)
    features, labels = held
    return pool.task.score(predict(model, pool.task, features, 1024), labels.numpy())


def train_all(config: RunConfig, model: torch.nn.Module, number: int, records: Tensors) -> None:
    """One round over all records at once."""
    plan = plan_of(config)
    if plan is None:
        rng = Streams(config.seed).get("batches", number)
        train(model, *records, config.training, loss=cross_entropy, rng=rng)
        return
    # The divisor of the sum is a constant; here there are so many records in all.
    training = replace(config.training, nominal_records=len(records[1]))
    train_private(model, *records, training, plan, loss=cross_entropy, noise=SystemNoise())


def measure(experiment: str, tried: str, budget: str, used: int = FOLDS) -> dict[str, float]:
    """Mean validation metrics over the first `used` folds, and the seconds of a fold."""
    overrides = [f"experiment={experiment}", *BUDGETS[budget].split(), *tried.split()]
    config = compose(overrides)
    pool = load_pool(config.scenario, Streams(0), default_cache(os.environ))
    started = time.process_time()
    found = [fit(config, pool, *fold) for fold in islice(folds(pool), used)]
    seconds = (time.process_time() - started) / used
    row = {name: float(np.mean([f[name] for f in found])) for name in ("loss", "auc")}
    return row | {"seconds": seconds}


def main() -> None:
    """Print a line per budget and set of values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=list(TRIED))
    parser.add_argument("--try", dest="tried", action="append", help="overrides instead of ours")
    parser.add_argument("--budgets", default=",".join(BUDGETS), help="of none, 8 and 2")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the three are used")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for tried in options.tried or TRIED[options.experiment]:
        for budget in options.budgets.split(","):
            row = measure(options.experiment, tried, budget, options.folds)
            table.append({"tried": tried, "budget": budget, **row})
            print(f"{tried or 'as the experiment':60} epsilon {budget:5} loss {row['loss']:.4f} "
                  f"AUC {row['auc']:.4f} ({row['seconds']:.0f} s a fold)", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
