"""For whom the model of a run works how well: its sites, and groups of people where asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from fedlearn.metrics.intervals import Gap, Measured
from fedlearn.report import plots
from fedlearn.results.result import GroupResult, GroupsResult, Result

SHOWN: Final = ("accuracy", "balanced_accuracy", "auc")
_MOST_BARS: Final = 14


@dataclass(frozen=True, kw_only=True)
class WhomRow:
    """A site or a group: test records, and metrics with their intervals."""

    name: str
    records: str
    values: tuple[str, ...]
    is_total: bool = False


@dataclass(frozen=True, kw_only=True)
class WhomTable:
    """Some groups that are to be compared with each other."""

    title: str
    rows: tuple[WhomRow, ...]
    notes: tuple[str, ...]
    plot: Markup | None = None


@dataclass(frozen=True, kw_only=True)
class Whom:
    """The section of the report."""

    columns: tuple[str, ...]
    note: str
    tables: tuple[WhomTable, ...]


def whom(result: Result) -> Whom | None:
    """The section on a run that has ended; None where nothing was tested."""
    fairness = result.fairness
    if fairness is None:
        return None
    return Whom(
        columns=SHOWN,
        note=f"In brackets: {fairness.confidence:.0%} intervals, by drawing the test records anew "
        "(bootstrap). They say how sure a number is for people like these, not how much another "
        "training run would differ.",
        tables=(_sites(result), *_groups(fairness.groups)),
    )


def _sites(result: Result) -> WhomTable:
    assert result.fairness is not None  # noqa: S101  (asked for by the caller)
    fairness, sizes = result.fairness, result.data.sites
    rows = [
        WhomRow(name=site, records=f"{sizes[site].test:,}", values=_cells(found))
        for site, found in fairness.per_site.items()
    ]
    total = WhomRow(
        name="all sites together",
        records=f"{sum(size.test for size in sizes.values()):,}",
        values=_cells(fairness.all_sites),
        is_total=True,
    )
    notes = [_gap(fairness.gap, "sites")] if fairness.gap else []
    if not fairness.per_site:
        notes.append("Only the sum over the sites was opened: nothing is known of a single one.")
    elif len(fairness.per_site) < len(sizes):
        notes.append("Of many sites, those where the model does worst; sites without test records "
                     "are left out.")  # fmt: skip
    return WhomTable(
        title="Sites",
        rows=(*rows, total),
        notes=tuple(notes),
        plot=_plot(fairness.per_site, fairness.all_sites, "site"),
    )


def _groups(groups: GroupsResult | None) -> Iterator[WhomTable]:
    if groups is None:
        return
    notes = [_gap(groups.gap, "groups")] if groups.gap else []
    notes += [f"{name.replace('_', ' ')}: {value:.3f}. {_DECISIONS[name]}"
              for name, value in groups.decisions.items()]  # fmt: skip
    yield WhomTable(
        title=f"People by {groups.column}, at all sites that show them",
        rows=_rows(groups.all_sites),
        notes=(*notes, *_withheld(groups)),
        plot=_plot({n: g.evaluate for n, g in groups.all_sites.items()}, {}, "group"),
    )
    if groups.per_site:
        rows = [row for site, found in groups.per_site.items() for row in _rows(found, f"{site}, ")]
        yield WhomTable(title=f"People by {groups.column}, by site", rows=tuple(rows), notes=())


_DECISIONS: Final = {
    "demographic_parity_difference": "The largest difference between groups in how often the "
    "model says the second class; groups in which it is not equally frequent must differ.",
    "equalized_odds_difference": "The largest difference between groups in how often the model "
    "finds the second class where it is, or says it where it is not.",
}


def _rows(groups: Mapping[str, GroupResult], before: str = "") -> tuple[WhomRow, ...]:
    return tuple(
        WhomRow(name=f"{before}{name}", records=f"{one.count:,}", values=_cells(one.evaluate))
        for name, one in groups.items()
    )


def _withheld(groups: GroupsResult) -> Iterator[str]:
    if not groups.withheld:
        return
    listed = "; ".join(f"{site}: {', '.join(names)}" for site, names in groups.withheld.items())
    yield (
        f"Not shown, because a group has fewer than {groups.smallest} test records, or because "
        f"one that has could be found by subtraction: {listed}."
    )


def _gap(gap: Gap, among: str) -> str:
    more = "more" if gap.value > gap.by_chance else "no more"
    return (
        f"Accuracy is {gap.value:.3f} apart between {gap.best} (best) and {gap.worst} (worst): "
        f"{more} than the {gap.by_chance:.3f} that {among} of these sizes stay below in 95 of 100 "
        "cases when the model does equally well for all of them."
    )


def _cells(found: Mapping[str, Measured]) -> tuple[str, ...]:
    return tuple(_cell(found.get(name)) for name in SHOWN)


def _cell(one: Measured | None) -> str:
    if one is None:
        return "-"
    if one.low is None or one.high is None:
        return f"{one.value:.3f}"
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _plot(
    groups: Mapping[str, Mapping[str, Measured]], total: Mapping[str, Measured], what: str
) -> Markup | None:
    found = {name: m["accuracy"] for name, m in groups.items() if "accuracy" in m}
    if not 1 < len(found) <= _MOST_BARS:
        return None
    bars = [
        plots.Bar(label=name, value=one.value, low=one.low, high=one.high)
        for name, one in found.items()
    ]
    said = "; ".join(f"{name} {_cell(one)}" for name, one in found.items())
    level = [plots.Level(label="all together", value=total["accuracy"].value)] if total else []
    return plots.intervals(
        bars, level, label="test accuracy",
        alternative=f"Test accuracy by {what}, with intervals: {said}.",
    )  # fmt: skip
