"""The runs that a report compares: in what they differ, and where they stand on a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlearn.core.errors import DataError
from fedlearn.report.comparison import FILE, PointResult, Reference, read_comparison
from fedlearn.report.gaps import settings_of
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile, total_of

REFERENCES: Final = {
    "non_private": "federated, no privacy",
    "local_only": "each site by itself, no privacy",
    "centralised": "all records in one place, no privacy",
}

_NOT_A_CURVE: Final = ("seed", "privacy.epsilon", "privacy.noise_multiplier")
"""Settings that move a run along its curve instead of to another one."""


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


# --- groups ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that differ in nothing but their seed."""

    label: str
    curve: str
    epsilon: float | None
    runs: tuple[Run, ...]


def grouped(runs: Sequence[Run]) -> list[RunGroup]:
    """Runs by what they differ in apart from the seed, along each curve by epsilon."""
    varied = [key for key in telling(runs) if key != "seed"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        settings = run.settings
        groups.setdefault(tuple(settings.get(key, "") for key in varied), []).append(run)
    made = [_group(varied, values, members) for values, members in groups.items()]
    order = list(dict.fromkeys(group.curve for group in made))
    return sorted(made, key=lambda g: (order.index(g.curve), g.epsilon is None, g.epsilon or 0.0))


def _group(varied: Sequence[str], values: Sequence[str], runs: Sequence[Run]) -> RunGroup:
    pairs = [(key, value) for key, value in zip(varied, values, strict=True) if value]
    spent = [run.result.privacy.epsilon for run in runs]
    known = [value for value in spent if value is not None]
    label = ", ".join(f"{short(key, varied)} {value}" for key, value in pairs[:4])
    curve = ", ".join(
        f"{short(key, varied)} {value}" for key, value in pairs[:4] if key not in _NOT_A_CURVE
    )
    return RunGroup(
        label=label or "all runs",
        curve=curve,
        epsilon=max(known) if len(known) == len(spent) else None,
        runs=tuple(runs),
    )


def short(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key, where that is not taken for another."""
    last = key.rpartition(".")[2]
    if last == "kind":
        return key.rpartition(".")[0]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def reference_levels(runs: Sequence[Run], points: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Label -> metric -> mean: of the reference lines, and of points without privacy."""
    found: dict[str, dict[str, float]] = {}
    for reference, label in REFERENCES.items():
        members = [run for run in runs if run.reference == reference]
        if members:
            found[label] = _pooled(members)
    for group in grouped(points):
        if group.epsilon is None:
            found[group.label] = _pooled(group.runs)
    return found


def _pooled(runs: Sequence[Run]) -> dict[str, float]:
    """Every metric over the test records of all runs: a site alone counts by its records."""
    sizes = [total_of(s.test for s in run.result.data.sites.values()) for run in runs]
    # Where they are not known, every run counts alike.
    weights = [1 if None in sizes else size or 0 for size in sizes]
    names = dict.fromkeys(name for run in runs for name in run.result.final.evaluate)
    pooled = {}
    for name in names:
        pairs = [
            (weight, run.result.final.evaluate[name])
            for weight, run in zip(weights, runs, strict=True)
            if name in run.result.final.evaluate
        ]
        total = sum(weight for weight, _ in pairs)
        pooled[name] = sum(weight * value for weight, value in pairs) / total if total else 0.0
    return pooled
