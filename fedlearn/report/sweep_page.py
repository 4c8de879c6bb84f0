"""What the report of several runs shows, from their results alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from markupsafe import Markup

from fedlearn.auditing.findings import Findings
from fedlearn.core.language import ENGLISH, Figure, Locale, message
from fedlearn.report import plots
from fedlearn.report.comparison import traffic
from fedlearn.report.facts import VERSIONS, Facts
from fedlearn.report.fairness import (
    FairnessRow,
    fairness,
    fairness_plot,
    shared_column,
    shared_sites,
)
from fedlearn.report.gaps import all_gaps
from fedlearn.report.measured import MeasuredPrivacy, measured_cell, measured_texts
from fedlearn.report.own import OwnTable, compared_tables
from fedlearn.report.runs import (
    Missing,
    Run,
    RunGroup,
    SettingDifference,
    differences,
    grouped,
    reference_levels,
    short,
    telling,
)
from fedlearn.report.statement import Statement
from fedlearn.report.texts import Texts, bytes_text, texts
from fedlearn.results.reading import leading_by_site, task_of
from fedlearn.results.result import ResultFile
from fedlearn.tasks import metric_called


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the table that can be sorted: what is shown, and what it is sorted by."""

    shown: str
    key: str
    is_number: bool = True

    @classmethod
    def number(cls, value: float | None, form: str, language: Locale) -> Cell:
        """A number; without one, a dash that sorts first."""
        if value is None:
            return cls(shown="-", key="")
        return cls(shown=language.number(value, form), key=repr(value))

    @classmethod
    def text(cls, value: str) -> Cell:
        """A text; it may be that of a number."""
        return cls(shown=value, key=value, is_number=value.replace(".", "").isdigit())


@dataclass(frozen=True, kw_only=True)
class ThreatTable:
    """The threat table of the runs that share a defence."""

    name: str
    rows: tuple[tuple[str, ...], ...]
    limits: tuple[str, ...]
    runs: int = 0


@dataclass(frozen=True, kw_only=True)
class SweepPage:
    """The contents of `report.html` of several runs, in the order of the page."""

    title: str
    texts: Texts
    meanings: tuple[str, ...]
    missing: tuple[Missing, ...]
    curves: tuple[Markup, ...]
    levels: Mapping[str, Mapping[str, float]]
    """Reference lines by their label."""
    shared: tuple[str, ...]
    """The metrics that every run has."""
    sites: tuple[str, ...]
    fairness: tuple[FairnessRow, ...]
    fairness_plot: Markup | None
    own: tuple[OwnTable, ...]
    by_group: str
    """The column by which all runs tell groups of people apart; empty if they do not."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    differences: tuple[SettingDifference, ...]
    threats: tuple[ThreatTable, ...]
    statements: tuple[tuple[Statement, str], ...]
    """Every statement, and the first group of runs that makes it."""


def sweep_page(
    name: str,
    runs: Sequence[Run],
    missing: Sequence[Missing],
    hashes: Mapping[str, str],
    language: Locale = ENGLISH,
) -> SweepPage:
    """The page of `runs`; `name` is that of their folder, `hashes` are those of its files."""
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
        title=", ".join(_experiments(points)) or name,
        texts=_texts(runs, points, groups, hashes, language),
        meanings=_meanings(whole, shared, language),
        missing=tuple(missing),
        curves=tuple(_curve(groups, levels, metric, language) for metric in shared),
        levels=levels,
        shared=shared,
        sites=sites,
        fairness=tuple(fairness(group, sites, gaps, language) for group in groups) if sites else (),
        fairness_plot=fairness_plot(groups, sites, language),
        own=compared_tables(compared, language),
        by_group=shared_column(compared),
        columns=_columns(points, shared),
        rows=tuple(_row(run, points, shared, language) for run in runs),
        differences=differences(points),
        threats=_threats(runs, language),
        statements=_statements(points, language),
    )


# --- curves ------------------------------------------------------------


def _curve(
    groups: Sequence[RunGroup],
    levels: dict[str, dict[str, float]],
    metric: str,
    language: Locale,
) -> Markup:
    drawn = list(_curves(groups, metric, language))
    lines = [
        plots.Level(label=language.say(label), value=found[metric])
        for label, found in levels.items()
        if metric in found
    ]
    listed = [
        message("%(label)s, epsilon %(epsilon)s: %(value)s", label=curve.label,
                epsilon=Figure(place.x, ".3g"), value=Figure(place.mean, ".3f"))
        for curve in drawn
        for place in curve.places
    ]  # fmt: skip
    shown = [f"{line.label}: {language.number(line.value, '.3f')}" for line in lines]
    name = language.say(metric_called(metric).title)
    text = message(
        "Test %(metric)s against epsilon spent; means over seeds. %(listed)s.",
        metric=name,
        listed=language.listed([*listed, *shown], "; "),
    )
    return plots.trade_off(
        drawn, lines, metric=language.say(message("test %(metric)s", metric=name)),
        alternative=language.say(text), language=language,
    )  # fmt: skip


def _curves(groups: Sequence[RunGroup], metric: str, language: Locale) -> Iterator[plots.Curve]:
    for label in dict.fromkeys(group.curve for group in groups):
        places = [
            plots.Spread(x=group.epsilon, values=values)
            for group in groups
            if group.curve == label and group.epsilon is not None
            if (values := _values(group, metric))
        ]
        if places:
            yield plots.Curve(label=label or language.one("with privacy"), places=tuple(places))


def _values(group: RunGroup, metric: str) -> tuple[float, ...]:
    found = [run.result.final.evaluate.get(metric) for run in group.runs]
    return tuple(value for value in found if value is not None)


# --- tables and texts -----------------------------------------------------------------


def _shared_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """The metrics that every run has: what differs in kind is not compared."""
    found = [set(run.result.final.evaluate) for run in runs if run.result.final.evaluate]
    shared = set.intersection(*found) if found else set()
    known = task_of(runs[0].result).summary() if found else ()
    return tuple(metric.name for metric in known if metric.name in shared)


def _columns(points: Sequence[Run], shared: Sequence[str]) -> tuple[str, ...]:
    keys = telling(points)[:_MOST_KEYS]
    names = [metric_called(name).title for name in shared]
    measured = ["measured, of at most"] if _audited(points) else []
    return ("run", *(short(key, keys) for key in keys), "epsilon spent", *measured, *names,
            "worst site", "there", "seconds", "sent", "status")  # fmt: skip


_MOST_KEYS: Final = 4


def _row(
    run: Run, points: Sequence[Run], shared: Sequence[str], language: Locale
) -> tuple[Cell, ...]:
    result, settings = run.result, run.settings
    final, moved = result.final, sum(traffic(result).values())
    worst = final.worst_site
    keys, number = telling(points)[:_MOST_KEYS], partial(Cell.number, language=language)
    lowest = leading_by_site(result).get(worst or "")
    return (
        Cell.text(run.name),
        *(Cell.text(settings.get(key, "-")) for key in keys),
        number(result.privacy.epsilon, ".3f"),
        *([_measured(result.audit, language)] if _audited(points) else []),
        *(number(final.evaluate.get(name), ".3f") for name in shared),
        Cell.text(worst or "-"),
        number(lowest, ".3f"),
        number(result.seconds, ".1f"),
        Cell(shown=bytes_text(moved, language), key=str(moved)),
        Cell(shown=language.one(result.status), key=result.status, is_number=False),
    )


def _audited(points: Sequence[Run]) -> bool:
    return any(run.result.audit and run.result.audit.canaries for run in points)


def _measured(found: Findings | None, language: Locale) -> Cell:
    key = "" if found is None or not found.canaries else repr(found.lower_bound or math.inf)
    return Cell(shown=measured_cell(found, language), key=key)


def _experiments(points: Sequence[Run]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(run.result.config["experiment"]) for run in points))


def _texts(
    runs: Sequence[Run],
    points: Sequence[Run],
    groups: Sequence[RunGroup],
    hashes: Mapping[str, str],
    language: Locale,
) -> Texts:
    results = [run.result for run in points]
    environments = [run.result.environment for run in runs]
    values = {
        "language": language,
        "runs": runs,
        "points": points,
        "groups": groups,
        "hashes": hashes,
        "most": max((len(group.runs) for group in groups), default=1),
        "broken": {
            run.name: measured_texts(run.result.audit, language)["verdict"]
            for run in points
            if run.result.audit and MeasuredPrivacy(found=run.result.audit).broken
        },
        "experiments": _experiments(points),
        "data": list(dict.fromkeys((result.data.name, result.data.sha256) for result in results)),
        "units": list(dict.fromkeys(r.privacy.unit for r in results if r.privacy.epsilon)),
        "deltas": list(dict.fromkeys(r.privacy.delta for r in results if r.privacy.delta)),
        "started": min((run.result.started_at for run in runs), default="-"),
        "seconds": sum(run.result.seconds for run in runs),
        "versions": dict.fromkeys(
            ", ".join(f"{name} {getattr(one, name)}" for name in VERSIONS) for one in environments
        ),
        "devices": dict.fromkeys(
            message("%(device)s, %(threads)s threads", device=one.device, threads=one.threads)
            for one in environments
        ),
        "hashes_of_data": dict.fromkeys(run.result.data.sha256 for run in runs),
    }
    text: Texts = texts(values, "own", "sweep")["sweep"]
    return text


def _meanings(runs: Sequence[Run], shared: Sequence[str], language: Locale) -> tuple[str, ...]:
    if not shared:
        return ()
    facts = {"metrics": shared, "task": task_of(runs[0].result)}
    titles = {name: language.say(metric_called(name).title) for name in shared}
    values = {"facts": facts, "titles": titles, "language": language}
    card: Texts = texts(values, "card")["card"]
    return card.lines("meanings")


def _threats(runs: Sequence[Run], language: Locale) -> tuple[ThreatTable, ...]:
    tables = (_threat_table(run.result, language) for run in runs if run.reference is None)
    return tuple(replace(table, runs=count) for table, count in Counter(tables).items())


def _threat_table(result: ResultFile, language: Locale) -> ThreatTable:
    found = Facts(result=result, hashes={}, language=language).texts
    return ThreatTable(
        name=found["threats"]["name"],
        rows=found["threats"].rows("table"),
        limits=found["secagg"].lines("limits"),
    )


def _statements(points: Sequence[Run], language: Locale) -> tuple[tuple[Statement, str], ...]:
    """Every statement once, named by the first group of runs that makes it."""
    found: dict[str, tuple[Statement, str]] = {}
    for group in grouped(points):
        for run in group.runs:
            if run.result.privacy.statement not in found:
                promise = Facts(result=run.result, hashes={}, language=language).promise
                found[run.result.privacy.statement] = promise, language.say(group.label)
    return tuple(found.values())
