"""What the report of several runs shows, from their results alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from fedlearn.audit.findings import Findings
from fedlearn.report import plots
from fedlearn.report.comparison import traffic
from fedlearn.report.fairness import (
    FairnessRow,
    fairness,
    fairness_plot,
    shared_column,
    shared_sites,
)
from fedlearn.report.gaps import all_gaps
from fedlearn.report.groups import RunGroup, grouped, reference_levels, short
from fedlearn.report.measured import measured_cell, verdict_line
from fedlearn.report.model_card import MEANINGS, Fact
from fedlearn.report.run_page import SHOWN, bytes_text, metric_name
from fedlearn.report.runs import Difference, Missing, Run, differences, telling
from fedlearn.report.threats import Defence, Threat, limits, threats


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the table that can be sorted: what is shown, and what it is sorted by."""

    shown: str
    key: str

    @classmethod
    def number(cls, value: float | None, form: str = ".3f") -> Cell:
        """A number; without one, a dash that sorts first."""
        if value is None:
            return cls(shown="-", key="")
        return cls(shown=f"{value:{form}}", key=repr(value))

    @classmethod
    def text(cls, value: str) -> Cell:
        """A text."""
        return cls(shown=value, key=value)


@dataclass(frozen=True, kw_only=True)
class ThreatTable:
    """The threat table of the runs that share a defence."""

    name: str
    runs: int
    rows: tuple[Threat, ...]
    limits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SweepPage:
    """The contents of `report.html` of several runs, in the order of the page."""

    title: str
    what: str
    warnings: tuple[str, ...]
    missing: tuple[Missing, ...]
    curves: tuple[Markup, ...]
    curves_note: str
    levels: tuple[Fact, ...]
    sites: tuple[str, ...]
    fairness: tuple[FairnessRow, ...]
    fairness_plot: Markup | None
    by_group: str
    """The column by which all runs tell groups of people apart; empty if they do not."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    differences: tuple[Difference, ...]
    threats: tuple[ThreatTable, ...]
    statements: tuple[Fact, ...]
    meanings: tuple[str, ...]
    provenance: tuple[Fact, ...]


def sweep_page(
    name: str, runs: Sequence[Run], missing: Sequence[Missing], hashes: tuple[Fact, ...]
) -> SweepPage:
    """The page of `runs`; `name` is that of their folder."""
    points = [run for run in runs if run.reference is None]
    # Half a run is listed, but says nothing about what a budget costs.
    whole = [run for run in runs if run.result.status == "finished"]
    compared = [run for run in whole if run.reference is None]
    groups = grouped(compared)
    shared = _shared_metrics(whole)
    levels = reference_levels(whole, compared)
    sites = shared_sites(compared)
    gaps = all_gaps({run.name: run.result for run in whole if run.site is None})
    return SweepPage(
        title=_title(points, name),
        what=_what(runs, points, groups),
        warnings=_warnings(points),
        missing=tuple(missing),
        curves=tuple(_curve(groups, levels, metric) for metric in SHOWN if metric in shared),
        curves_note=_curves_note(groups),
        levels=_level_table(levels, shared),
        sites=sites,
        fairness=tuple(fairness(group, sites, gaps) for group in groups) if sites else (),
        fairness_plot=fairness_plot(groups, sites),
        by_group=shared_column(compared),
        columns=_columns(points, shared),
        rows=tuple(_row(run, points, shared) for run in runs),
        differences=differences(points),
        threats=_threats(runs),
        statements=_statements(points),
        meanings=tuple(f"{metric_name(n)}: {MEANINGS[n]}." for n in SHOWN if n in shared),
        provenance=(*_provenance(runs), *hashes),
    )


# --- curves ------------------------------------------------------------


def _curve(groups: Sequence[RunGroup], levels: dict[str, dict[str, float]], metric: str) -> Markup:
    drawn = list(_curves(groups, metric))
    lines = [
        plots.Level(label=label, value=found[metric])
        for label, found in levels.items()
        if metric in found
    ]
    said = [
        f"{f'{curve.label}, ' if curve.label else ''}epsilon {place.x:.3g}: {place.mean:.3f}"
        for curve in drawn
        for place in curve.places
    ]
    said += [f"{line.label}: {line.value:.3f}" for line in lines]
    name = metric_name(metric)
    text = f"Test {name} against epsilon spent; means over seeds. {'; '.join(said)}."
    return plots.trade_off(drawn, lines, metric=f"test {name}", alternative=text)


def _curves(groups: Sequence[RunGroup], metric: str) -> Iterator[plots.Curve]:
    for label in dict.fromkeys(group.curve for group in groups):
        places = [
            plots.Spread(x=group.epsilon, values=values)
            for group in groups
            if group.curve == label and group.epsilon is not None
            if (values := _values(group, metric))
        ]
        if places:
            yield plots.Curve(label=label or "with privacy", places=tuple(places))


def _values(group: RunGroup, metric: str) -> tuple[float, ...]:
    found = [run.result.final.evaluate.get(metric) for run in group.runs]
    return tuple(value for value in found if value is not None)


def _curves_note(groups: Sequence[RunGroup]) -> str:
    most = max((len(group.runs) for group in groups), default=1)
    if most == 1:
        return "One run for each point: how much seeds change is not known."
    return (
        f"Lines join means; bands reach from the lowest to the highest of up to {most} runs that "
        "differ in their seed alone, and every run is a dash."
    )


def _level_table(levels: dict[str, dict[str, float]], shared: Sequence[str]) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            name=label,
            value=", ".join(
                f"{metric_name(name)} {found[name]:.3f}" for name in shared if name in found
            ),
        )
        for label, found in levels.items()
    )


# --- tables and texts -----------------------------------------------------------------


def _shared_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """The metrics that every run has: what differs in kind is not compared."""
    found = [set(run.result.final.evaluate) for run in runs if run.result.final.evaluate]
    shared = set.intersection(*found) if found else set()
    return tuple(name for name in SHOWN if name in shared)


def _columns(points: Sequence[Run], shared: Sequence[str]) -> tuple[str, ...]:
    keys = telling(points)[:_MOST_KEYS]
    names = [metric_name(name) for name in shared]
    measured = ["measured, of at most"] if _audited(points) else []
    return ("run", *(short(key, keys) for key in keys), "epsilon spent", *measured, *names,
            "worst site", "its accuracy", "seconds", "sent", "status")  # fmt: skip


_MOST_KEYS: Final = 4


def _row(run: Run, points: Sequence[Run], shared: Sequence[str]) -> tuple[Cell, ...]:
    result, settings = run.result, run.settings
    final, moved = result.final, sum(traffic(result).values())
    worst = final.worst_site
    keys = telling(points)[:_MOST_KEYS]
    lowest = final.per_site[worst]["accuracy"] if worst in final.per_site else None
    return (
        Cell.text(run.name),
        *(Cell.text(settings.get(key, "-")) for key in keys),
        Cell.number(result.privacy.epsilon),
        *([_measured(result.audit)] if _audited(points) else []),
        *(Cell.number(final.evaluate.get(name)) for name in shared),
        Cell.text(worst or "-"),
        Cell.number(lowest),
        Cell.number(result.seconds, ".1f"),
        Cell(shown=bytes_text(moved), key=str(moved)),
        Cell.text(result.status),
    )


def _audited(points: Sequence[Run]) -> bool:
    return any(run.result.audit and run.result.audit.canaries for run in points)


def _measured(found: Findings | None) -> Cell:
    key = "" if found is None or not found.canaries else repr(found.lower_bound or math.inf)
    return Cell(shown=measured_cell(found), key=key)


def _title(points: Sequence[Run], name: str) -> str:
    experiments = dict.fromkeys(str(run.result.config["experiment"]) for run in points)
    return ", ".join(experiments) or name


def _what(runs: Sequence[Run], points: Sequence[Run], groups: Sequence[RunGroup]) -> str:
    parts = [f"{len(points)} runs of {len(groups)} settings"]
    if len(runs) > len(points):
        parts.append(f"{len(runs) - len(points)} reference runs")
    seconds = sum(run.result.seconds for run in runs)
    return f"{' and '.join(parts)}; {seconds:.0f} seconds of work in all."


def _warnings(points: Sequence[Run]) -> tuple[str, ...]:
    """What makes runs hard to compare, before anybody reads a curve."""
    found = [
        f"{run.name}: {verdict_line(run.result.audit)}"
        for run in points
        if run.result.audit and run.result.audit.verdict == "PROMISE BROKEN"
    ]
    experiments = dict.fromkeys(str(run.result.config["experiment"]) for run in points)
    if len(experiments) > 1:
        found.append(
            f"These are runs of different experiments ({', '.join(experiments)}). Compared is "
            "what they share; what differs is listed below."
        )
    data = dict.fromkeys((run.result.data.name, run.result.data.sha256) for run in points)
    if len(data) > 1:
        names = ", ".join(dict.fromkeys(name for name, _ in data))
        found.append(
            f"The runs did not learn from the same data ({names}; {len(data)} hashes): a "
            "difference in a metric may come from the data alone."
        )
    units = dict.fromkeys(r.result.privacy.unit for r in points if r.result.privacy.epsilon)
    if len(units) > 1:
        found.append(
            f"Epsilons are for different units ({', '.join(units)}): they are not on one scale."
        )
    deltas = dict.fromkeys(r.result.privacy.delta for r in points if r.result.privacy.delta)
    if len(deltas) > 1:
        shown = ", ".join(f"{delta:g}" for delta in deltas)
        found.append(f"Epsilons are stated at different deltas ({shown}).")
    return tuple(found)


def _threats(runs: Sequence[Run]) -> tuple[ThreatTable, ...]:
    found: dict[tuple[Defence, tuple[str, ...]], int] = {}
    for run in runs:
        if run.reference is None:
            key = Defence.of(run.result), limits(run.result)
            found[key] = found.get(key, 0) + 1
    return tuple(
        ThreatTable(name=defence.name, runs=count, rows=threats(defence), limits=lines)
        for (defence, lines), count in found.items()
    )


def _statements(points: Sequence[Run]) -> tuple[Fact, ...]:
    """Every statement once, named by the first group of runs that makes it."""
    found: dict[str, str] = {}
    for group in grouped(points):
        for run in group.runs:
            found.setdefault(run.result.privacy.statement, group.label)
    return tuple(Fact(name=label, value=text) for text, label in found.items())


def _provenance(runs: Sequence[Run]) -> tuple[Fact, ...]:
    def each(values: Iterator[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    names = ("python", "torch", "flwr", "opacus", "cryptography")
    environments = [run.result.environment for run in runs]
    return (
        Fact(name="started", value=min((r.result.started_at for r in runs), default="-")),
        Fact(
            name="versions",
            value=each(", ".join(f"{n} {getattr(e, n)}" for n in names) for e in environments),
        ),
        Fact(name="device", value=each(f"{e.device}, {e.threads} threads" for e in environments)),
        Fact(name="SHA-256 of the data", value=each(r.result.data.sha256 for r in runs)),
    )
