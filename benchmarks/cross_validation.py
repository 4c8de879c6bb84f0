"""How well an experiment does on all of its records: repeated cross-validation of whole runs.

    python benchmarks/cross_validation.py experiment=medical_heart \
        --try privacy=none --try privacy.epsilon=4 --try privacy.epsilon=1

A fixed test part of some hundred records tells models apart by a few hundredths at best. Here
every record is tested once in each repeat: the records of every site and class are dealt to
`--folds` parts, and a whole run (real sites, noise, accounting) trains on the others. What is
tried sees the same parts, so that differences from the first are of pairs.

Folds share records to train on, so that their spread says too little. Intervals are by Student's
t with the correction of Nadeau and Bengio (2003, "Inference for the Generalization Error",
Machine Learning 52): the variance of the `J` figures times `1 / J + 1 / (folds - 1)`.

Settings that were chosen by looking at some of these records have seen test records here.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from table import Table, parser, write

from clients import records
from fedlearn.config import compose
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.data import load_pool
from fedlearn.data.pool import Pool
from fedlearn.results.result import ResultFile
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

MEAN_OF_SITES: Final = "mean of sites"


class Kept(Silent):
    """Keeps the result of a run."""

    result: ResultFile

    def finished(self, result: ResultFile) -> None:
        """The run is done."""
        self.result = result


def parts(pool: Pool, folds: int, repeat: int) -> NDArray[np.int64]:
    """`int64[n]`: the fold that tests each record; sites and classes are spread over all."""
    if pool.persons is not None:
        raise ConfigError("scenario.person: several records of one person are not dealt here")
    rng = Streams(repeat).get("cross-validation")
    sites = np.zeros(len(pool), int) if pool.natural_site is None else pool.natural_site
    groups = np.unique(np.stack([sites, pool.task.strata(pool.labels)]).astype(str), axis=1,
                       return_inverse=True)[1].ravel()  # fmt: skip
    order = np.lexsort((rng.random(len(pool)), groups))
    found = np.empty(len(pool), np.int64)
    found[order] = (np.arange(len(pool)) + rng.integers(folds)) % folds
    return found


@contextmanager
def dealt(fold: int, folds: int, repeat: int) -> Iterator[None]:
    """Let sites test on one fold and train on the others."""

    def load(*args: Any, **settings: Any) -> Pool:
        pool = load_pool(*args, **settings)
        return replace(pool, is_train=parts(pool, folds, repeat) != fold)

    records.forget()
    try:
        with patch.object(records, "load_pool", load):
            yield
    finally:
        records.forget()


def figures(words: Sequence[str], metrics: Sequence[str]) -> dict[str, float]:
    """The final test figures of one run, over all records and as a plain mean of the sites."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept()
        simulate(compose([*words, f"out={folder}/run"]), kept, Stop())
    if kept.result.final is None:
        raise RuntimeError("a run without test figures")
    found = {name: float(kept.result.final.evaluate[name]) for name in metrics}
    by_site = [site[metrics[0]] for site in kept.result.final.per_site.values()]
    return found | {MEAN_OF_SITES: statistics.fmean(by_site)}


def interval(values: Sequence[float], folds: int) -> tuple[float, float]:
    """Mean and half the width of its 95 percent interval, for runs that share training records."""
    count = len(values)
    variance = statistics.variance(values) * (1 / count + 1 / (folds - 1))
    return statistics.fmean(values), float(t.ppf(0.975, count - 1)) * math.sqrt(variance)


def shown(values: Sequence[float], folds: int, form: str) -> str:
    """`mean ± half width`."""
    middle, half = interval(values, folds)
    return f"{middle:{form}} ± {half:.3f}"


def main() -> None:
    """Run all folds of all repeats for everything that is tried, print a table, write JSON."""
    options_of = parser(__doc__, folds=5, repeats=4)
    options_of.add_argument("words", nargs="+", help="key=value of the study")
    options_of.add_argument("--try", dest="tried", action="append", required=True)
    options_of.add_argument("--metrics", nargs="+", default=["accuracy", "auc"])
    options = options_of.parse_args()
    folds, names = options.folds, [*options.metrics, MEAN_OF_SITES]
    found: dict[str, list[dict[str, float]]] = {words: [] for words in options.tried}
    for repeat in range(options.repeats):
        for fold in range(folds):
            for words, rows in found.items():
                with dealt(fold, folds, repeat):
                    asked = [*options.words, *words.split(), f"seed={repeat}"]
                    rows.append(figures(asked, options.metrics))
    first = found[options.tried[0]]
    table = Table(
        tried="tried", **{n: n for n in names}, **{f"less {n}": f"less {n}" for n in names}
    )
    for words, rows in found.items():
        row = {n: shown([r[n] for r in rows], folds, ".3f") for n in names}
        for n in names:
            apart = [mine[n] - other[n] for mine, other in zip(rows, first, strict=True)]
            row[f"less {n}"] = "-" if rows is first else shown(apart, folds, "+.3f")
        table.row({"tried": words, **row})
    write(options.json, {"folds": folds, "repeats": options.repeats, "figures": found})


if __name__ == "__main__":
    main()
