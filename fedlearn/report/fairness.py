"""Who gets how much of a model: how every site does along a curve, and the gap between sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedlearn.report import plots
from fedlearn.report.gaps import Gaps
from fedlearn.report.groups import RunGroup
from fedlearn.report.runs import Run
from fedlearn.report.texts import up
from fedlearn.results.reading import leading_of, task_of


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
