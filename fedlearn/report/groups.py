"""Runs that differ in nothing but their seed, and where each group of them stands on a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fedlearn.report.runs import Run, telling

REFERENCES: Final = {
    "non_private": "federated, no privacy",
    "local_only": "each site by itself, no privacy",
    "centralised": "all records in one place, no privacy",
}

_NOT_A_CURVE: Final = ("seed", "privacy.epsilon", "privacy.noise_multiplier")
"""Settings that move a run along its curve instead of to another one."""


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
    weights = [sum(s.test for s in run.result.data.sites.values()) for run in runs]
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
