"""For whom the model of a run works how well: its sites, and groups of people where asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from markupsafe import Markup

from fedlearn.metrics.intervals import Measured
from fedlearn.report import plots
from fedlearn.results.result import GroupResult, GroupsResult, Result

SHOWN: Final = ("accuracy", "balanced_accuracy", "auc")
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


def whom(result: Result) -> tuple[WhomTable, ...]:
    """The tables of a run that has ended; none where nothing was tested."""
    return () if result.fairness is None else tuple(_tables(result))


def _tables(result: Result) -> Iterator[WhomTable]:
    fairness, sizes = result.fairness, result.data.sites
    assert fairness is not None  # noqa: S101  (asked for by the caller)
    yield WhomTable(
        name="sites",
        rows=tuple(
            WhomRow(name=site, records=sizes[site].test, values=_cells(found))
            for site, found in fairness.per_site.items()
        ),
        total=WhomRow(
            name="",
            records=sum(size.test for size in sizes.values()),
            values=_cells(fairness.all_sites),
        ),
        plot=_plot(fairness.per_site, fairness.all_sites, "site"),
    )
    if fairness.groups is not None:
        yield from _groups(fairness.groups)


def _groups(groups: GroupsResult) -> Iterator[WhomTable]:
    yield WhomTable(
        name="groups",
        rows=_rows(groups.all_sites),
        plot=_plot({n: g.evaluate for n, g in groups.all_sites.items()}, {}, "group"),
    )
    if groups.per_site:
        rows = [row for site, found in groups.per_site.items() for row in _rows(found, f"{site}, ")]
        yield WhomTable(name="groups_by_site", rows=tuple(rows))


def _rows(groups: Mapping[str, GroupResult], before: str = "") -> tuple[WhomRow, ...]:
    return tuple(
        WhomRow(name=f"{before}{name}", records=one.count, values=_cells(one.evaluate))
        for name, one in groups.items()
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
