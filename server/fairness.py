"""For whom the final model works how well, from the test sums that sites have released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from fedlearn.config import RunConfig
from fedlearn.core.rng import Streams
from fedlearn.metrics.fairness import GroupFairness, shown
from fedlearn.metrics.intervals import CONFIDENCE, accuracy_gap, decision_gaps, measured
from fedlearn.metrics.sums import EvaluationSums
from fedlearn.results.result import FairnessResult, GroupResult, GroupsResult
from server.evaluation import GroupSums
from server.federation import Progress

ALL: Final = "all sites"

MOST_SITES: Final = 50
"""Of more sites than this, intervals are computed for those where the model does worst."""


def fairness_result(config: RunConfig, progress: Progress) -> FairnessResult | None:
    """What the latest evaluation says; None before there is one."""
    if progress.tested is None:
        return None
    streams, sites = Streams(config.seed), progress.per_site
    return FairnessResult(
        confidence=CONFIDENCE,
        all_sites=measured(progress.tested, streams.get("bootstrap", ALL)),
        per_site={
            site: measured(sums, streams.get("bootstrap", "site", site))
            for site, sums in _worst(sites)
        },
        gap=accuracy_gap(dict(sorted(sites.items())), streams.get("bootstrap", "gap")),
        groups=_groups(config.fairness, progress.groups, streams)
        if isinstance(config.fairness, GroupFairness)
        else None,
    )


def _worst(sites: Mapping[str, EvaluationSums]) -> Iterator[tuple[str, EvaluationSums]]:
    """The sites that have test records, by name; of very many those that do worst."""
    tested = [(site, sums) for site, sums in sites.items() if sums.count]
    tested.sort(key=lambda pair: (pair[1].confusion.trace() / pair[1].count, pair[0]))
    yield from sorted(tested[:MOST_SITES], key=lambda pair: pair[0])


def _groups(config: GroupFairness, sums: GroupSums, streams: Streams) -> GroupsResult:
    hidden = {site: list(names) for site, names in sorted(sums.withheld.items())}
    total = sums.pooled
    if not sums.per_site and not sums.withheld:
        # Only the sum over all sites was opened: what is too small in it goes no further.
        total, too_small = shown(sums.pooled, config.smallest)
        hidden = {ALL: list(too_small)} if too_small else {}
    return GroupsResult(
        column=config.column,
        smallest=config.smallest,
        all_sites=_measured(total, ALL, streams),
        per_site={
            site: _measured(groups, site, streams) for site, groups in sorted(sums.per_site.items())
        },
        withheld=hidden,
        gap=accuracy_gap(total, streams.get("bootstrap", "gap of groups")),
        decisions=decision_gaps(total),
    )


def _measured(
    groups: Mapping[str, EvaluationSums], where: str, streams: Streams
) -> dict[str, GroupResult]:
    return {
        name: GroupResult(
            count=sums.count,
            evaluate=measured(sums, streams.get("bootstrap", "group", where, name)),
        )
        for name, sums in groups.items()
    }
