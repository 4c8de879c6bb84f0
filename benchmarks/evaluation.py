"""What private evaluation costs: how wide its intervals are, and what training loses to it.

Every run has `evaluation=private`; beside what it released, the same model is tested exactly,
with the records of all sites at hand, and a run of the same seed without evaluation says what
training does with the whole budget.

    python benchmarks/evaluation.py experiment=medical_heart [--epsilons 1 4 8] [--seeds 0 1 2]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from table import Table, parser, write

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


def rows(words: Sequence[str], epsilon: float, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for every metric: means over seeds for one budget."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in METRICS}
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
                "half_exact": ((other.high or 1) - (other.low or 0)) / 2,
                "off": abs(one.value - other.value),
                "half_private": ((one.high or 1) - (one.low or 0)) / 2,
            }
            for key, value in values.items():
                found[name].setdefault(key, []).append(value)
    for name, values in found.items():
        means = {key: statistics.mean(all_) for key, all_ in values.items()}
        yield {"epsilon": epsilon, "metric": name, **means}


def main() -> None:
    """A Markdown table, and JSON where it is asked for."""
    options_of = parser(__doc__, epsilons=[1.0, 4.0, 8.0], seeds=[0, 1, 2])
    options_of.add_argument("words", nargs="+", help="the run, as for `fedlearn simulate`")
    options = options_of.parse_args()
    # Of the model with the whole budget and beside tests, both exact; half the width of the
    # interval of the exact figure; how far the private figure is off, and half of its interval.
    table = Table(
        epsilon=("epsilon", "g"), metric="metric", whole=("all to training", ".3f"),
        exact=("beside tests", ".3f"), half_exact=("interval, half", ".3f"),
        off=("off by", ".3f"), half_private=("its interval, half", ".3f"),
    )  # fmt: skip
    for epsilon in options.epsilons:
        for row in rows(options.words, epsilon, options.seeds):
            table.row(row)
    write(options.json, {"rows": table.rows})


if __name__ == "__main__":
    main()
