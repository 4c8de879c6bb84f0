"""What private evaluation costs: how wide its intervals are, and what training loses to it.

Every run has `evaluation=private`; beside what it released, the same model is tested exactly,
with the records of all sites at hand, and a run of the same seed without evaluation says what
training does with the whole budget.

    python benchmarks/evaluation.py experiment=medical_heart [--epsilons 1 4 8] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from clients.owner import owner_of
from clients.site import open_site
from fedlearn.config import RunConfig, compose
from fedlearn.metrics.intervals import measured
from fedlearn.metrics.sums import Sums, added
from fedlearn.results.result import ResultFile
from fedlearn.training.local import grade
from server.federation import Federation
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

METRICS = ("accuracy", "auc")
KEYS = ("whole", "exact", "half exact", "off", "half private")
"""Of the model with the whole budget and beside tests, both exact; half the width of the interval
of the exact figure; how far the private figure is off, and half the width of its interval."""


class Watched(Silent):
    """Keeps the federation of a run, whose model is tested once more, and what it released."""

    federation: Federation
    result: ResultFile

    def started(self, federation: Federation, first_round: int) -> None:
        """The run begins."""
        self.federation = federation

    def finished(self, result: ResultFile) -> None:
        """The run is done."""
        self.result = result


def run(config: RunConfig) -> tuple[Watched, Sums]:
    """What a run released, and the exact test sums of its model."""
    with tempfile.TemporaryDirectory() as folder:
        config, watched = replace(config, out=f"{folder}/run"), Watched()
        simulate(config, watched, Stop())
        federation = watched.federation
        model = federation.progress.shown
        sites = [open_site(owner_of(config, name), config) for name in federation.grid.sites]
        sums = []
        for site in sites:
            site.load(model)
            features, targets = site.test_tensors[0], site.data.test.labels
            answers = grade(site.model, site.task, features, targets, site.training.max_batch)
            sums.append(site.task.sums(answers, targets))
        return watched, added(sums)


def row(words: Sequence[str], epsilon: float, seeds: Sequence[int]) -> dict[str, float]:
    """Means over seeds for one budget."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        asked = [*words, f"privacy.epsilon={epsilon:g}", f"seed={seed}"]
        watched, exact = run(compose([*asked, "evaluation=private"]))
        whole = run(compose([*asked, "evaluation=none"]))[1]
        task, fairness = watched.federation.enrolment.task, watched.result.fairness
        rng = np.random.default_rng(seed)
        sampled = measured(task.metrics(exact), task.resampled(exact, rng))
        if fairness is None:
            raise RuntimeError("a run without test metrics")
        for name in METRICS:
            one, other = fairness.all_sites[name], sampled[name]
            values = {
                "whole": task.metrics(whole)[name],
                "exact": other.value,
                "half exact": ((other.high or 1) - (other.low or 0)) / 2,
                "off": abs(one.value - other.value),
                "half private": ((one.high or 1) - (one.low or 0)) / 2,
            }
            for key, value in values.items():
                found.setdefault(f"{name}, {key}", []).append(value)
    return {key: statistics.mean(values) for key, values in found.items()}


def main() -> None:
    """A Markdown table, and JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="+", help="the run, as for `fedlearn simulate`")
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 4.0, 8.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = {}
    print("| epsilon | metric | all to training | beside tests | interval | off by | interval |")
    print("|---|---|---|---|---|---|---|")
    for epsilon in options.epsilons:
        rows[epsilon] = row(options.words, epsilon, options.seeds)
        for name in METRICS:
            cell = {key: rows[epsilon][f"{name}, {key}"] for key in KEYS}
            print(
                f"| {epsilon:g} | {name} | {cell['whole']:.3f} | {cell['exact']:.3f} | "
                f"±{cell['half exact']:.3f} | {cell['off']:.3f} | ±{cell['half private']:.3f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
