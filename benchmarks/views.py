"""What views of an image and a running mean of the weights are worth under DP-SGD.

One curator trains a small CNN on a file of images, at one epsilon, with and without
`training.augmentations`; of every run the last model and the running mean
(`training.average`) are tested. `python -m benchmarks.views my.npz`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fedlearn import models
from fedlearn.config import RunConfig, compose, plan_of
from fedlearn.core.rng import Streams
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.data import Pool, load_pool
from fedlearn.mechanisms import RecordPlan
from fedlearn.privacy import SystemNoise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import predict
from fedlearn.training.private import train_private
from server.average import RunningMean

DECAY = 0.9


def main() -> None:
    """Print a row for every number of views."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--views", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rate", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| views | last model | running mean | seconds |\n|---|---|---|---|")
    for views in options.views:
        config = _config(options.path, views, options.steps, options.rate)
        found = [_run(replace(config, seed=seed)) for seed in range(options.seeds)]
        last, mean, seconds = (list(column) for column in zip(*found, strict=True))
        print(
            f"| {views} | {_in_words(last)} | {_in_words(mean)} | {statistics.mean(seconds):.0f} |",
            flush=True,
        )


def _config(path: str, views: int, steps: int, rate: float) -> RunConfig:
    return compose(
        ["scenario=medmnist", f"scenario.path={Path(path).resolve()}", "model=cnn", "model.width=8",
         f"rounds={steps}", "training.sample_rate=0.12", "privacy.epsilon=8",
         "privacy.clip_norm=1.0", f"training.learning_rate={rate}",
         f"training.augmentations={views}"]
    )  # fmt: skip


def _run(config: RunConfig) -> tuple[float, float, float]:
    """Macro-F1 of the last model and of the running mean, and the seconds of training."""
    pool = load_pool(config.scenario, Streams(0), Path())
    plan = plan_of(config)
    if not isinstance(plan, RecordPlan):
        raise TypeError("the study is of privacy=record")
    model = models.build(config.model, pool.task, Streams(config.seed)).model
    features = torch.from_numpy(pool.features[pool.is_train])
    labels = torch.from_numpy(pool.labels[pool.is_train])
    training = replace(config.training, nominal_records=len(labels))
    mean = RunningMean(DECAY, np.zeros(len(to_vector(model))))
    started = time.perf_counter()
    for _ in range(config.rounds):
        train_private(
            model, features, labels, training, plan, loss=cross_entropy, noise=SystemNoise()
        )
        mean.take(to_vector(model))
    seconds = time.perf_counter() - started
    last = _tested(model, pool)
    load_vector(model, mean.model())
    return last, _tested(model, pool), seconds


def _tested(model: torch.nn.Module, pool: Pool) -> float:
    test = ~pool.is_train
    scores = predict(model, pool.task, torch.from_numpy(pool.features[test]), 256)
    return pool.task.score(scores, pool.labels[test])["macro_f1"]


def _in_words(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
