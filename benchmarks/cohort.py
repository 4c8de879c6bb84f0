"""What the simulation adds for each of 1,000 tiny clients: the real run beside a bare loop.

Both sides train the same linear model on the same 6 records of every site, and the
final models are compared. The run is `simulate` as a user calls it; its rounds
without evaluation count. The difference over the number of clients is what
messages, checks, records and sums cost for one client.

    python benchmarks/cohort.py [--clients 1000] [--rounds 6] [--json PATH]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from clients.records import simulated_sites, simulated_task
from fedlearn import models
from fedlearn.config import RunConfig, compose
from fedlearn.rng import Streams
from fedlearn.training.local import train
from fedlearn.vector import Vector, load_vector, to_vector
from server.folder import RunFolder
from server.result import RoundResult
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate


class Rounds(Silent):
    """Keeps the seconds of every round."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def round_finished(self, entry: RoundResult) -> None:
        """A round is done."""
        self.seconds.append(entry.seconds)


def make_config(folder: Path, clients: int, rounds: int, workers: int) -> RunConfig:
    """A table with 8 records for each client, dealt out evenly."""
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["age", "smoker", "ill"])
        sheet.writerows(
            [30 + i % 50, "yes" if i % 3 else "no", int(i % 50 > 20 or i % 7 == 0)]
            for i in range(8 * clients)
        )
    return compose(
        [
            "scenario=csv", f"scenario.path={table}", "scenario.label=ill", "partition=iid",
            f"partition.num_sites={clients}", "model.architecture=linear", "privacy=none",
            "secagg=off", "transport=plain", f"rounds={rounds}", f"evaluate_every={rounds}",
            f"engine.workers={workers}", f"out={folder / 'run'}",
        ]
    )  # fmt: skip


def bare(config: RunConfig) -> tuple[list[float], Vector]:
    """The same training as a loop: seconds of every round, and the final model."""
    sites, streams = simulated_sites(config), Streams(config.seed)
    model = models.build(config.model, simulated_task(config), streams).model
    data = {
        name: (torch.from_numpy(site.train.features), torch.from_numpy(site.train.labels))
        for name, site in sites.items()
    }
    vector, seconds = to_vector(model), []
    for number in range(1, config.rounds + 1):
        began, total, weight = time.perf_counter(), np.zeros(vector.size), 0
        for name in sorted(sites):
            load_vector(model, vector)
            rng = streams.get("batches", name, number)
            train(model, *data[name], config.training, proximal_mu=0.0, rng=rng)
            weight += len(data[name][1])
            total += len(data[name][1]) * to_vector(model).astype(np.float64)
        vector = np.asarray(total / weight, np.float32)
        seconds.append(time.perf_counter() - began)
    return seconds, vector


def main() -> None:
    """Print seconds of a round of both sides, and the difference per client."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = make_config(Path(name), options.clients, options.rounds, options.workers)
        rounds = Rounds()
        simulate(config, rounds, Stop())
        saved = RunFolder(Path(config.out)).read_checkpoint()
        assert saved is not None
        loop, vector = bare(config)
    assert np.abs(saved.model - vector).max() < 1e-6, "both must compute the same"
    # The first round warms up, the last one evaluates.
    engine, plain = statistics.median(rounds.seconds[1:-1]), statistics.median(loop[1:-1])
    report = {
        "clients": options.clients,
        "workers": options.workers,
        "engine_seconds": engine,
        "bare_seconds": plain,
        "added_ms_per_client": (engine - plain) / options.clients * 1e3,
        "rounds": [rounds.seconds, loop],
        "load": os.getloadavg()[0],
    }
    print({key: value for key, value in report.items() if key != "rounds"})
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
