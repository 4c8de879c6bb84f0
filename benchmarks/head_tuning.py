"""How the settings of `medical_imaging` and `benchmark_fashion` were chosen.

Frozen features are computed once; a head is trained on those of the training
images and judged on the validation part, which no run trains or tests on.
All heads of one budget see the same batches. The mechanism is that of a run
with all sites in one sum: clip, Gaussian noise, divide by a constant, momentum.
`own` noise is what sites add that each protect themselves: sqrt(sites) times
that of one curator; `shared` noise is the curator's, a tenth larger for what
integer shares and one colluding site cost.

    python benchmarks/head_tuning.py blood --path my.npz
    python benchmarks/head_tuning.py fashion
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fedlearn import models
from fedlearn.config import RunConfig, compose
from fedlearn.core.rng import Streams
from fedlearn.data import Pool, load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.tasks import Task

NOISE = {"none": 0.0, "own": math.sqrt(5), "shared": 1.1}
"""Noise over that of one curator, with five sites."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One budget, and the settings that are tried under it."""

    noise: str
    epsilon: float
    steps: int
    rate: float
    clip_norms: tuple[float, ...]
    learning_rates: tuple[float, ...]
    momenta: tuple[float, ...] = (0.9,)
    delta: float = 1e-5
    average: float = 0.95
    """Decay of the running mean of the weights that is judged beside the last ones."""

    def settings(self) -> list[tuple[float, float, float]]:
        """Clip norm, momentum and learning rate of every head."""
        return list(product(self.clip_norms, self.momenta, self.learning_rates))


BLOOD = [
    Study(noise="none", epsilon=math.inf, steps=50, rate=1.0, clip_norms=(math.inf,),
          learning_rates=(0.03, 0.1, 0.2, 0.4)),
    *(Study(noise="own", epsilon=epsilon, steps=50, rate=1.0, clip_norms=(0.3, 1.0, 3.0),
            learning_rates=(0.2, 0.5, 1.0, 2.0)) for epsilon in (8.0, 2.0)),
]  # fmt: skip
FASHION = [
    Study(noise="none", epsilon=math.inf, steps=200, rate=0.1365, clip_norms=(math.inf,),
          learning_rates=(0.01, 0.02, 0.04)),
    *(Study(noise="shared", epsilon=epsilon, steps=200, rate=0.1365, clip_norms=(0.1,),
            momenta=(0.0, 0.9), learning_rates=(8.0, 16.0, 32.0, 80.0, 160.0))
      for epsilon in (8.0, 2.0)),
]  # fmt: skip


def features(config: RunConfig) -> tuple[Pool, Tensor]:
    """The records of a scenario, and what its frozen model makes of them."""
    cache = default_cache(os.environ)
    pool = load_pool(config.scenario, Streams(config.seed), cache)
    learner = models.build(
        config.model, pool.task, Streams(config.seed), config.training.trained_part,
        config.model.weights(cache),
    )  # fmt: skip
    assert learner.frozen is not None
    images = torch.from_numpy(pool.features)
    with torch.no_grad():
        parts = [learner.frozen(images[i : i + 256]) for i in range(0, len(images), 256)]
    # The bias is one more feature.
    return pool, functional.pad(torch.cat(parts), (0, 1), value=1.0)


def train(study: Study, inputs: Tensor, labels: Tensor, classes: int) -> Iterator[Tensor]:
    """The last weights of all heads, and their running means: `[heads, classes, features]`."""
    chosen = torch.tensor(study.settings())[:, :, None, None]
    clip_norm, momentum, learning_rate = chosen[:, 0], chosen[:, 1], chosen[:, 2]
    stddev = torch.zeros(())
    if study.noise != "none":
        sigma = noise_multiplier(study.epsilon, study.delta, study.rate, study.steps)
        stddev = NOISE[study.noise] * sigma * clip_norm
    # Nothing is released here, so a generator that repeats will do for the noise.
    draw = torch.Generator().manual_seed(0)
    weights = torch.zeros(len(chosen), classes, inputs.shape[1])
    velocity, mean = torch.zeros_like(weights), weights.clone()
    for step in range(study.steps):
        rows = torch.nonzero(torch.rand(len(inputs), generator=draw) < study.rate).flatten()
        batch, truth = inputs[rows], functional.one_hot(labels[rows], classes)
        logits = (batch @ weights.flatten(0, 1).T).view(len(rows), *weights.shape[:2])
        error = logits.softmax(2) - truth[:, None]
        # A linear layer: the norm of a gradient is that of the error times that of the input.
        norms = error.norm(dim=2, keepdim=True) * batch.norm(dim=1)[:, None, None]
        error = error * (clip_norm[None, :, :, 0] / norms.clamp(min=1e-12)).clamp(max=1)
        total = (error.flatten(1).T @ batch).view_as(weights)
        noise = torch.randn(weights.shape[1:], generator=draw) * stddev
        velocity = momentum * velocity + (total + noise) / (study.rate * len(inputs))
        weights = weights - learning_rate * velocity
        keep = min(study.average, (step + 1) / (step + 10))
        mean = keep * mean + (1 - keep) * weights
    yield from (weights, mean)


def judge(task: Task, weights: Tensor, inputs: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """Metrics of every head."""
    answers = (task.answers(inputs @ head.T).numpy() for head in weights)
    return [task.score(one, labels.numpy()) for one in answers]


def main() -> None:
    """Print a line per budget and setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=["blood", "fashion"])
    parser.add_argument("--path", default="", help="the file of blood cells, or the folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment = {"blood": "medical_imaging", "fashion": "benchmark_fashion"}[options.data]
    config = compose([f"experiment={experiment}", f"scenario.path={options.path}",
                      "scenario.test=val"])  # fmt: skip
    pool, inputs = features(config)
    labels, is_train = torch.from_numpy(pool.labels), torch.from_numpy(pool.is_train)
    table = []
    for study in {"blood": BLOOD, "fashion": FASHION}[options.data]:
        heads = train(study, inputs[is_train], labels[is_train], pool.task.num_outputs)
        test = inputs[~is_train], labels[~is_train]
        last, mean = (judge(pool.task, weights, *test) for weights in heads)
        for setting, one, averaged in zip(study.settings(), last, mean, strict=True):
            row = {"noise": study.noise, "epsilon": study.epsilon, "clip_norm": setting[0],
                   "momentum": setting[1], "learning_rate": setting[2],
                   "last": one, "mean": averaged}  # fmt: skip
            table.append(row)
            print(f"{study.noise} epsilon {study.epsilon:g} clip {setting[0]:g} momentum "
                  f"{setting[1]:g} rate {setting[2]:g}: " + ", ".join(
                      f"{which} loss {m['loss']:.4f} accuracy {m['accuracy']:.4f} "
                      f"macro-F1 {m['macro_f1']:.4f}"
                      for which, m in (("last", one), ("mean", averaged))), flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
