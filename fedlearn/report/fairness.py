"""For whom a model works how well: sites and groups of people in a run, and sites along a curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final, Literal

from markupsafe import Markup

from fedlearn.core.language import ENGLISH, Figure, Locale, message
from fedlearn.metrics.intervals import Measured
from fedlearn.report import plots
from fedlearn.report.facts import Facts
from fedlearn.report.gaps import Gaps
from fedlearn.report.runs import Run, RunGroup
from fedlearn.report.texts import up
from fedlearn.results.reading import leading_by_site, task_of
from fedlearn.results.result import GroupResult, GroupsResult, total_of

# --- one run ---------------------------------------------------------------------------

_MOST_BARS: Final = 14
_BY_SITE: Final = "Test %(metric)s by site, with intervals: %(listed)s."
_BY_GROUP: Final = "Test %(metric)s by group, with intervals: %(listed)s."


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


def sites_plot(facts: Facts) -> Markup | None:
    """The leading metric at every site with its interval; none for one site, or for many."""
    if (fairness := facts.result.fairness) is None:
        return None
    return _plot(facts, fairness.per_site, fairness.all_sites, _BY_SITE)


def _tables(facts: Facts) -> Iterator[WhomTable]:
    fairness, sizes = facts.result.fairness, facts.result.data.sites
    assert fairness is not None  # noqa: S101  (asked for by the caller)
    yield WhomTable(
        name="sites",
        rows=tuple(
            WhomRow(name=site, records=sizes[site].test, values=_cells(facts, found))
            for site, found in fairness.per_site.items()
        ),
        total=WhomRow(
            name="",
            records=total_of(size.test for size in sizes.values()),
            values=_cells(facts, fairness.all_sites),
        ),
    )
    if fairness.groups is not None:
        yield from _groups(facts, fairness.groups)


def _groups(facts: Facts, groups: GroupsResult) -> Iterator[WhomTable]:
    yield WhomTable(
        name="groups",
        rows=_rows(facts, groups.all_sites),
        plot=_plot(facts, {n: g.evaluate for n, g in groups.all_sites.items()}, {}, _BY_GROUP),
    )
    if groups.per_site:
        rows = (_rows(facts, found, f"{site}, ") for site, found in groups.per_site.items())
        yield WhomTable(name="groups_by_site", rows=tuple(chain.from_iterable(rows)))


def _rows(facts: Facts, groups: Mapping[str, GroupResult], before: str = "") -> tuple[WhomRow, ...]:
    return tuple(
        WhomRow(name=f"{before}{name}", records=one.count, values=_cells(facts, one.evaluate))
        for name, one in groups.items()
    )


def _cells(facts: Facts, found: Mapping[str, Measured]) -> tuple[str, ...]:
    metrics = facts.task.compared()
    return tuple(measured_cell(found.get(metric.name), facts.language) for metric in metrics)


def measured_cell(one: Measured | None, language: Locale) -> str:
    """A metric and its interval in a few characters."""
    if one is None:
        return "-"
    value = language.number(one.value, ".3f")
    if one.low is None or one.high is None:
        return value
    between = "; " if language.decimal == "," else ", "
    ends = between.join(language.number(end, ".3f") for end in (one.low, one.high))
    return f"{value} [{ends}]"


def _plot(
    facts: Facts,
    groups: Mapping[str, Mapping[str, Measured]],
    total: Mapping[str, Measured],
    pattern: str,
) -> Markup | None:
    language, name = facts.language, facts.task.leading.name
    title = language.say(facts.task.leading.title)
    found = {group: measured[name] for group, measured in groups.items() if name in measured}
    if not 1 < len(found) <= _MOST_BARS:
        return None
    bars = [
        plots.Bar(label=group, value=one.value, low=one.low, high=one.high)
        for group, one in found.items()
    ]
    listed = language.listed(
        (f"{g} {measured_cell(one, language)}" for g, one in found.items()), "; "
    )
    all_of_it = language.one("all together")
    level = [plots.Level(label=all_of_it, value=total[name].value)] if name in total else []
    return plots.intervals(
        bars, level, label=language.say(message("test %(metric)s", metric=title)),
        alternative=language.say(message(pattern, metric=title, listed=listed)), language=language,
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


def _mean(values: Sequence[float | None], form: str, language: Locale) -> str:
    """The mean, and the range where there are several; a dash unless all are known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    ends = {"low": Figure(min(known), form), "high": Figure(max(known), form)}
    mean = Figure(sum(known) / len(known), form)
    several = message("%(mean)s (%(low)s to %(high)s)", mean=mean, **ends)
    return str(language.say(mean if len(known) == 1 else several))


def shared_sites(runs: Sequence[Run]) -> tuple[str, ...]:
    """The sites at which every run has the leading metric; none if runs share no sites."""
    tested = [set(leading_by_site(run.result)) for run in runs]
    return tuple(sorted(set.intersection(*tested))) if tested else ()


def shared_column(runs: Sequence[Run]) -> str:
    """The column by which every run tells people apart; empty if they do not agree on one."""
    found = [run.result.fairness and run.result.fairness.groups for run in runs]
    columns = {groups.column if groups else "" for groups in found}
    return columns.pop() if len(columns) == 1 else ""


def _at_site(group: RunGroup, site: str) -> float:
    values = [leading_by_site(run.result)[site] for run in group.runs]
    return sum(values) / len(values)


def fairness(
    group: RunGroup, sites: Sequence[str], gaps: Mapping[str, Gaps], language: Locale = ENGLISH
) -> FairnessRow:
    """How a group does at each of `sites`, its worst site, and the gap to the best.

    `gaps` are those of every run by name.
    """
    found = [gaps[run.name] for run in group.runs]
    means = {site: _at_site(group, site) for site in sites}
    leading = task_of(group.runs[0].result).leading
    worst = min(means, key=lambda site: leading.rank(means[site]))
    mean = partial(_mean, language=language)
    return FairnessRow(
        label=language.say(group.label),
        epsilon=language.one("none") if group.epsilon is None else up(group.epsilon, language),
        sites=tuple(language.number(means[site], ".3f") for site in sites),
        worst=worst,
        gap=language.number(max(means.values()) - min(means.values()), ".3f"),
        added=mean([one.sites_added for one in found], "+.3f"),
        groups=mean([one.groups for one in found], ".3f"),
        groups_added=mean([one.groups_added for one in found], "+.3f"),
    )


def fairness_plot(
    groups: Sequence[RunGroup], sites: Sequence[str], language: Locale = ENGLISH
) -> Markup | None:
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
    ends = [
        message("%(site)s from %(first)s to %(last)s", site=curve.label,
                first=Figure(curve.places[0].mean, ".3f"),
                last=Figure(curve.places[-1].mean, ".3f"))
        for curve in curves
    ]  # fmt: skip
    title = language.say(task_of(first[0].runs[0].result).leading.title)
    text = message(
        "Test %(metric)s of each site, from the smallest epsilon to the largest: %(listed)s.",
        metric=title,
        listed=language.listed(ends, "; "),
    )
    return plots.trade_off(
        curves, [], metric=language.say(message("test %(metric)s", metric=title)),
        alternative=language.say(text), language=language,
    )  # fmt: skip
