"""`fedlearn compare`: many runs from one command, side by side, into one table and one report.

Everything that can be refused is refused before the first run starts. The
folder is the state: the same command again keeps what is finished and does the
rest.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fedlearn.config import RunConfig, decode, encode
from fedlearn.config.engine import RayEngine
from fedlearn.config.saved import read_value
from fedlearn.core.errors import ConfigError, StoppedError
from fedlearn.core.settings import Count
from fedlearn.report.comparison import Comparison
from fedlearn.report.page import write_report
from fedlearn.training.device import touched
from server.stop import Stop
from simulations.engines.forks import at_a_time, cores
from simulations.run import with_absolute_paths
from simulations.sweeps.baselines import baselines
from simulations.sweeps.folder import SweepFolder
from simulations.sweeps.points import Point, points_of
from simulations.sweeps.workers import Ended, Event, RunJob, Start, run_jobs


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What is said to `fedlearn compare` itself, as `compare.NAME=value`."""

    baselines: bool = False
    """Add the reference lines of `simulations.sweeps.baselines`."""
    workers: Count | None = None
    """Runs at a time; without it, as many as fit the cores."""


class SweepListener(Protocol):
    """Who is told how a comparison goes on."""

    def say(self, message: str) -> None:
        """A sentence for the user."""

    def planned(self, points: Sequence[Point], done: int, workers: int) -> None:
        """What there is to do: `done` of `points` are finished already."""

    def heard(self, event: Event | None) -> None:
        """A run moved on, or (None) time passed."""

    def finished(self, comparison: Comparison, folder: Path) -> None:
        """Everything is on disk."""


def compare(
    overrides: Sequence[str],
    listener: SweepListener,
    stop: Stop,
    *,
    holds_objects: bool = False,
) -> int:
    """Run all points of `overrides`; the exit code is 0, or that of the worst run.

    `holds_objects` says that the points name what this process holds: where no fork of it can
    be made, it runs them itself, one after the other.

    Raises:
        ConfigError, DataError: something could never run; nothing was started.
        StoppedError: the user stopped it; what is done is on disk.
    """
    settings, rest = _settings(overrides)
    points, folder = plan(settings, rest)
    study = SweepFolder(folder, points)
    study.check()
    listener.say(f"checking {len(study.todo())} of {len(points)} runs")
    study.rehearse()
    todo = study.prepare()
    workers, start = _staff(settings, [point.config for point in todo])
    if holds_objects and start == "spawn":
        workers, start = 1, "here"
    listener.planned(points, len(points) - len(todo), workers)

    def heard(event: Event | None) -> None:
        if isinstance(event, Ended):
            study.ended(event)
        listener.heard(event)

    try:
        with stop.ending_first():
            run_jobs([_job(point) for point in todo],
                     workers=workers, start=start, stop=stop, tell=heard)  # fmt: skip
    finally:
        comparison = study.write()
        write_report(folder)
    listener.finished(comparison, folder)
    if not study.is_settled():
        raise StoppedError("stopped; the same command does the rest")
    return study.exit_code


def plan(settings: CompareSettings, overrides: Sequence[str]) -> tuple[list[Point], Path]:
    """All points with absolute paths, and the folder of the comparison.

    Raises:
        ConfigError: with every problem of every point, each once.
    """
    points = points_of(overrides)
    folder = Path.cwd() / _folder(points, overrides)
    if settings.baselines:
        points += baselines(points)
    return [_placed(point, folder) for point in points], folder


def planned_folder(overrides: Sequence[str]) -> Path:
    """The folder of the comparison that `overrides` ask for; raises as `plan` does."""
    settings, rest = _settings(overrides)
    return plan(settings, rest)[1]


def _folder(points: Sequence[Point], overrides: Sequence[str]) -> str:
    outs = {point.config.out for point in points}
    if any(text.startswith("out=") for text in overrides):
        return outs.pop()
    return f"{outs.pop()}-compare" if len(outs) == 1 else "runs/compare"


def _placed(point: Point, folder: Path) -> Point:
    config = replace(point.config, out=str(folder / point.name))
    return replace(point, config=with_absolute_paths(config, Path.cwd()))


def _settings(overrides: Sequence[str]) -> tuple[CompareSettings, list[str]]:
    own = [text for text in overrides if text.startswith("compare.")]
    tree: dict[str, Any] = {}
    for text in own:
        key, _, value = text.removeprefix("compare.").partition("=")
        tree[key] = read_value(text, value)
    try:
        settings = decode(CompareSettings, json.dumps(tree))
    except ConfigError as error:
        raise ConfigError([f"compare.{problem}" for problem in error.problems]) from None
    return settings, [text for text in overrides if text not in own]


# --- the machine ---------------------------------------------------------------------


def _job(point: Point) -> RunJob:
    return RunJob(name=point.name, config=encode(point.config), only=point.site)


def _staff(settings: CompareSettings, configs: Sequence[RunConfig]) -> tuple[int, Start]:
    """How many runs at a time, and how their processes start.

    A fork shares what is loaded, but must not follow work on several threads or a GPU;
    Ray takes all cores for itself. Site files have ledgers, which one run at a time
    spends from, so its runs are made one after the other.
    """
    on_ray = any(isinstance(config.engine, RayEngine) for config in configs)
    threads = max((config.engine.threads for config in configs), default=1)
    each = (at_a_time(cores() // threads, config.training.device) for config in configs)
    fits = 1 if on_ray else min(each, default=1)
    stale = any(touched(config.training.device) for config in configs)
    fork = sys.platform == "linux" and threads == 1 and not on_ray and not stale
    start: Start = "fork" if fork else "spawn"
    if any(config.sites is not None for config in configs):
        return 1, start
    return settings.workers or fits, start
