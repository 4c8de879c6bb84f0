"""The folder of a run as an audit takes it: only if nothing in it has changed since the run.

A bound on what a model gives away is about that model, its data and its
config. Measured on others it would be a statement about nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clients.records import read_simulated
from fedlearn.config import RunConfig, load, to_tree
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.vector import Vector
from fedlearn.data import SiteData
from fedlearn.report.export import read_model
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from fedlearn.tasks import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedRun:
    """A finished run whose files agree with each other and with the data."""

    folder: Path
    result: ResultFile
    config: RunConfig
    model: Vector
    """The trained model, without audit slots: `float32[d]`."""
    task: Task
    sites: dict[str, SiteData]


def open_run(folder: Path) -> AuditedRun:
    """The run in `folder`, if its model, data and config are still those of its result.

    Raises:
        ConfigError: the config was changed.
        DataError: the run is not finished, or its model or its data were changed.
    """
    result = read_result(folder)
    if result.status != "finished":
        raise DataError(
            f"{folder}: the run is {result.status}, and its result may still change; "
            "finish it with resume=true, then audit it"
        )
    config = _unchanged_config(folder, result)
    model = read_model(folder, result)
    task, sites = _data(config, result)
    return AuditedRun(
        folder=folder, result=result, config=config, model=model, task=task, sites=sites
    )


def _unchanged_config(folder: Path, result: ResultFile) -> RunConfig:
    path = folder / "config.yaml"
    config = load(result.config)
    before = RunFolder.essence(to_tree(config))
    now = RunFolder.essence(to_tree(load(yaml_file.read(path))))
    keys = dict.fromkeys([*before, *now])  # what is idle is not written
    if changed := [key for key in keys if before.get(key) != now.get(key)]:
        raise ConfigError(
            [
                f"{key}: {path} is not the config of this run any more; restore it, or run the "
                "changed config into another folder"
                for key in changed
            ]
        )
    return config


def _data(config: RunConfig, result: ResultFile) -> tuple[Task, dict[str, SiteData]]:
    pool, sites = read_simulated(config)
    if pool.sha256 != result.data.sha256:
        raise DataError(
            f"the records of scenario={config.scenario.kind} have the SHA-256 {pool.sha256}, and "
            f"this run has learned from {result.data.sha256}: an audit of other records would say "
            "nothing about it"
        )
    return pool.task, sites
