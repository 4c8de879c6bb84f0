"""The figures of an experiment, as they follow from run folders."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.page_data import Audited, Figures, Guessed, Mean, Row
from fedlearn.auditing.findings import SEATS
from fedlearn.core.errors import DataError
from fedlearn.metrics.intervals import Measured
from fedlearn.report.comparison import FILE, read_comparison, traffic
from fedlearn.report.runs import REFERENCES, Run, grouped, read_runs, reference_levels
from fedlearn.results.reading import task_of
from fedlearn.results.result import ResultFile, total_of

WIDTH: Final = 2 * statistics.NormalDist().inv_cdf(0.975)
"""Standard errors in an interval of 95 percent."""


def read_figures(folders: Sequence[Path], by: str = "") -> Figures:
    """The figures of the runs in `folders`: comparisons, or folders of runs, of one experiment.

    Args:
        folders: comparisons, or folders of runs.
        by: the metric that they are measured by; empty: the one that leads its task.

    Raises:
        DataError: a run has not finished, or they are of several experiments or data sets.
    """
    read = list(_read(folders))
    runs = [run for _, run in read]
    audited = [run for run in runs if run.result.audit and run.result.audit.canaries]
    points = [run for run in runs if run.reference is None and run not in audited]
    _same("experiment", {str(run.result.config["experiment"]) for run in runs})
    _same("data", {_dealt(run.result) for run in points})
    first, names = points[0].result, _metrics(points, by)
    drawn = len({run.result.data.sha256 for run in points}) > 1
    started = sorted(run.result.started_at[:10] for run in runs)
    return Figures(
        experiment=str(first.config["experiment"]),
        commands=[command for folder in folders for command in _command(folder)],
        first=started[0],
        last=started[-1],
        versions=[*sorted({_commit(run.result) for run in runs}),
                  *sorted({_libraries(run.result) for run in runs})],
        unit=next((p.result.privacy.unit for p in points if p.result.privacy.epsilon), "none"),
        delta=next((p.result.privacy.delta for p in points if p.result.privacy.delta), None),
        metrics=names,
        uninformed=dict(first.final.uninformed),
        sites=dict(first.data.sites),
        drawn=drawn,
        rows=_compared([_row(label, members, names[0]) for label, members in _rows(points)], drawn),
        references=_compared(list(_references(runs, names[0])), drawn),
        audits=[_audited(run) for run in audited],
        results={
            f"{folder.name}/{run.name}": _digest(folder / run.name / "result.json")
            for folder, run in read
        },
    )  # fmt: skip


def _read(folders: Sequence[Path]) -> Iterator[tuple[Path, Run]]:
    """All runs, each with its folder; of runs without privacy those that were asked for alone."""
    found = [(folder, run) for folder in folders for run in _finished(folder)]
    plain = any(r.reference is None and r.result.privacy.epsilon is None for _, r in found)
    yield from (one for one in found if not (plain and one[1].reference == "non_private"))


def _metrics(points: Sequence[Run], by: str) -> list[str]:
    """What every run has of the metrics of a summary; what they are measured by leads."""
    task = task_of(points[0].result)
    leading = by or task.leading.name
    names = [leading, *(metric.name for metric in task.summary() if metric.name != leading)]
    names = [name for name in names if all(name in run.result.final.evaluate for run in points)]
    if names[:1] != [leading]:
        raise DataError(f"not all runs have the metric {leading}; they have {', '.join(names)}")
    return names


def _finished(folder: Path) -> list[Run]:
    runs, missing = read_runs(folder)
    if missing:
        raise DataError(
            f"{folder}: not all runs have finished: {', '.join(m.name for m in missing)}"
        )
    return runs


def _same(what: str, found: set[str]) -> None:
    if len(found) != 1:
        raise DataError(f"the runs are not of one {what}: {', '.join(sorted(found)) or 'no runs'}")


def _dealt(result: ResultFile) -> str:
    """Which records there are, however a seed has dealt them out to sites and parts."""
    sizes = [size for site in result.data.sites.values() for size in (site.train, site.test)]
    return f"{result.data.name}, {total_of(sizes)} records"


def _compared(rows: list[Row], drawn: bool) -> list[Row]:
    """Rows without sites where those of one seed are not those of another."""
    return [replace(row, sites={}) for row in rows] if drawn else rows


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _commit(result: ResultFile) -> str:
    return f"commit {result.environment.commit[:12] or 'unknown'}"


def _libraries(result: ResultFile) -> str:
    return f"torch {result.environment.torch}, flwr {result.environment.flwr}"


# --- rows -----------------------------------------------------------------------------------


def _rows(points: Sequence[Run]) -> Iterator[tuple[str, Sequence[Run]]]:
    """What the runs of each row promise, the strictest first, none last."""
    groups = grouped(points)
    groups.sort(key=lambda group: (group.epsilon is None, group.epsilon or 0.0))
    for group in groups:
        first = group.runs[0].result
        budget = "none" if group.epsilon is None else f"{_budget(first)}, {_kind(first)}"
        yield budget, group.runs


def _budget(result: ResultFile) -> str:
    """What was asked for, where an epsilon was; else what was spent."""
    asked = result.config["privacy"].get("epsilon")
    return f"epsilon {asked or result.privacy.epsilon:g}"


def _kind(result: ResultFile) -> str:
    kind = str(result.config["privacy"]["kind"])
    return {"record": "each site its own noise", "distributed": "noise shared"}.get(kind, kind)


def _row(label: str, runs: Sequence[Run], leading: str) -> Row:
    results = [run.result for run in runs]
    spent = [r.privacy.epsilon for r in results if r.privacy.epsilon is not None]
    tested = [r.fairness.all_sites if r.fairness else {} for r in results]
    names = dict.fromkeys(name for r in results for name in r.final.evaluate)
    sites = set.intersection(*(set(r.final.per_site) for r in results))
    return Row(
        label=label,
        epsilon=max(spent) if spent else None,
        runs=len(runs),
        metrics={
            name: _mean([r.final.evaluate[name] for r in results], [t.get(name) for t in tested])
            for name in names
            if all(name in r.final.evaluate for r in results)
        },
        sites={site: found for site in sorted(sites) if (found := _at(results, site, leading))},
        seconds=round(statistics.median(r.seconds for r in results), 1),
        up=int(statistics.median(traffic(r)["up"] for r in results)),
        down=int(statistics.median(traffic(r)["down"] for r in results)),
    )


def _references(runs: Sequence[Run], leading: str) -> Iterator[Row]:
    pooled = reference_levels(runs, [])
    for reference, label in REFERENCES.items():
        found = [run for run in runs if run.reference == reference]
        if found and found[0].site is None:
            yield _row(label, found, leading)
        elif found:
            yield _alone(label, found, pooled[label], leading)


def _alone(label: str, runs: Sequence[Run], pooled: Mapping[str, float], leading: str) -> Row:
    """Sites that train by themselves: over the test records of all, and each on its own."""
    by_site: dict[str, list[ResultFile]] = {}
    for run in runs:
        by_site.setdefault(run.site or "", []).append(run.result)
    own = {site: _mean_of(found, leading) for site, found in sorted(by_site.items())}
    return Row(
        label=f"{label} (mean of the sites, by test records)",
        epsilon=None,
        runs=len(runs),
        metrics={name: Mean(values=[_round(v)], error=None) for name, v in pooled.items()},
        sites={site: mean for site, mean in own.items() if mean},
        seconds=round(statistics.median(run.result.seconds for run in runs), 1),
        up=0,
        down=0,
    )


def _mean_of(results: Sequence[ResultFile], metric: str) -> Mean | None:
    values = [r.final.evaluate[metric] for r in results if metric in r.final.evaluate]
    tested = [r.fairness.all_sites.get(metric) if r.fairness else None for r in results]
    return _mean(values, tested) if len(values) == len(results) else None


def _at(results: Sequence[ResultFile], site: str, leading: str) -> Mean | None:
    values = [r.final.per_site[site].get(leading) for r in results]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    tested = (r.fairness.per_site.get(site, {}) if r.fairness else {} for r in results)
    return _mean(known, [one.get(leading) for one in tested])


def _mean(values: Sequence[float], tested: Iterable[Measured | None]) -> Mean:
    errors = [error for one in tested if (error := standard_error(one)) is not None]
    return Mean(
        values=[_round(value) for value in values],
        error=_round(statistics.median(errors)) if errors else None,
    )


def standard_error(one: Measured | None) -> float | None:
    """That of a metric on its test records, from its interval of 95 percent."""
    if one is None or one.low is None or one.high is None:
        return None
    return (one.high - one.low) / WIDTH


def _round(value: float) -> float:
    """Six digits: more would differ between machines, and say nothing."""
    return float(f"{value:.6g}")


def _audited(run: Run) -> Audited:
    found = run.result.audit
    assert found is not None
    return Audited(
        row=run.name,
        promised=run.result.privacy.epsilon,
        lower_bound=found.lower_bound,
        ceiling=found.ceiling,
        seat=SEATS[found.seat],
        verdict=found.verdict,
        membership={
            one.name: Guessed(auc=_round(one.auc), ceiling=one.auc_ceiling) for one in found.attacks
        },
    )


# --- the command ----------------------------------------------------------------------------


def _command(folder: Path) -> Iterator[str]:
    """What `fedlearn compare` was given for the folder: every key with all of its values."""
    if not (folder / FILE).is_file():
        return
    points = read_comparison(folder).points
    values: dict[str, dict[str, None]] = {}
    for point in points:
        if point.reference is None:
            for word in point.overrides:
                key, _, value = word.partition("=")
                values.setdefault(key, {})[_public(value)] = None
    words = [f"{key}={','.join(found)}" for key, found in values.items()]
    baselines = ["compare.baselines=true"] if any(point.reference for point in points) else []
    yield " ".join(["fedlearn compare", *words, *baselines])


def _public(value: str) -> str:
    """A file by its name: the folder that it lay in is nobody's business."""
    return re.sub(r".*/", "", value) if value.startswith("/") else value
