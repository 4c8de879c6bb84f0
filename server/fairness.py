"""For whom the final model works how well, from the test sums that sites have released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fedlearn.config import RunConfig
from fedlearn.core.rng import Streams
from fedlearn.metrics.fairness import GroupFairness, shown
from fedlearn.metrics.intervals import CONFIDENCE, Gap, Measured, measured
from fedlearn.metrics.sums import Sums
from fedlearn.results.result import FairnessResult, GroupResult, GroupsResult
from fedlearn.tasks import Task
from server.evaluation import GroupSums
from server.federation import Progress

ALL: Final = "all sites"

MOST_SITES: Final = 50
"""Of more sites than this, intervals are computed for those where the model does worst."""


def fairness_result(config: RunConfig, task: Task, progress: Progress) -> FairnessResult | None:
    """What the latest evaluation says; None before there is one."""
    if progress.tested is None:
        return None
    intervals, sites = _Intervals(task, Streams(config.seed)), progress.per_site
    return FairnessResult(
        confidence=CONFIDENCE,
        all_sites=intervals.of(progress.tested, ALL),
        per_site={site: intervals.of(sums, "site", site) for site, sums in _worst(task, sites)},
        gap=intervals.gap(dict(sorted(sites.items())), "gap"),
        groups=_groups(config.fairness, progress.groups, intervals)
        if isinstance(config.fairness, GroupFairness)
        else None,
    )


@dataclass(frozen=True)
class _Intervals:
    task: Task
    streams: Streams

    def of(self, sums: Sums, *path: str) -> dict[str, Measured]:
        """The metrics of `sums` with intervals, by the stream of this path."""
        drawn = self.task.resampled(sums, self.streams.get("bootstrap", *path))
        return measured(self.task.metrics(sums), drawn)

    def gap(self, groups: Mapping[str, Sums], name: str) -> Gap | None:
        return self.task.gap(groups, self.streams.get("bootstrap", name))

    def by_group(self, groups: Mapping[str, Sums], where: str) -> dict[str, GroupResult]:
        return {
            name: GroupResult(count=sums.count, evaluate=self.of(sums, "group", where, name))
            for name, sums in groups.items()
        }


def _worst(task: Task, sites: Mapping[str, Sums]) -> Iterator[tuple[str, Sums]]:
    """The sites that have test records, by name; of very many those that do worst."""

    def rank(pair: tuple[str, Sums]) -> tuple[float, str]:
        return task.leading.rank(task.metrics(pair[1])[task.leading.name]), pair[0]

    tested = sorted(((site, sums) for site, sums in sites.items() if sums.count), key=rank)
    yield from sorted(tested[:MOST_SITES], key=lambda pair: pair[0])


def _groups(config: GroupFairness, sums: GroupSums, intervals: _Intervals) -> GroupsResult:
    hidden = {site: list(names) for site, names in sorted(sums.withheld.items())}
    total = sums.pooled
    if not sums.per_site and not sums.withheld:
        # Only the sum over all sites was opened: what is too small in it goes no further.
        total, too_small = shown(sums.pooled, config.smallest)
        hidden = {ALL: list(too_small)} if too_small else {}
    return GroupsResult(
        column=config.column,
        smallest=config.smallest,
        all_sites=intervals.by_group(total, ALL),
        per_site={
            site: intervals.by_group(groups, site) for site, groups in sorted(sums.per_site.items())
        },
        withheld=hidden,
        gap=intervals.gap(total, "gap of groups"),
        decisions=intervals.task.decisions(total),
    )
