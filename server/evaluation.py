"""Test sums as sites release them: asked for, checked, put together, told apart by site and group.

From them follows for whom a model works how well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final

from flwr.app import Message, RecordDict

from fedlearn.agreement import evaluates_in_sum, noised_sums_of, request_digest
from fedlearn.config import RunConfig
from fedlearn.core.errors import FedlearnError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import Replies
from fedlearn.mechanisms import EvaluationPlan
from fedlearn.metrics.by_class import ByClass
from fedlearn.metrics.fairness import Fairness, GroupFairness, groups_of, shown
from fedlearn.metrics.intervals import CONFIDENCE, Gap, Measured, measured
from fedlearn.metrics.sums import Sums
from fedlearn.metrics.survival import SurvivalCurves
from fedlearn.results.result import FairnessResult, GroupResult, GroupsResult, OwnResult, Take
from fedlearn.rounds import EvaluateReply
from fedlearn.tasks import Task
from server.run_cost import spent_besides
from server.run_state import GroupSums, OwnSums, Progress, ReleasedSums, RunState

log = logging.getLogger(__name__)

ALL: Final = "all sites"

MOST_SITES: Final = 50
"""Of more sites than this, intervals are computed for those where the model does worst."""


def evaluate(run: RunState, number: int, shown: Vector, there: Sequence[str]) -> ReleasedSums:
    """What sites among those that are `there` release of a model under the number of a round, or
    of the test.

    Raises:
        ProtocolError: too few sites gave what can be tested with.
        PrivacyError: a site cannot pay for it, and the run stops for that.
    """
    task = run.enrolment.task
    summed = run.summing and evaluates_in_sum(run.config)
    # Who did not answer a moment ago would be missed by the masks of the others; and who is
    # left out for a lie could spoil a sum in which nobody sees it.
    heard = [site for site in there if site not in run.without]
    sites = heard if summed else run.grid.sites
    note = run.note(number, len(sites))
    messages = run.messages("evaluate", note, shown, sites)
    if run.summing and summed:
        request = request_digest(note, shown, {})
        _account(run, number, sites)
        opened = run.summing.evaluate(number, messages, request, task, run.without)
        return ReleasedSums(
            sums=opened.total,
            groups=GroupSums(pooled=opened.groups),
            own=OwnSums(pooled=opened.own),
        )
    reported = _reported(run, number, messages)
    per_site = {site: reply.sums for site, reply in reported.items()}
    return ReleasedSums(
        sums=pooled(task, per_site),
        per_site=per_site,
        groups=group_sums(task, reported),
        own=own_sums(task, reported),
    )


def _reported(run: RunState, number: int, messages: Sequence[Message]) -> dict[str, EvaluateReply]:
    """What every site has told of its own."""
    task, fairness = run.enrolment.task, run.config.fairness
    evaluation = run.mechanism.evaluation
    if evaluation is None:
        read = partial(flower.read_evaluate_reply, layout=task.sum_layout)
        own = run.config.compares_own
        check = partial(check_sums, task=task, fairness=fairness, own=own)
        replies = run.grid.exchange(messages, check=check)
        _warn_of(number, replies)
        return {site: read(reply.content) for site, reply in replies.answers.items()}
    read_noised = partial(
        noised_reply, task=task, fairness=fairness, plan=evaluation, number=number
    )
    try:
        replies = run.grid.exchange(messages, check=read_noised)
    except (FedlearnError, KeyboardInterrupt):  # whoever was asked may have paid
        _account(run, number, run.grid.sites)
        raise
    _warn_of(number, replies)
    refused = {one.site for one in replies.refusals if one.of_budget}
    _account(run, number, [s for s in run.grid.sites if s not in refused])
    run.check_budget(replies)
    return {site: read_noised(reply.content) for site, reply in replies.answers.items()}


def _account(run: RunState, number: int, asked: Sequence[str]) -> None:
    """Keep what private test figures have cost every site that was asked for them."""
    if run.plan is not None and run.plan.evaluation is not None:
        event = run.plan.evaluation.event_at(number)
        run.progress.spent = spent_besides(event, run.progress.spent, asked)


def _warn_of(number: int, replies: Replies) -> None:
    """Name the sites whose test figures are missing."""
    for site, reason in replies.failures.items():
        log.warning("round %d is evaluated without %s: %s", number, site, reason)


def check_sums(content: RecordDict, task: Task, fairness: Fairness, *, own: bool = False) -> None:
    """Refuse test sums that cannot be added to those of the other sites.

    Raises:
        ValueError: they are of another form, of no possible records, of a group that nobody
            asked for, or without those of a site's own model where it has one.
    """
    reply = flower.read_evaluate_reply(content, task.sum_layout)
    if not {*reply.groups, *reply.withheld} <= set(groups_of(fairness)):
        raise ValueError("test sums of a group that nobody asked for")
    if own != (reply.own is not None):
        raise ValueError("test sums of a site's own model are missing, or asked for by nobody")
    if reply.own is not None and reply.own.count != reply.sums.count:
        raise ValueError("test sums of a site's own model are of other records")
    for sums in (reply.sums, *reply.groups.values(), *([reply.own] if reply.own else [])):
        task.check_sums(sums)


def noised_reply(
    content: RecordDict, task: Task, fairness: Fairness, plan: EvaluationPlan, number: int
) -> EvaluateReply:
    """What a single site has told with all of its noise; groups that noise leaves too few
    records are not shown.

    Raises:
        ValueError: it has another form; other errors where parts are missing.
    """
    counters = flower.read_noised_reply(content, plan.dimension)
    found = noised_sums_of(counters, task, fairness, plan, number, 1)
    for one in found.all:
        task.check_sums(one)
    smallest = fairness.smallest if isinstance(fairness, GroupFairness) else 1
    seen, hidden = shown(found.groups, smallest)
    site = str(content.config_records["site"]["name"])
    return EvaluateReply(site=site, sums=found.total, groups=seen, withheld=hidden, own=found.own)


def own_sums(task: Task, reported: Mapping[str, EvaluateReply]) -> OwnSums:
    """What sites have told of their own models, and the sum of that over the sites."""
    found = {site: one.own for site, one in reported.items() if one.own is not None}
    return OwnSums(per_site=found, pooled=pooled(task, found) if found else None)


def group_sums(task: Task, reported: Mapping[str, EvaluateReply]) -> GroupSums:
    """What sites have shown of their groups, and the sums of that over the sites."""
    parts: dict[str, list[Sums]] = {}
    for _, reply in sorted(reported.items()):
        for name, sums in reply.groups.items():
            parts.setdefault(name, []).append(sums)
    return GroupSums(
        per_site={site: reply.groups for site, reply in reported.items() if reply.groups},
        withheld={site: reply.withheld for site, reply in reported.items() if reply.withheld},
        pooled={name: task.added(sums) for name, sums in parts.items()},
    )


def pooled(task: Task, per_site: Mapping[str, Sums]) -> Sums:
    """The sums over all sites, added in the order of their names.

    Raises:
        ProtocolError: there is none.
    """
    if not per_site:
        raise ProtocolError("", "evaluate", "no site answered")
    return task.added([per_site[site] for site in sorted(per_site)])


def fairness_result(
    config: RunConfig, task: Task, tested: Sums, sites: Mapping[str, Sums], groups: GroupSums
) -> FairnessResult:
    """For whom a model works how well: over all sites (`tested`), and by site and group."""
    intervals = _Intervals(task, Streams(config.seed))
    return FairnessResult(
        confidence=CONFIDENCE,
        all_sites=intervals.of(tested, ALL),
        per_site={site: intervals.of(sums, "site", site) for site, sums in _worst(task, sites)},
        gap=intervals.gap(dict(sorted(sites.items())), "gap"),
        groups=_groups(config.fairness, groups, intervals)
        if isinstance(config.fairness, GroupFairness)
        else None,
    )


RECORDS_PER_NUMBER: Final = 10
"""A site with fewer training records for every number that it learns is too small for a model of
its own (ten events a variable: Peduzzi et al. 1996)."""


def own_result(
    config: RunConfig,
    task: Task,
    progress: Progress,
    records: Mapping[str, int | None],
    numbers: int,
) -> OwnResult | None:
    """How sites' own models do; None where they have none beside the shared one.

    `records` are those that sites train on, None where that is a secret: then all count as the
    public `training.nominal_records`. `numbers` are those that are trained.
    """
    own, validated = progress.own, progress.validated
    if own.pooled is None:
        return None
    intervals = _Intervals(task, Streams(config.seed))
    by_size = _by_size(config, records, numbers)
    chosen = _by_validation(task, validated) if validated else {}
    return OwnResult(
        confidence=CONFIDENCE,
        all_sites=intervals.of(own.pooled, "own", ALL),
        per_site={s: intervals.of(sums, "own", s) for s, sums in _worst(task, own.per_site)},
        take=by_size | {site: which for site, which in chosen.items() if site in by_size},
        by="validation" if chosen else "records",
    )


def _by_size(config: RunConfig, records: Mapping[str, int | None], numbers: int) -> dict[str, Take]:
    """A site that is too small takes the shared model."""
    least, nominal = RECORDS_PER_NUMBER * numbers, config.training.nominal_records
    sizes = {site: nominal if count is None else count for site, count in records.items()}
    return {s: "own" if size >= least else "shared" for s, size in sorted(sizes.items())}


def _by_validation(task: Task, validated: ReleasedSums) -> dict[str, Take]:
    """A site takes the model that does better on its validation records, in a tie the shared."""
    found, leading = dict[str, Take](), task.leading
    for site, own in sorted(validated.own.per_site.items()):
        values = [task.metrics(one).get(leading.name) for one in (own, validated.per_site[site])]
        if own.count and None not in values:
            mine, shared = (leading.rank(float(value or 0.0)) for value in values)
            found[site] = "own" if mine > shared else "shared"
    return found


def by_class_result(
    config: RunConfig, task: Task, tested: Sums, sites: Mapping[str, Sums]
) -> ByClass | None:
    """What a model is worth class by class: over all sites, and at those that have records."""
    rng = Streams(config.seed).get("bootstrap", "by_class")
    return task.by_class(tested, dict(_worst(task, sites)), rng)


def curves_result(
    config: RunConfig, task: Task, tested: Sums, sites: Mapping[str, Sums]
) -> SurvivalCurves | None:
    """How records fare over time: over all sites, and at those that have enough of them."""
    rng = Streams(config.seed).get("bootstrap", "curves")
    return task.curves(tested, dict(_worst(task, sites)), rng)


@dataclass(frozen=True)
class _Intervals:
    task: Task
    streams: Streams

    def of(self, sums: Sums, *path: str) -> dict[str, Measured]:
        """The metrics of `sums` with intervals, by the stream of this path."""
        resampled = self.task.resampled_noised if sums.noise else self.task.resampled
        drawn = resampled(sums, self.streams.get("bootstrap", *path))
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
        value = task.metrics(pair[1]).get(task.leading.name)
        return inf if value is None else task.leading.rank(value), pair[0]

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
