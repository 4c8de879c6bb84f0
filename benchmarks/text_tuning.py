"""How the settings of the text experiments were chosen: on training records alone.

The test records are never read. A quarter of the training records is held out
`--splits` times, whole where the test is on what was never seen: sites where
they are drafters, categories of diagnoses; news at random. A head is trained on
the frozen features as a run under `privacy=distributed` does it: one clipped
and noised sum over all records per round, with momentum at the coordinator, the
noise being that of all sites but one. Without privacy the same loop runs
without clipping and noise.

    python benchmarks/text_tuning.py legal_contracts [--epsilon 8,2,none] [--json PATH]
    python benchmarks/text_tuning.py medical_codes --epsilon 8 --rounds 60 --rates 8,16
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.owner import owner_of
from clients.records import simulated_sites
from clients.site import open_site
from fedlearn.config import compose
from fedlearn.core.rng import Streams
from fedlearn.data import load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.partition import Iid
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.tasks import Task

DELTA, HELD_OUT, MOMENTUM = 1e-5, 0.25, 0.9
ROUNDS = {"none": (40, 80, 160), "8": (40, 60), "2": (40, 60)}
RATES = {"none": (2.0, 4.0), "8": (1.0, 2.0, 4.0), "2": (0.5, 1.0, 2.0)}
"""What is tried unless the command line says otherwise, by epsilon."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One point of the grid."""

    epsilon: str
    rounds: int
    learning_rate: float
    clip_norm: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What the head sees of all training records, `x: float32[n, d]`, with labels `y: int64[n]`.

    `group` says of each record with whom it is held out; None where by itself.
    """

    x: Tensor
    y: Tensor
    group: NDArray[Any] | None
    sites: int
    task: Task


def study_of(experiment: str) -> Study:
    """The training records of an experiment, all at one place in their own order."""
    with tempfile.TemporaryDirectory() as folder:
        config = compose([f"experiment={experiment}", f"out={folder}/run"])
        sites = len(simulated_sites(config))
        config = replace(config, partition=Iid(num_sites=1))
        (name,) = simulated_sites(config)
        x, y = open_site(owner_of(config, name), config).train_tensors
    pool = load_pool(config.scenario, Streams(config.seed), default_cache(os.environ))
    np.testing.assert_array_equal(pool.labels[pool.is_train], y)
    group = pool.attributes.get("category", pool.natural_site)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    group = None if group is None else group[pool.is_train]
    return Study(x=x, y=y, group=group, sites=sites, task=pool.task)


def splits(study: Study, number: int) -> Iterator[Tensor]:
    """`bool[n]`: who is held out."""
    for seed in range(number):
        rng = np.random.default_rng(seed)
        if study.group is None:
            yield torch.from_numpy(rng.random(len(study.y)) < HELD_OUT)
        else:
            names = np.unique(study.group)
            held = rng.permutation(names)[: round(HELD_OUT * len(names))]
            yield torch.from_numpy(np.isin(study.group, held))


def train(x: Tensor, y: Tensor, classes: int, point: Settings, sites: int) -> Tensor:
    """A linear head (with a bias, in the last row) after the rounds of `point`."""
    generator = torch.Generator().manual_seed(1)
    sigma = 0.0
    if point.clip_norm:
        own = noise_multiplier(float(point.epsilon), DELTA, 1.0, point.rounds)
        sigma = own * point.clip_norm * (sites / (sites - 1)) ** 0.5
    head = torch.zeros(x.shape[1], classes)
    truth = torch.nn.functional.one_hot(y, classes).float()
    size, velocity = x.norm(dim=1), torch.zeros_like(head)
    for _ in range(point.rounds):
        error = (x @ head).softmax(1) - truth
        if point.clip_norm:
            error *= (point.clip_norm / (error.norm(dim=1) * size)).clamp(max=1)[:, None]
        noise = torch.randn(head.shape, generator=generator) * sigma
        velocity = MOMENTUM * velocity + (x.T @ error + noise) / len(y)
        head -= point.learning_rate * velocity
    return head


def judge(study: Study, point: Settings, held_out: list[Tensor]) -> dict[str, float]:
    """Mean metrics over the splits."""
    found, task = [], study.task
    for held in held_out:
        head = train(study.x[~held], study.y[~held], task.num_outputs, point, study.sites)
        answers = task.answers(study.x[held] @ head).numpy()
        found.append(task.score(answers, study.y[held].numpy()))
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def numbers(text: str) -> tuple[float, ...]:
    """`1,2.5` as numbers."""
    return tuple(float(part) for part in text.split(","))


def main() -> None:
    """Print every point of the grid, and the best of each epsilon."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment")
    parser.add_argument("--epsilon", default="8,2,none")
    parser.add_argument("--rounds", type=numbers)
    parser.add_argument("--rates", type=numbers)
    parser.add_argument("--clip-norms", type=numbers, default=(1.0,))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = study_of(options.experiment)
    held_out = list(splits(study, options.splits))
    lines = []
    for epsilon in options.epsilon.split(","):
        found = []
        rounds, rates = options.rounds or ROUNDS[epsilon], options.rates or RATES[epsilon]
        clip_norms = (0.0,) if epsilon == "none" else options.clip_norms
        for number, rate, clip in product(rounds, rates, clip_norms):
            point = Settings(
                epsilon=epsilon, rounds=int(number), learning_rate=rate, clip_norm=clip
            )
            found.append({**asdict(point), **judge(study, point, held_out)})
            print(found[-1], flush=True)
        lines += sorted(found, key=lambda line: line["accuracy"])
        print(f"best at epsilon {epsilon}: {lines[-1]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
