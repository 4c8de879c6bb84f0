"""What a smaller form of a run's model costs: both models on the same records, site by site.

The test records of a simulated run are on this machine. What a run has published exactly is
measured anew of both models, and no more than that: with private test figures nothing is, and
where the run opened sums over all sites alone, so does this.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.config import load
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.datasets.archives import default_cache
from fedlearn.generation.generator import TextGenerator
from fedlearn.generation.grading import passages_as_records
from fedlearn.metrics.sums import Sums
from fedlearn.prediction import Predictor
from fedlearn.report.made_smaller import AlikeAnswers, Compared, Weigh, Weighed
from fedlearn.results.reading import read_bytes, read_result
from fedlearn.results.result import ResultFile
from fedlearn.tasks import Targets, Task
from fedlearn.training.local import grade
from simulations.overlap import is_of_run, overlap, sites_here

_BATCH: Final = 256
_TEXTS: Final = 16
"""Records of a language model that are graded together."""


def weighing(run: Path, records: Path | None = None) -> Weigh:
    """How a form of the model of `run` is weighed: at its sites, or on the records of a file."""

    def weigh(before: Predictor, after: Predictor) -> Weighed:
        result = read_result(run)
        if records is not None:
            return on_file(records, before, after, result)
        return at_sites(result, before, after)

    return weigh


def at_sites(result: ResultFile, before: Predictor, after: Predictor) -> Weighed:
    """Both models on the test records of the run's sites, where it has published such figures."""
    config = load(result.config)
    if config.evaluation == "none":
        return Weighed(unmeasured="no_tests")
    if config.evaluation == "private":
        return Weighed(unmeasured="private")
    if (sites := sites_here(result)) is None:
        return Weighed(unmeasured="elsewhere")
    task, shown = before.task, result.final.per_site
    sums = {
        name: tuple(_sums(model, site.test.features, site.test.labels) for model in (before, after))
        for name, site in sites.items()
        if len(site.test)
    }
    if not sums or not result.final.evaluate:
        return Weighed(unmeasured="no_tests")
    together = [task.added([pair[i] for pair in sums.values()]) for i in range(2)]
    return Weighed(
        all_sites=_compared(task, together, result.final.evaluate),
        per_site={
            name: _compared(task, pair, shown[name]) for name, pair in sums.items() if name in shown
        },
    )


def _refuse_own(path: Path, records: NDArray[Any], result: ResultFile) -> None:
    """Refuse records whose figures would be exact ones of what sites have to themselves."""
    found = overlap(records, result)
    if is_of_run(path, result) or (found is not None and found.is_own):
        raise ConfigError(
            f"--records {path}: holds records of the run's own sites, of which costs.json would "
            "have exact figures that no epsilon is for; give other records, or leave it out, and "
            "it is measured at the sites as far as the run has published such figures"
        )


def on_file(path: Path, before: Predictor, after: Predictor, result: ResultFile) -> Weighed:
    """Both models on the records of a file: of a language model its metrics, of others how alike
    their answers are.

    Raises:
        ConfigError, DataError: it cannot be read as records of the run.
    """
    source = f"{path.name} (SHA-256 {hashlib.sha256(read_bytes(path)).hexdigest()})"
    if before.task.next_tokens:
        asked = passages_as_records(TextGenerator.of(before, default_cache(os.environ)), path)
        _refuse_own(path, asked.ids, result)
        pair = [_sums(model, asked.ids, asked.targets) for model in (before, after)]
        return Weighed(source=source, all_sites=_compared(before.task, pair))
    features = before.read(path).features
    if not len(features):
        raise DataError(f"{path}: holds no records")
    _refuse_own(path, features, result)
    one, other = (model.answers(features) for model in (before, after))
    cells = [[before.task.answer_cells(row)[0] for row in answers] for answers in (one, other)]
    same = np.mean([mine == theirs for mine, theirs in zip(*cells, strict=True)])
    largest = float(np.abs(one - other).max())
    agreement = AlikeAnswers(records=len(features), same=float(same), largest=largest)
    return Weighed(source=source, agreement=agreement)


def _sums(model: Predictor, features: NDArray[Any], targets: Targets) -> Sums:
    task, size = model.task, _TEXTS if model.task.next_tokens else _BATCH
    records = torch.from_numpy(np.ascontiguousarray(features))
    return task.sums(grade(model.network, task, records, targets, size), targets)


def _compared(task: Task, pair: Sequence[Sums], names: Collection[str] | None = None) -> Compared:
    """All metrics of both, or those of these names."""
    one, other = (task.metrics(sums) for sums in pair)
    shown = [name for name in one if names is None or name in names]
    return Compared(
        before={name: one[name] for name in shown},
        after={name: other[name] for name in shown if name in other},
    )
