"""How the settings of the text experiments were chosen: on training records alone.

The test records are never read. A quarter of the training records is held out
`--splits` times: whole sites where sites are drafters (so that validation is on
unseen ones, as the test is), else records at random. A head is trained on the
frozen features as a run under `privacy=distributed` does it: one clipped and
noised sum over all records per round, with momentum at the coordinator, the
noise being that of all sites but one. Without privacy the same loop runs
without clipping and noise.

    python benchmarks/text_tuning.py legal_contracts [--epsilon 8,2,none] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clients.owner import owner_of
from clients.site import open_site, simulated_sites
from fedlearn.config import compose
from fedlearn.metrics import evaluation_sums, metrics
from fedlearn.privacy.calibration import noise_multiplier

DELTA, HELD_OUT, MOMENTUM = 1e-5, 0.25, 0.9
GRID = {
    "none": ((40, 120), (2.0, 4.0), (0.0,)),
    "8": ((40, 60), (1.0, 2.0, 4.0), (1.0,)),
    "2": ((40, 60), (0.5, 1.0, 2.0), (1.0,)),
}
"""Rounds, learning rates and clip norms (0: none), by epsilon."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One point of the grid."""

    epsilon: str
    rounds: int
    learning_rate: float
    clip_norm: float


def sites_of(experiment: str) -> list[tuple[Tensor, Tensor]]:
    """What the head sees of the training records of every site, and their labels."""
    with tempfile.TemporaryDirectory() as folder:
        config = compose([f"experiment={experiment}", f"out={folder}/run"])
        return [
            open_site(owner_of(config, name), config).train_tensors
            for name in simulated_sites(config)
        ]


def splits(sites: list[tuple[Tensor, Tensor]], whole_sites: bool, number: int) -> Iterator[Tensor]:
    """`bool[n]` over the records of all sites in turn: who is held out."""
    owner = torch.cat([torch.full((len(y),), i) for i, (_, y) in enumerate(sites)])
    for seed in range(number):
        rng = np.random.default_rng(seed)
        if whole_sites:
            held = rng.permutation(len(sites))[: round(HELD_OUT * len(sites))]
            yield torch.isin(owner, torch.from_numpy(held))
        else:
            yield torch.from_numpy(rng.random(len(owner)) < HELD_OUT)


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


def main() -> None:
    """Print every point of the grid, best last, by epsilon."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--epsilon", default="8,2,none")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sites = sites_of(options.experiment)
    x, y = (torch.cat(parts) for parts in zip(*sites, strict=True))
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    classes = int(y.max()) + 1
    by_site = options.experiment == "legal_contracts"
    held_out = [
        ((x[~held], y[~held]), (x[held], y[held]))
        for held in splits(sites, by_site, options.splits)
    ]
    lines = []
    for epsilon in options.epsilon.split(","):
        found = []
        for rounds, rate, clip in product(*GRID[epsilon]):
            point = Settings(epsilon=epsilon, rounds=rounds, learning_rate=rate, clip_norm=clip)
            scores = []
            for fitted, held in held_out:
                head = train(*fitted, classes, point, len(sites))
                chances = (held[0] @ head).double().softmax(1).numpy()
                scores.append(metrics(evaluation_sums(chances, held[1].numpy())))
            mean = {key: float(np.mean([s[key] for s in scores])) for key in scores[0]}
            found.append({**asdict(point), **mean})
            print(found[-1], flush=True)
        lines += sorted(found, key=lambda line: line["accuracy"])
        print(f"best at epsilon {epsilon}: {lines[-1]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
