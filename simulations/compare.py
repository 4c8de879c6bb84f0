"""`fedlearn compare`: many runs from one command, side by side, into one table and one report.

Everything that can be refused is refused before the first run starts. The
folder is the state: the same command again keeps what is finished and does the
rest.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from fedlearn.config import RunConfig, decode, encode, plan_of, to_tree
from fedlearn.config_file import read_value
from fedlearn.engine import RayEngine
from fedlearn.errors import ConfigError, DataError, FedlearnError, StoppedError
from fedlearn.settings import Count
from server.folder import RunFolder
from server.report.comparison import (
    FILE,
    Comparison,
    Plan,
    PointResult,
    point_result,
    read_comparison,
    write_comparison,
)
from server.report.page import write_report
from server.result import Result
from server.result_file import read_result
from server.stop import Stop
from simulations.baselines import baselines
from simulations.points import Point, points_of
from simulations.run import rehearse, with_absolute_paths
from simulations.workers import Ended, Event, Job, Start, run_jobs

UNFINISHED: Final = "unfinished"
"""Where half-written runs go: their ledgers say what was spent, and nobody deletes that."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What is said to `fedlearn compare` itself, as `compare.NAME=value`."""

    baselines: bool = False
    """Add the reference lines of `simulations.baselines`."""
    workers: Count | None = None
    """Runs at a time; without it, as many as fit the cores."""


class Listener(Protocol):
    """Who is told how a comparison goes on."""

    def say(self, message: str) -> None:
        """A sentence for the user."""

    def planned(self, points: Sequence[Point], done: int, workers: int) -> None:
        """What there is to do: `done` of `points` are finished already."""

    def heard(self, event: Event | None) -> None:
        """A run moved on, or (None) time passed."""

    def finished(self, comparison: Comparison, folder: Path) -> None:
        """Everything is on disk."""


def compare(overrides: Sequence[str], listener: Listener, stop: Stop) -> int:
    """Run all points of `overrides`; the exit code is 0, or that of the worst run.

    Raises:
        ConfigError, DataError: something could never run; nothing was started.
        StoppedError: the user stopped it; what is done is on disk.
    """
    settings, rest = _settings(overrides)
    points, folder = plan(settings, rest)
    study = Study(folder, points)
    study.check()
    study.rehearse(listener)
    todo = study.prepare()
    workers, start = _crew(settings, [point.config for point in todo])
    listener.planned(points, len(points) - len(todo), workers)

    def heard(event: Event | None) -> None:
        if isinstance(event, Ended):
            study.ended(event)
        listener.heard(event)

    try:
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


# --- the folder ---------------------------------------------------------------------


class Study:
    """The folder of a comparison and the state of its points."""

    def __init__(self, folder: Path, points: Sequence[Point]) -> None:
        self.folder, self.points = folder, points
        self.exit_code = 0
        self._reasons: dict[str, str] = {}
        # Read once, and again when a run has ended: there may be hundreds.
        self._results = {point.name: self._read(point.name) for point in points}

    def check(self) -> None:
        """Refuse a folder that is something else, or holds other runs under these names."""
        found = [
            f"out={self.folder}: holds {point.name} with another config; choose another folder"
            for point in self.points
            if (before := self._config_of(point)) is not None
            and _essence(before) != _essence(point.config)
        ]
        folder = self.folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not (folder / FILE).is_file():
                found = [f"out={folder}: exists and holds no comparison; choose another folder"]
            else:
                read_comparison(folder)
        if found:
            raise ConfigError(found)

    def rehearse(self, listener: Listener) -> None:
        """Let all that is not finished be refused now; warms up what every run needs."""
        todo = [point for point in self.points if not self._is_finished(point)]
        if todo:
            listener.say(f"checking {len(todo)} runs")
            warm_up(point.config for point in todo)
        refused: dict[str, FedlearnError] = {}
        for point in todo:
            try:
                rehearse(point.config, only=point.site)
            except FedlearnError as error:
                refused |= dict.fromkeys(str(error).splitlines(), error)
        codes = [error.exit_code for error in refused.values()]
        if codes and set(codes) == {DataError.exit_code}:
            raise DataError("\n".join(refused))
        if codes:
            raise ConfigError(list(refused))

    def prepare(self) -> list[Point]:
        """The points to run, their folders free or ready to be resumed; writes the plan down."""
        self.folder.mkdir(parents=True, exist_ok=True)
        todo = [point for point in self.points if not self._is_finished(point)]
        todo = [self._freed(point) for point in todo]
        self.write()
        return todo

    def ended(self, event: Ended) -> None:
        """Note how a run ended, and write that down."""
        self._results[event.name] = self._read(event.name)
        if event.exit_code not in (0, StoppedError.exit_code):
            self._reasons[event.name] = event.reason or "failed"
            self.exit_code = _worse(self.exit_code, event.exit_code)
        self.write()

    def is_settled(self) -> bool:
        """Whether every point has finished or failed: nothing is left to do."""
        settled = {"finished", "stopped_budget", "failed"}
        return all(self._entry(point).status in settled for point in self.points)

    def write(self) -> Comparison:
        """Write `compare.json` and `compare.csv`: these points, then those of earlier commands."""
        entries = {point.name: self._entry(point) for point in self.points}
        if (self.folder / FILE).is_file():
            for entry in read_comparison(self.folder).points:
                entries.setdefault(entry.name, entry)
        comparison = Comparison(points=list(entries.values()))
        write_comparison(self.folder, comparison)
        return comparison

    def _entry(self, point: Point) -> PointResult:
        plan = Plan(
            name=point.name,
            overrides=point.overrides,
            swept=point.swept,
            reference=point.reference,
            site=point.site,
        )
        return point_result(plan, self._results[point.name], self._reasons.get(point.name))

    def _freed(self, point: Point) -> Point:
        """Resume what ended cleanly after a round; set aside what did not."""
        result = self._results[point.name]
        folder = self.folder / point.name
        if result is not None and result.status == "interrupted" and result.rounds:
            return replace(point, config=replace(point.config, resume=True))
        if folder.exists():
            aside = self.folder / UNFINISHED
            aside.mkdir(exist_ok=True)
            folder.rename(_free(aside, point.name))
            self._results[point.name] = None
        return point

    def _is_finished(self, point: Point) -> bool:
        result = self._results[point.name]
        return result is not None and result.status == "finished"

    def _read(self, name: str) -> Result | None:
        try:
            return read_result(self.folder / name)
        except DataError:
            return None

    def _config_of(self, point: Point) -> RunConfig | None:
        path = self.folder / point.name / "checkpoint" / "config.json"
        try:
            return decode(RunConfig, path.read_text())
        except (OSError, ConfigError):
            return None


def _essence(config: RunConfig) -> dict[str, Any]:
    return RunFolder.essence(to_tree(config))


def _free(folder: Path, name: str) -> Path:
    number = 1
    while (path := folder / f"{name}-{number}").exists():
        number += 1
    return path


def _worse(one: int, other: int) -> int:
    """A bug before all else; then the larger code."""
    return 1 if 1 in (one, other) else max(one, other)


# --- the machine ---------------------------------------------------------------------


def _job(point: Point) -> Job:
    return Job(name=point.name, config=encode(point.config), only=point.site)


def _crew(settings: CompareSettings, configs: Sequence[RunConfig]) -> tuple[int, Start]:
    """How many runs at a time, and how their processes start.

    A fork shares what is loaded, but must not follow work on several threads;
    Ray takes all cores for itself.
    """
    on_ray = any(isinstance(config.engine, RayEngine) for config in configs)
    threads = max((config.engine.threads for config in configs), default=1)
    fits = 1 if on_ray else max(1, cores() // threads)
    fork = sys.platform == "linux" and threads == 1 and not on_ray
    return settings.workers or fits, "fork" if fork else "spawn"


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def warm_up(configs: Iterable[RunConfig]) -> None:
    """Import and compute once what every run would, before processes are forked."""
    import torch

    import server.report.plots  # noqa: F401  (matplotlib)

    for config in configs:
        torch.set_num_threads(config.engine.threads)
        if plan_of(config):
            import fedlearn.training.private  # noqa: F401  (Opacus)
    # The first step of an optimizer imports torch's compiler.
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.SGD([weight], lr=0.0).step()
