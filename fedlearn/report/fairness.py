"""For whom a model works how well: sites and groups of people in a run, and sites along a curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

from markupsafe import Markup

from fedlearn.metrics.intervals import Measured
from fedlearn.report import plots
from fedlearn.report.facts import Facts
from fedlearn.report.gaps import Gaps
from fedlearn.report.runs import Run, RunGroup
from fedlearn.report.texts import up
from fedlearn.results.reading import leading_of, task_of
from fedlearn.results.result import GroupResult, GroupsResult, total_of
from fedlearn.tasks import Task

# --- one run ---------------------------------------------------------------------------

_MOST_BARS: Final = 14


@dataclass(frozen=True, kw_only=True)
class WhomRow:
    """A site or a group: test records, and metrics with their intervals."""

    name: str
    records: int | None
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WhomTable:
    """Some groups that are to be compared with each other."""

    name: Literal["sites", "groups", "groups_by_site"]
    """What `whom.md` has a title and notes for."""
    rows: tuple[WhomRow, ...]
    total: WhomRow | None = None
    plot: Markup | None = None


def whom(facts: Facts) -> tuple[WhomTable, ...]:
    """The tables of a run that has ended; none where nothing was tested."""
    return () if facts.result.fairness is None else tuple(_tables(facts))


def _tables(facts: Facts) -> Iterator[WhomTable]:
    fairness, sizes, task = facts.result.fairness, facts.result.data.sites, facts.task
    assert fairness is not None  # noqa: S101  (asked for by the caller)
    yield WhomTable(
        name="sites",
        rows=tuple(
            WhomRow(name=site, records=sizes[site].test, values=_cells(task, found))
            for site, found in fairness.per_site.items()
        ),
        total=WhomRow(
            name="",
            records=total_of(size.test for size in sizes.values()),
            values=_cells(task, fairness.all_sites),
        ),
        plot=_plot(task, fairness.per_site, fairness.all_sites, "site"),
    )
    if fairness.groups is not None:
        yield from _groups(task, fairness.groups)


def _groups(task: Task, groups: GroupsResult) -> Iterator[WhomTable]:
    yield WhomTable(
        name="groups",
        rows=_rows(task, groups.all_sites),
        plot=_plot(task, {n: g.evaluate for n, g in groups.all_sites.items()}, {}, "group"),
    )
    if groups.per_site:
        rows = (_rows(task, found, f"{site}, ") for site, found in groups.per_site.items())
        yield WhomTable(name="groups_by_site", rows=tuple(chain.from_iterable(rows)))


def _rows(task: Task, groups: Mapping[str, GroupResult], before: str = "") -> tuple[WhomRow, ...]:
    return tuple(
        WhomRow(name=f"{before}{name}", records=one.count, values=_cells(task, one.evaluate))
        for name, one in groups.items()
    )


def _cells(task: Task, found: Mapping[str, Measured]) -> tuple[str, ...]:
    return tuple(_cell(found.get(metric.name)) for metric in task.compared())


def _cell(one: Measured | None) -> str:
    if one is None:
        return "-"
    if one.low is None or one.high is None:
        return f"{one.value:.3f}"
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _plot(
    task: Task,
    groups: Mapping[str, Mapping[str, Measured]],
    total: Mapping[str, Measured],
    what: str,
) -> Markup | None:
    name, title = task.leading.name, task.leading.title
    found = {group: measured[name] for group, measured in groups.items() if name in measured}
    if not 1 < len(found) <= _MOST_BARS:
        return None
    bars = [
        plots.Bar(label=group, value=one.value, low=one.low, high=one.high)
        for group, one in found.items()
    ]
    listed = "; ".join(f"{group} {_cell(one)}" for group, one in found.items())
    level = [plots.Level(label="all together", value=total[name].value)] if total else []
    return plots.intervals(
        bars, level, label=f"test {title}",
        alternative=f"Test {title} by {what}, with intervals: {listed}.",
    )  # fmt: skip


# --- several runs ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FairnessRow:
    """How a group of runs does at every site; means over the runs."""

    label: str
    epsilon: str
    sites: tuple[str, ...]
    worst: str
    gap: str
    added: str
    groups: str
    groups_added: str


def _mean(values: Sequence[float | None], form: str) -> str:
    """The mean, and the range where there are several; a dash unless all are known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    mean = f"{sum(known) / len(known):{form}}"
    return mean if len(known) == 1 else f"{mean} ({min(known):{form}} to {max(known):{form}})"


def shared_sites(runs: Sequence[Run]) -> tuple[str, ...]:
    """The sites that every run has tested; none if runs share no sites."""
    tested = [{s for s, found in run.result.final.per_site.items() if found} for run in runs]
    return tuple(sorted(set.intersection(*tested))) if tested else ()


def shared_column(runs: Sequence[Run]) -> str:
    """The column by which every run tells people apart; empty if they do not agree on one."""
    found = [run.result.fairness and run.result.fairness.groups for run in runs]
    columns = {groups.column if groups else "" for groups in found}
    return columns.pop() if len(columns) == 1 else ""


def _at_site(group: RunGroup, site: str) -> float:
    values = [leading_of(run.result, run.result.final.per_site[site]) for run in group.runs]
    return sum(values) / len(values)


def fairness(group: RunGroup, sites: Sequence[str], gaps: Mapping[str, Gaps]) -> FairnessRow:
    """How a group does at each of `sites`, its worst site, and the gap to the best.

    `gaps` are those of every run by name.
    """
    found = [gaps[run.name] for run in group.runs]
    means = {site: _at_site(group, site) for site in sites}
    leading = task_of(group.runs[0].result).leading
    worst = min(means, key=lambda site: leading.rank(means[site]))
    return FairnessRow(
        label=group.label,
        epsilon="none" if group.epsilon is None else up(group.epsilon),
        sites=tuple(f"{means[site]:.3f}" for site in sites),
        worst=worst,
        gap=f"{max(means.values()) - min(means.values()):.3f}",
        added=_mean([one.sites_added for one in found], "+.3f"),
        groups=_mean([one.groups for one in found], ".3f"),
        groups_added=_mean([one.groups_added for one in found], "+.3f"),
    )


def fairness_plot(groups: Sequence[RunGroup], sites: Sequence[str]) -> Markup | None:
    """How sites do along the first curve; none where there is no curve, or too many sites."""
    private = [group for group in groups if group.epsilon is not None]
    if not private or not 1 < len(sites) <= 8:
        return None
    first = [group for group in private if group.curve == private[0].curve]
    curves = [
        plots.Curve(
            label=site,
            places=tuple(
                plots.Spread(
                    x=group.epsilon or 0.0,
                    values=(_at_site(group, site),),
                )
                for group in first
            ),
        )
        for site in sites
    ]
    listed = "; ".join(
        f"{curve.label} from {curve.places[0].mean:.3f} to {curve.places[-1].mean:.3f}"
        for curve in curves
    )
    title = task_of(first[0].runs[0].result).leading.title
    text = f"Test {title} of each site, from the smallest epsilon to the largest: {listed}."
    return plots.trade_off(curves, [], metric=f"test {title}", alternative=text)
