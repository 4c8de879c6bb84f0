"""What each model of images reaches on a small set, and how its settings were chosen.

One curator trains on the images of a file in the form of MedMNIST, with the
clipping, noise and momentum of a run of `experiment=medical_imaging` under shared
noise, and is tested on the *validation* part: the test part is never read.

    nice python benchmarks/image_models.py my.npz --try 'model=vit training.learning_rate=0.05'
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fedlearn import models
from fedlearn.algorithms import FedAvgM
from fedlearn.config import RunConfig, compose, plan_of
from fedlearn.core.rng import Streams
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.data import Pool, load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.privacy import SystemNoise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import predict, train
from fedlearn.training.private import train_private

BUDGETS = {"none": "privacy=none", "8": "privacy=record privacy.epsilon=8.0"}
TRIED = tuple(f"model={model}" for model in ("cnn", "resnet", "vit", "scattering"))
"""Each with the settings of the experiment."""


def fit(config: RunConfig, pool: Pool, every: int) -> list[dict[str, float]]:
    """Train as the sites of a run do together; validation metrics every so many rounds."""
    cache = default_cache(os.environ)
    learner = models.build(
        config.model, pool.task, Streams(config.seed), config.training.trained_part,
        config.model.weights(cache),
    )  # fmt: skip
    inputs, labels = _inputs(learner, pool), torch.from_numpy(pool.labels)
    is_train, model = torch.from_numpy(pool.is_train), learner.model
    assert isinstance(config.strategy, FedAvgM)
    vector, found = to_vector(model), []
    velocity = np.zeros_like(vector)
    for number in range(1, config.rounds + 1):
        _train_all(config, model, number, [inputs[is_train], labels[is_train]])
        velocity = config.strategy.server_momentum * velocity + to_vector(model) - vector
        vector = vector + velocity
        load_vector(model, vector)
        if number % every == 0 or number == config.rounds:
            scores = predict(model, pool.task, inputs[~is_train], 256)
            found.append(pool.task.score(scores, labels[~is_train].numpy()))
    return found


def _inputs(learner: models.Learner, pool: Pool) -> torch.Tensor:
    """What the trained part of the model is given: images, or what its frozen part makes."""
    images = torch.from_numpy(pool.features)
    if learner.frozen is None:
        return images
    with torch.no_grad():
        return torch.cat([learner.frozen(part) for part in images.split(256)])


def _train_all(
    config: RunConfig, model: torch.nn.Module, number: int, records: list[torch.Tensor]
) -> None:
    features, labels = records
    plan = plan_of(config)
    if plan is None:
        rng = Streams(config.seed).get("batches", number)
        train(model, features, labels, config.training, loss=cross_entropy, rng=rng)
        return
    training = replace(config.training, nominal_records=len(labels))
    train_private(model, features, labels, training, plan, loss=cross_entropy, noise=SystemNoise())


def main() -> None:
    """Print a line per budget and set of values: validation metrics as training goes on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--try", dest="tried", action="append", help="overrides instead of ours")
    parser.add_argument("--budgets", default=",".join(BUDGETS), help="of none and 8")
    parser.add_argument("--every", type=int, default=20, help="rounds between two validations")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = Path(options.path).resolve()
    for tried in options.tried or TRIED:
        for budget in options.budgets.split(","):
            overrides = [f"scenario.path={path}", "scenario.test=val", *BUDGETS[budget].split()]
            config = compose(["experiment=medical_imaging", *overrides, *tried.split()])
            pool = load_pool(config.scenario, Streams(0), Path())
            started = time.process_time()
            found = fit(config, pool, options.every)
            seconds = time.process_time() - started
            print(f"{tried} epsilon {budget} ({seconds:.0f} s): "
                  + ", ".join(f"{m['loss']:.4f} / {m['macro_f1']:.3f}" for m in found),
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
