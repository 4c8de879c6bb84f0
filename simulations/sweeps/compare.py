"""`fedlearn compare`: many runs from one command, side by side, into one table and one report.

Everything that can be refused is refused before the first run starts. The folder is the
state: the same command again keeps a point that is finished, goes on with one that ended
cleanly between rounds, and sets aside one that was cut off and runs it anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from fedlearn.auditing.findings import BROKEN
from fedlearn.config import RunConfig, decode, encode, to_tree
from fedlearn.config.engine import RayEngine
from fedlearn.config.saved import read_value
from fedlearn.core.errors import (
    ConfigError,
    DataError,
    FedlearnError,
    PrivacyError,
    PromiseBrokenError,
    StoppedError,
    refuse,
)
from fedlearn.core.files import possible, try_out
from fedlearn.core.settings import Count
from fedlearn.report.comparison import (
    FILE,
    Comparison,
    PointResult,
    point_result,
    read_comparison,
    write_comparison,
)
from fedlearn.report.gaps import Gaps, all_gaps
from fedlearn.report.page import write_report
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from fedlearn.training.device import touched
from server.stop import Stop
from simulations.engines.forks import at_a_time, cores
from simulations.engines.warm import nothing_collected, warm_up
from simulations.run import rehearse, with_absolute_paths
from simulations.sweeps.points import Point, baselines, points_of
from simulations.sweeps.workers import Ended, Event, RunJob, Start, run_jobs

UNFINISHED: Final = "unfinished"
"""Where half-written runs go: their ledgers say what was spent, and nobody deletes that."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What is said to `fedlearn compare` itself, as `compare.NAME=value`."""

    baselines: bool = False
    """Add the reference lines of `simulations.sweeps.points`."""
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
    overrides: Sequence[str], listener: SweepListener, stop: Stop, *, holds_objects: bool = False
) -> int:
    """Run all points of `overrides`; the exit code is 0, or that of the worst run, or of an audit.

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
    workers, start = staff(settings.workers, [point.config for point in todo])
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
    if broken := [point.name for point in comparison.points if point.audit and point.audit.broken]:
        listener.say(f"{BROKEN}: {', '.join(broken)}")
        return study.exit_code or PromiseBrokenError.exit_code
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


def staff(workers: int | None, configs: Sequence[RunConfig]) -> tuple[int, Start]:
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
    return workers or fits, start


# --- the folder ------------------------------------------------------------------------


class SweepFolder:
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
        refuse(found, ConfigError)
        with possible("written", f"out={folder}", ConfigError, "; choose another folder"):
            try_out(folder)

    def todo(self) -> list[Point]:
        """The points that have not finished."""
        return [point for point in self.points if not self._is_finished(point)]

    def rehearse(self) -> None:
        """Let all that is not finished be refused now; warms up what every run needs."""
        todo = self.todo()
        with nothing_collected():
            import fedlearn.report.plots  # noqa: F401  (matplotlib)

            for point in todo:
                warm_up(point.config)
        refused: dict[str, FedlearnError] = {}
        for point in todo:
            try:
                rehearse(point.config, only=point.site)
            except FedlearnError as error:
                refused |= dict.fromkeys(_refusal(point, error), error)
        codes = [error.exit_code for error in refused.values()]
        if codes and set(codes) == {DataError.exit_code}:
            raise DataError(list(refused))
        if codes:
            raise ConfigError(list(refused))

    def prepare(self) -> list[Point]:
        """The points to run, their folders free or ready to be resumed; writes the plan down."""
        self.folder.mkdir(parents=True, exist_ok=True)
        todo = [self._freed(point) for point in self.todo()]
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
        return all(self._entry(point, {}).status in settled for point in self.points)

    def write(self) -> Comparison:
        """Write `compare.json` and `compare.csv`: these points, then those of earlier commands."""
        gaps = self._gaps()
        entries = {point.name: self._entry(point, gaps) for point in self.points}
        if (self.folder / FILE).is_file():
            for entry in read_comparison(self.folder).points:
                entries.setdefault(entry.name, entry)
        comparison = Comparison(points=list(entries.values()))
        write_comparison(self.folder, comparison)
        return comparison

    def _gaps(self) -> dict[str, Gaps]:
        """The gaps between sites and between groups of every run that has tested them."""
        together = [point.name for point in self.points if point.site is None]
        found = ((name, self._results[name]) for name in together)
        return all_gaps({name: result for name, result in found if result is not None})

    def _entry(self, point: Point, gaps: Mapping[str, Gaps]) -> PointResult:
        reason = self._reasons.get(point.name)
        return point_result(point, self._results[point.name], reason, gaps.get(point.name))

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

    def _read(self, name: str) -> ResultFile | None:
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


def _refusal(point: Point, error: FedlearnError) -> list[str]:
    """What an error says; of an owner's refusal also that it is of a reference line."""
    lines = str(error).splitlines()
    if point.reference is None or not isinstance(error, PrivacyError):
        return lines
    return [f"{line} (asked for by compare.baselines=true: references train without privacy)"
            for line in lines]  # fmt: skip


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
