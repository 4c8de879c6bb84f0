"""For whom the model of a run works how well: its sites, and groups of people where asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

from markupsafe import Markup

from fedlearn.metrics.intervals import Measured
from fedlearn.report import plots
from fedlearn.report.facts import Facts
from fedlearn.results.result import GroupResult, GroupsResult
from fedlearn.tasks import Task

_MOST_BARS: Final = 14


@dataclass(frozen=True, kw_only=True)
class WhomRow:
    """A site or a group: test records, and metrics with their intervals."""

    name: str
    records: int
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
            records=sum(size.test for size in sizes.values()),
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
