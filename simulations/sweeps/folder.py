"""The folder of a comparison: which of its points are done, and what has to run again.

The folder is the state. A finished point is kept; one that ended cleanly
between rounds goes on; one that was cut off is set aside and run anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fedlearn.config import RunConfig, decode, to_tree
from fedlearn.core.errors import ConfigError, DataError, FedlearnError, PrivacyError, StoppedError
from fedlearn.report.comparison import (
    FILE,
    Comparison,
    PointResult,
    SweepPlan,
    point_result,
    read_comparison,
    write_comparison,
)
from fedlearn.report.gaps import Gaps, all_gaps
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from simulations.engines.warm import nothing_collected, warm_up
from simulations.run import rehearse
from simulations.sweeps.points import Point
from simulations.sweeps.workers import Ended

UNFINISHED: Final = "unfinished"
"""Where half-written runs go: their ledgers say what was spent, and nobody deletes that."""


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
        if found:
            raise ConfigError(found)

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
            raise DataError("\n".join(refused))
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
        plan = SweepPlan(
            name=point.name,
            overrides=point.overrides,
            swept=point.swept,
            reference=point.reference,
            site=point.site,
        )
        reason = self._reasons.get(point.name)
        return point_result(plan, self._results[point.name], reason, gaps.get(point.name))

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
