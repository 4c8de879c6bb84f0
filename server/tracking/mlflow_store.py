"""A run in an MLflow store, by MLflow's client alone: nothing of its global state is touched.

MLflow's own reports of use are switched off (`fedlearn.SWITCHES`); the store is
the one that the config names, whatever the environment says.
"""

from __future__ import annotations

import fcntl
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

_RUN_ID: Final = "fedlearn.run_id"
_LONGEST: Final = 500
"""Characters of a setting; the whole is in `config.yaml`."""
_MOST: Final = 100
"""Settings that MLflow takes at a time."""

# It says at length that it makes its tables.
logging.getLogger("mlflow").setLevel(logging.WARNING)


class MlflowTracker:
    """One run; continued under the same id when the run is resumed."""

    def __init__(self, uri: str, out: Path, *, experiment: str, run_id: str) -> None:
        self._folder = out.absolute().parent
        self._uri = uri or f"sqlite:///{self._folder / 'mlflow.db'}"
        self._is_ours, self._name = not uri, out.name
        self._experiment, self._id = experiment, run_id
        self._client: MlflowClient
        self._run = ""

    def begin(self, settings: Mapping[str, str]) -> None:
        """Open the store, make or find the experiment and the run, and note the settings."""
        with self._alone():
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            experiment = self._experiment_id()
        known = self._client.search_runs([experiment], f"tags.`{_RUN_ID}` = '{self._id}'")
        if known:
            self._run = known[0].info.run_id
            self._client.set_terminated(self._run, "RUNNING")
            return
        tags = {_RUN_ID: self._id}
        self._run = self._client.create_run(experiment, tags=tags, run_name=self._name).info.run_id
        parameters = [Param(key, value[:_LONGEST]) for key, value in settings.items()]
        for start in range(0, len(parameters), _MOST):
            self._client.log_batch(self._run, params=parameters[start : start + _MOST])

    def measure(self, values: Mapping[str, float], step: int) -> None:
        """Add metrics; MLflow has no place for numbers that are not finite."""
        now = int(time.time() * 1000)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        metrics = [Metric(name, value, now, step) for name, value in finite.items()]
        for start in range(0, len(metrics), _MOST):
            self._client.log_batch(self._run, metrics=metrics[start : start + _MOST])

    def end(self, finished: bool) -> None:
        """Close the run in the store."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        place = (self._folder / "mlartifacts").as_uri() if self._is_ours else None
        return str(self._client.create_experiment(self._experiment, artifact_location=place))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Runs of a comparison begin at once, and tables must be made by one of them."""
        if not self._uri.startswith("sqlite:"):
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".mlflow.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
