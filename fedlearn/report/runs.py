"""The runs that a report compares, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlearn.core.errors import DataError
from fedlearn.report.comparison import FILE, PointResult, Reference, read_comparison
from fedlearn.report.gaps import settings_of
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run with a result; of a comparison, or merely in the same folder."""

    name: str
    result: ResultFile
    reference: Reference | None = None
    site: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """Dotted key -> value of everything in the config that decides what the run finds."""
        return settings_of(self.result)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A run without a result, and why."""

    name: str
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SettingDifference:
    """A setting in which runs differ: every value with the number of runs that have it."""

    key: str
    values: tuple[tuple[str, int], ...]


def read_runs(folder: Path) -> tuple[list[Run], list[Missing]]:
    """The runs in `folder`: those that `compare.json` lists, or else every folder with a result.

    Raises:
        DataError: `compare.json` or a listed result cannot be read, or there are no runs.
    """
    if (folder / FILE).is_file():
        return _listed(folder, read_comparison(folder).points)
    found = sorted(path.parent for path in folder.glob("*/result.json"))
    if not found:
        raise DataError(
            f"{folder}: holds neither a run (result.json), nor a comparison ({FILE}), nor folders "
            "of runs"
        )
    runs = [Run(name=path.name, result=read_result(path)) for path in found]
    missing = [
        Missing(name=run.name, status=run.result.status, reason=run.result.reason or "")
        for run in runs
        if run.result.status != "finished"
    ]
    return runs, missing


def _listed(folder: Path, points: Sequence[PointResult]) -> tuple[list[Run], list[Missing]]:
    runs, missing = [], []
    for point in points:
        if (folder / point.name / "result.json").is_file():
            result = read_result(folder / point.name)
            runs.append(
                Run(name=point.name, result=result, reference=point.reference, site=point.site)
            )
        if point.status != "finished":
            missing.append(Missing(name=point.name, status=point.status, reason=point.reason or ""))
    return runs, missing


def differences(runs: Sequence[Run]) -> tuple[SettingDifference, ...]:
    """The settings in which `runs` differ; one that a run does not have counts as a value."""
    settings = [run.settings for run in runs]
    found = []
    for key in dict.fromkeys(key for one in settings for key in one):
        values = [one.get(key, "(not set)") for one in settings]
        if len(set(values)) > 1:
            counted = tuple((value, values.count(value)) for value in dict.fromkeys(values))
            found.append(SettingDifference(key=key, values=counted))
    return tuple(found)


def telling(runs: Sequence[Run]) -> list[str]:
    """The keys in which `runs` differ, without those that follow from the option of their group.

    Runs with `secagg=off` and with `secagg=masked` differ in `secagg.bits` too, but
    that says nothing more, unless runs with masks differ in it among themselves.
    """
    found = [difference.key for difference in differences(runs)]
    settings = [run.settings for run in runs]
    return [key for key in found if not _follows(key, found, settings)]


def _follows(key: str, found: Sequence[str], settings: Sequence[dict[str, str]]) -> bool:
    kind = f"{key.rpartition('.')[0]}.kind"
    if key == kind or kind not in found:
        return False
    values: dict[str | None, set[str | None]] = {}
    for one in settings:
        values.setdefault(one.get(kind), set()).add(one.get(key))
    return all(len(each) == 1 for each in values.values())
