"""What the simulation adds for each of 1,000 tiny clients: the real run beside a bare loop.

Both sides train the same linear model on the same 6 records of every site, round by
round in turns, and the final models are compared. The run is `simulate` as a user
calls it; its rounds without evaluation count. The difference over the number of
clients is what messages, checks, records and sums cost for one client.

    python benchmarks/cohort.py [--clients 1000] [--rounds 6] [--json PATH]
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import Table, parser, ratios, spread, write

from clients.records import simulated_sites, simulated_task
from fedlearn import models
from fedlearn.config import RunConfig, compose
from fedlearn.core.rng import Streams
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.results.folder import RunFolder
from fedlearn.results.result import RoundResult
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import train
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate


class InTurns(Silent):
    """After every round of the run a round of the bare loop: both meet the same load."""

    def __init__(self, bare: Callable[[int], float]) -> None:
        self.bare = bare
        self.seconds: list[tuple[float, float]] = []

    def round_finished(self, entry: RoundResult) -> None:
        """A round of the run is done; its seconds are taken."""
        self.seconds.append((entry.seconds, self.bare(entry.round)))


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


class Bare:
    """The same training as a loop."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.streams = config, Streams(config.seed)
        self.sites = simulated_sites(config)
        self.model = models.build(config.model, simulated_task(config), self.streams).model
        self.data = {
            name: (torch.from_numpy(site.train.features), torch.from_numpy(site.train.labels))
            for name, site in self.sites.items()
        }
        self.vector = to_vector(self.model)

    def round(self, number: int) -> float:
        """Train one round; its seconds."""
        began, total, weight = time.perf_counter(), np.zeros(self.vector.size), 0
        for name in sorted(self.sites):
            load_vector(self.model, self.vector)
            rng = self.streams.get("batches", name, number)
            train(self.model, *self.data[name], self.config.training, loss=cross_entropy, rng=rng)
            weight += len(self.data[name][1])
            total += len(self.data[name][1]) * to_vector(self.model).astype(np.float64)
        self.vector = np.asarray(total / weight, np.float32)
        return time.perf_counter() - began


def compare(config: RunConfig, clients: int) -> dict[str, Any]:
    """Seconds of the run and the loop, round by round, and milliseconds more for a client."""
    bare = Bare(config)
    rounds = InTurns(bare.round)
    simulate(config, rounds, Stop())
    saved = RunFolder(Path(config.out)).read_checkpoint()
    assert saved is not None
    assert np.abs(saved.model - bare.vector).max() < 1e-6, "both must compute the same"
    # The first round warms up, the last one evaluates.
    engine, plain = zip(*rounds.seconds[1:-1], strict=True)
    added = [(ours - loop) / clients * 1e3 for ours, loop in rounds.seconds[1:-1]]
    return {
        "clients": clients,
        "engine": spread(engine),
        "bare": spread(plain),
        "ratio": ratios(engine, plain),
        "added_ms": spread(added),
    }


def main() -> None:
    """Print seconds of a round of both sides, and the difference per client."""
    options_of = parser(__doc__, clients=[1000], rounds=6, workers=1)
    options = options_of.parse_args()
    if options.rounds < 3:
        options_of.error("--rounds: at least 3; the first warms up, and the last one evaluates")
    table = Table(
        clients=("clients", ","), workers="workers", engine=("a round", ".3f", " s"),
        bare=("a bare loop", ".3f", " s"), ratio=("ratio", ".2f"),
        added_ms=("more for a client", ".2f", " ms"),
    )  # fmt: skip
    for clients in options.clients:
        with tempfile.TemporaryDirectory() as name:
            config = make_config(Path(name), clients, options.rounds, options.workers)
            table.row(compare(config, clients) | {"workers": options.workers})
    write(options.json, {"rows": table.rows})


if __name__ == "__main__":
    main()
