"""What the study file of `fedlearn new` learns of tables and texts that it was not made for.

    python benchmarks/defaults.py [--only adult stroke] [--epsilons none 4] [--seeds 0 1] \\
        [--set KEY=VALUE]

Each set is written as a file such as people have, given to `fedlearn new` with its label and
a budget, and the study is run as it is. Beside it stand logistic regression and boosting of
scikit-learn on all training records of the same split, without privacy; of the regression the
better of two, on numbers and on their logarithms. Leading is the AUC of two classes, else accuracy.
Packages are brought by pip, pinned, and read as data. Minutes for a small set, of one core.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from default_sets import SETS, Set
from numpy.typing import NDArray
from table import Table, cpu_of_all, parser, result_of, write

from clients.records import simulated_sites, simulated_task
from fedlearn.config import RunConfig
from fedlearn.data.datasets.archives import default_cache
from fedlearn.tasks import SQUASH_UNIT, TableInput, Task
from server.run import Silent
from server.stop import Stop
from simulations.new_study import new_study
from simulations.run import simulate

Rows = NDArray[Any]
Metrics = dict[str, float]


def study(one: Set, folder: Path, words: list[str]) -> RunConfig:
    """What `fedlearn new` makes of a set, with `words` beside."""
    data = folder / f"{one.name}.csv"
    if not data.exists():
        data.write_text(one.text(default_cache(os.environ)), encoding="utf-8")
    _, found = new_study(folder / f"study{time.monotonic_ns()}", data, one.label, words)
    return replace(found.config, out=str(folder / f"run{time.monotonic_ns()}"))


def peers(config: RunConfig) -> dict[str, Metrics]:
    """Metrics of scikit-learn's models of all training records, on the test records of the run."""
    task, sites = simulated_task(config), list(simulated_sites(config).values())
    x, test = (np.concatenate([getattr(one, part).features for one in sites]) for part in PARTS)
    labels = tuple(np.concatenate([getattr(one, part).labels for one in sites]) for part in PARTS)
    shape = task.input
    if not isinstance(shape, TableInput):
        return {"logistic": _graded(task, _of_texts(), (x, test), labels)}
    linear = [
        _graded(task, _linear(), (spread(shape, x, to), spread(shape, test, to)), labels)
        for to in ("numbers", "logarithms")
    ]
    best = max(linear, key=lambda found: found[leading(found)])
    return {"logistic": best, "boosting": _graded(task, _boosted(), (x, test), labels)}


PARTS = ("train", "test")


def leading(metrics: Metrics) -> str:
    """The metric that a set is judged by."""
    return "auc" if "auc" in metrics else "accuracy"


def _graded(task: Task, model: Any, rows: tuple[Rows, Rows], labels: tuple[Rows, ...]) -> Metrics:
    fitted = model.fit(rows[0], labels[0])
    chances = np.zeros((len(labels[1]), max(2, task.num_outputs)))
    chances[:, fitted.classes_] = fitted.predict_proba(rows[1])
    return task.score(chances, labels[1])


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def _of_texts() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def pieces(row: Rows) -> list[str]:
        return [str(token) for token in row if token]

    words = TfidfVectorizer(analyzer=pieces, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10, max_iter=500))


def _boosted() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=0)


def spread(table: TableInput, rows: Rows, to: str) -> Rows:
    """Numbers as they were, or their logarithms as a run reads them; a column for each category."""
    numbers = rows[:, : table.numeric].astype(np.float64)
    if to == "numbers":
        squashed = [*table.squashed]
        size = np.expm1(np.abs(numbers[:, squashed]) * SQUASH_UNIT)
        numbers[:, squashed] = np.sign(numbers[:, squashed]) * size
    codes = enumerate(table.cardinalities, start=table.numeric)
    return np.hstack([numbers, *(np.eye(n)[rows[:, i].astype(int)] for i, n in codes)])


def _mean(found: list[float]) -> str:
    low, high = min(found), max(found)
    return f"{statistics.mean(found):.3f}" + (f" ({low:.3f} to {high:.3f})" if high > low else "")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A study that was run once: what it was, what it got, and what plain models get."""

    config: RunConfig
    ours: Metrics
    others: dict[str, Metrics]
    seconds: float

    @property
    def leading(self) -> str:
        """The metric that it is judged by."""
        return leading(self.ours)


def ran(one: Set, folder: Path, words: list[str]) -> Ran:
    """Make the study of a set, and run it."""
    config = study(one, folder, words)
    began = cpu_of_all()
    simulate(config, Silent(), Stop())
    used = cpu_of_all() - began
    ours: Metrics = result_of(Path(config.out))["final"]["evaluate"]
    return Ran(config=config, ours=ours, others=peers(config), seconds=used)


def row_of(one: Set, epsilon: str, runs: list[Ran]) -> dict[str, Any]:
    """Means over runs that differ in their seed."""
    config, metric = runs[0].config, runs[0].leading
    training, sites = config.training, len(simulated_sites(config))
    row = {
        "name": one.name,
        "epsilon": epsilon,
        "metric": metric,
        "records": f"{training.nominal_records:,} at {sites}",
        "steps": f"{config.rounds} x {training.local_steps}, {training.learning_rate:g}",
        "seconds": statistics.mean(run.seconds for run in runs),
        "ours": _mean([run.ours[metric] for run in runs]),
        "accuracy": _mean([run.ours["accuracy"] for run in runs]),
        "f1": _mean([run.ours["macro_f1"] for run in runs]),
    }
    for name in ("logistic", "boosting"):
        values = [run.others[name][metric] for run in runs if name in run.others]
        row[name] = _mean(values) if values else "-"
    return row


def main() -> None:
    """Print a row for every set and epsilon."""
    options_of = parser(__doc__, only=[""], epsilons=["none", "4"], seeds=[0, 1])
    options_of.add_argument("--set", dest="words", action="append", default=[], help="KEY=VALUE")
    options = options_of.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")
    table = Table(
        name="set", metric="metric", records="records at sites", epsilon="epsilon",
        steps="rounds x steps, rate", ours="by rule", accuracy="accuracy", f1="macro-F1",
        logistic="logistic regression", boosting="boosting",
        seconds=("CPU", ".0f", " s"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="defaults") as folder:
        for one in SETS:
            if options.only == [""] or one.name in options.only:
                for epsilon in options.epsilons:
                    budget = "privacy=none" if epsilon == "none" else f"privacy.epsilon={epsilon}"
                    words = [[budget, f"seed={seed}", *options.words] for seed in options.seeds]
                    runs = [ran(one, Path(folder), given) for given in words]
                    table.row(row_of(one, epsilon, runs))
    write(options.json, {"rows": table.rows})


if __name__ == "__main__":
    main()
