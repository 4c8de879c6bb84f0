"""A run, as the coordinator sees it: enrol the sites, then round after round.

The algorithm decides what goes to the sites and how their mean becomes a model;
the rest is here: sites by name, a cohort from the run seed, a quorum, checkpoints,
and a result that is true whenever the run ends.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedlearn import flower
from fedlearn.agreement import (
    evaluates_in_sum,
    request_digest,
    rotation_context,
    route_of,
    stack_of,
)
from fedlearn.algorithms import Algorithm, RoundMean, State, Vectors, cohort_size
from fedlearn.config import RunConfig
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.mechanisms import UNPROTECTED, PrivacyPlan
from fedlearn.metrics.sums import Sums
from fedlearn.privacy import Event, NoiseSource
from fedlearn.privacy.noise import noise_of
from fedlearn.results.result import Attendance, RefusedSum, RoundResult, sites_of_refused
from fedlearn.robust import left_out, suspects
from fedlearn.rounds import EvaluateReply, RoundNote
from fedlearn.stages import MODEL, Route, ServerRound, Stack, Total
from server.audit import SlotsSeen, seen_in_slots
from server.average import RunningMean, arriving
from server.enrol import Enrolment, listed, raise_refusals
from server.evaluation import GroupSums, check_sums, group_sums, noised_reply, pooled
from server.grid import Replies, SiteGrid
from server.run_cost import epsilon_of, spent_in_evaluation, spent_in_round
from server.secagg import Aggregate, SecAggDriver, UnusableError

log = logging.getLogger(__name__)


class PoisonedError(ProtocolError):
    """More sums were refused than a run allows: to go on with the same sites is of no use."""


@dataclass
class Progress:
    """What is known after a number of rounds; grows in place."""

    rounds: list[RoundResult]
    model: Vector
    spent: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    """What every site has spent in this run, by its own account."""
    per_site: dict[str, Sums] = field(default_factory=dict)
    """The latest test sums of every site, where sites release them."""
    tested: Sums | None = None
    """The latest test sums over all sites."""
    groups: GroupSums = field(default_factory=GroupSums)
    """The latest test sums of groups of people, where the run tells them apart."""
    clip_norm: float | None = None
    """The norm of the next round, where it has moved."""
    mean: RunningMean | None = None
    """Of the models over rounds, where the config asks for one."""
    algorithm: State = field(default_factory=dict)
    """What the algorithm carries to the next round."""
    counted: dict[str, int] = field(default_factory=dict)
    """The last round that a site was counted in, where sites keep a state of their own."""
    opened: NDArray[np.float64] | None = None
    """The sum of all updates so far, where a rule holds it to a bound."""
    seen: SlotsSeen | None = None
    """What the last round showed in audit slots, where there are any."""

    @property
    def shown(self) -> Vector:
        """The model that is tested and kept: the last, or the running mean."""
        return self.mean.model() if self.mean and self.mean.count else self.model

    @property
    def refused(self) -> list[list[str]]:
        """The sites of every sum that was refused."""
        return sites_of_refused(self.rounds)

    @property
    def done(self) -> int:
        """Rounds that have moved the model."""
        return len(self.rounds) - len(self.refused)


@dataclass
class Federation:
    """One run over enrolled sites; `run_round` is called with 1, 2, ..., in order."""

    config: RunConfig
    plan: PrivacyPlan | None
    enrolment: Enrolment
    progress: Progress
    run_id: str
    summing: SecAggDriver[Any] | None
    resumed: bool = False
    """Whether the run goes on from a checkpoint."""
    route: Route = field(init=False)
    """What happens to an update; the same list as at the sites."""
    stack: Stack = field(init=False)
    first: int = field(init=False)
    """The first round of this process."""

    def __post_init__(self) -> None:
        self.first = len(self.progress.rounds) + 1
        self.route = route_of(self.config, self.plan)
        self.stack = stack_of(self.config, self.enrolment.layout.size)

    @property
    def mechanism(self) -> PrivacyPlan:
        """The plan; what stands for it where nothing is promised."""
        return self.plan or UNPROTECTED

    @property
    def algorithm(self) -> Algorithm:
        """What the sites do besides training, and how their mean becomes the next model."""
        return self.config.strategy

    @property
    def rule(self) -> str:
        """What rule the updates of this run are held to, or their sums, if to any."""
        if self.config.robust.in_clear:
            return self.config.robust.kind
        bounded = self.summing and self.summing.bound(self.mechanism.round_norm(None))
        return self.config.robust.kind if bounded else "none"

    @property
    def grid(self) -> SiteGrid:
        """The sites."""
        return self.enrolment.grid

    @property
    def goes_on(self) -> bool:
        """Whether another round follows.

        Where rounds are paid for, one that was refused leaves one less to learn in.

        Raises:
            PoisonedError: more rounds were refused than may be.
        """
        most, refused = self.config.robust.most_refused, self.progress.refused
        if len(refused) > most:
            last = next(one.refused for one in reversed(self.progress.rounds) if one.refused)
            raise PoisonedError("", "sum", _too_many(most, last.reason, suspects(refused)))
        used = len(self.progress.rounds)
        return self.progress.done < self.config.rounds and used < self.config.most_rounds

    def run_round(self, number: int) -> RoundResult:
        """Train the cohort, take in its replies, and evaluate where the config asks for it.

        Raises:
            ProtocolError: fewer than `strategy.min_sites` usable replies.
            PrivacyError: the sites refused for privacy, and too few are left.
        """
        started = time.monotonic()
        if self.grid.sealing:
            self.grid.sealing.round = number
        invited = self._cohort(number)
        cohort, asked = self._able(number, invited)
        train, refused_sum = self._train(number, cohort)
        silent = asked.failures | train.failures
        there = [site for site in self.grid.sites if site not in silent]
        evaluated = self._evaluated(number, there) if self.config.evaluates(number) else {}
        refused = {one.site: one.reason for one in (*asked.refusals, *train.refusals)}
        dropped = silent | refused
        entry = RoundResult(
            round=number,
            seconds=time.monotonic() - started,
            loss=evaluated.get("loss"),
            evaluate={**evaluated},
            clients=Attendance(invited=len(invited), replied=len(train.answers), dropped=dropped),
            bytes=self.grid.traffic.take(),
            epsilon={**self.epsilons()},
            refused=refused_sum,
        )
        self.progress.rounds.append(entry)
        return entry

    def epsilons(self) -> dict[str, float]:
        """Epsilon of this run so far, for every site that trained under privacy."""
        if self.plan is None:
            return {}
        spent = sorted(self.progress.spent.items())
        return {site: epsilon_of(self.plan, events) for site, events in spent}

    def noise(self, number: int) -> NoiseSource:
        """The coordinator's own randomness in a round: whom it asks and what it adds."""
        return noise_of(os.environ, "server", number)

    def _cohort(self, number: int) -> list[str]:
        sites = self.grid.sites
        chosen = self.mechanism.cohort(sites, self.noise(number))
        if chosen is not None:
            return chosen
        size = cohort_size(self.config.strategy, len(sites))
        if size >= len(sites):
            return self._without_suspect(sites)
        drawn = Streams(self.config.seed).get("cohort", number).choice(len(sites), size, False)
        return [sites[i] for i in sorted(drawn)]

    def _without_suspect(self, sites: list[str]) -> list[str]:
        """All sites but, once a sum was refused, one of those that were in it.

        Sums over other sites tell single updates apart, so that only updates which are protected
        by themselves are summed so.
        """
        least = max(self.config.secagg.least, self._least(sites))
        if not self.mechanism.protects_alone or len(sites) <= least:
            return sites
        suspect = left_out(self.progress.refused, self.config.seed)
        return [site for site in sites if site != suspect]

    def _able(self, number: int, invited: list[str]) -> tuple[list[str], Replies]:
        """Those who can pay for the round, and what all said; nothing is spent to ask.

        Raises:
            PrivacyError, DataError: one cannot and the run stops for it, or too few can.
        """
        if self.plan is None:
            return invited, Replies({}, [], {})
        question = flower.afford_request(self._note(number, len(invited)))
        replies = self.grid.ask(flower.AFFORD, question, invited)
        if not self.config.privacy.drops_sites:
            raise_refusals(replies.refusals)
        if len(replies.answers) < self._least(invited):
            raise_refusals(replies.refusals)
        return list(replies.answers), replies

    def _least(self, invited: Sequence[str]) -> int:
        """The fewest sites for a round; secret coins may invite fewer than the config asks for."""
        wanted = min(self.config.strategy.min_sites, len(self.grid.sites))
        return max(self.mechanism.quorum(wanted, len(invited)), self.config.robust.fewest)

    def _note(self, number: int, cohort: int) -> RoundNote:
        clip_norm = self.mechanism.round_norm(self.progress.clip_norm)
        terms = self.config.terms.hex()
        return RoundNote(
            terms=terms, run_id=self.run_id, round=number, cohort=cohort, clip_norm=clip_norm
        )

    def _train(self, number: int, cohort: Sequence[str]) -> tuple[Replies, RefusedSum | None]:
        before = self.progress.model
        besides = self.algorithm.broadcast(self.progress.algorithm, before.size)
        # With nobody chosen the round goes on all the same: the noise alone is released.
        at, note = self._at(number), self._note(number, len(cohort))
        wanted = self._messages("train", note, before, cohort, besides)
        request = request_digest(note, before, besides)
        aggregate = self._collect(number, cohort, wanted, request, at)
        replies = aggregate.replies
        self._account(aggregate.asked, replies)
        self._check_budget(replies)
        if aggregate.failure is not None:
            raise aggregate.failure
        self._check_quorum(number, cohort, replies)
        total, there = aggregate.total(), list(replies.answers)
        if reason := self._impossible(total, there, at):
            log.warning("round %d: the sum of %s is refused: %s", number, ", ".join(there), reason)
            return replies, RefusedSum(reason=reason, sites=there)
        self._step(number, self._released(total, at), there, at.share)
        return replies, None

    def _impossible(self, total: Total, sites: Sequence[str], at: ServerRound) -> str | None:
        """Why honest sites cannot have made a sum; None where they can, or no rule says so.

        What is taken counts in the sum of all so far.
        """
        if self.summing is None:
            return None
        bound = self.summing.bound(at.clip_norm)
        if bound is None:
            return None
        weight = self._weight(sites, total.weight)
        if total.weight != weight:
            return f"its weights add up to {total.weight:g}, those of its sites to {weight:g}"
        before = Total(
            values=np.zeros(1) if self.progress.opened is None else self.progress.opened,
            weight=sum(one.clients.replied for one in self.progress.rounds if not one.refused),
            counters=total.counters,
        )
        reason = self.config.robust.refuses(bound, total, before)
        if reason is None and bound.reach.adds_up:
            self.progress.opened = before.values + total.values
        return reason

    def _weight(self, sites: Sequence[str], found: float) -> float:
        """What the weights of sites add up to, by the records that they have described."""
        if not self.route.source.weighted:
            return len(sites)
        records = [self.enrolment.sites[site].train_records for site in sites]
        if None in records:
            return found
        return sum(min(count or 0, self._most_weight) for count in records)

    def _at(self, number: int) -> ServerRound:
        """What the stages may ask of a round."""
        return ServerRound(
            base=self.stack.base(self.progress.model),
            clip_norm=self.mechanism.round_norm(self.progress.clip_norm),
            public=rotation_context(self.config, number),
            noise=self.noise(-number),
            sites=len(self.grid.sites),
            everybody=self._everybody(),
        )

    def _everybody(self) -> float:
        """The weight of all sites together, as they would be counted in a sum."""
        if not self.route.source.weighted:
            return len(self.grid.sites)
        most = self._most_weight
        return sum(min(one.train_records or 0, most) for one in self.enrolment.sites.values())

    @property
    def _most_weight(self) -> float:
        return getattr(self.config.secagg, "max_weight", math.inf)

    def _collect(
        self,
        number: int,
        cohort: Sequence[str],
        messages: Sequence[Message],
        request: bytes,
        at: ServerRound,
    ) -> Aggregate:
        """The sum of what the sites give, in clear or through secure aggregation."""
        if self.summing is not None:
            return self.summing.train(number, messages, request)
        size = self.route.form(self.stack).values
        arrived = arriving(self.config.robust, self.route, at, size)
        replies = self.grid.exchange(
            messages, lambda content: flower.check_train_reply(content, size), arrived.take
        )
        return Aggregate(list(cohort), replies, arrived.total, None)

    def _released(self, total: Total, at: ServerRound) -> Mapping[str, Vector]:
        """The sites' common vectors by name: the model, with the noise that is planned for it."""
        vectors = self.stack.split(self.route.backward(total, at))
        self.progress.clip_norm = at.clip_norm or None
        return vectors

    def _step(
        self, number: int, mean: Mapping[str, Vector], sites: Sequence[str], share: float
    ) -> None:
        """The next global model, from the mean of the models and of what else has travelled."""
        before, model = self.progress.model, mean[MODEL]
        found = RoundMean(
            number=number,
            before=before,
            model=model,
            extra={name: vector for name, vector in mean.items() if name != MODEL},
            share=share,
        )
        self.progress.model, self.progress.algorithm = self.algorithm.server(
            found, self.progress.algorithm
        )
        if self.algorithm.remembers:
            self.progress.counted |= dict.fromkeys(sites, number)
        if self.progress.mean:
            self.progress.mean.take(self.progress.model)
        self.progress.seen = seen_in_slots(
            self.enrolment.layout, number, len(sites), before, model, self.progress.model
        )

    def _messages(
        self,
        kind: Literal["train", "evaluate"],
        note: RoundNote,
        model: Vector,
        sites: Sequence[str],
        besides: Vectors | None = None,
    ) -> list[Message]:
        nodes = [self.grid.node_of[site] for site in sites]
        counted = None
        if self.algorithm.remembers and kind == "train":
            counted = {self.grid.node_of[s]: n for s, n in self.progress.counted.items()}
        return flower.round_messages(kind, note, model, nodes, besides, counted)

    def _account(self, asked: Sequence[str], replies: Replies) -> None:
        """Keep what every site has spent; `asked` are those that got the model."""
        if self.plan is not None:
            self.progress.spent = spent_in_round(
                self.plan, self.progress.spent, self.grid.sites, asked, replies
            )

    def _check_budget(self, replies: Replies) -> None:
        """Under `on_exhausted=stop`, one site that cannot pay ends the run for all."""
        if not self.config.privacy.drops_sites:
            exhausted = [r for r in replies.refusals if r.exit_code == PrivacyError.exit_code]
            raise_refusals(exhausted)

    def _check_quorum(self, number: int, cohort: Sequence[str], replies: Replies) -> None:
        wanted = self._least(cohort)
        if len(replies.answers) >= wanted:
            return
        raise_refusals(replies.refusals)
        raise ProtocolError(
            "",
            f"round {number}",
            f"{len(replies.answers)} usable replies, and {self._rule(wanted)}; "
            + listed(replies.failures),
        )

    def _rule(self, wanted: int) -> str:
        own, rule = self.config.strategy.min_sites, self.config.robust
        if own >= wanted:
            return f"strategy.min_sites={own}"
        who = f"robust={rule.kind}" if rule.fewest >= wanted else "the noise"
        return f"{who} needs {wanted}"

    def _evaluated(self, number: int, there: Sequence[str]) -> dict[str, float]:
        """The test metrics of a round; none where sites gave them before the run was cut off.

        Sites evaluate a round once. Of the round that a resumed run repeats they may have given
        what was lost with the coordinator.
        """
        first = self.resumed and number == self.first
        try:
            return self._evaluate(number, there)
        except ProtocolError as error:
            if not first and not isinstance(error, UnusableError):
                raise
            log.warning("round %d is not evaluated: %s", number, error)
            # What an earlier round gave is of another model.
            self.progress.tested, self.progress.groups = None, GroupSums()
            self.progress.per_site = {}
            return {}

    def _evaluate(self, number: int, there: Sequence[str]) -> dict[str, float]:
        shown, task = self.progress.shown, self.enrolment.task
        summed = self.summing and evaluates_in_sum(self.config)
        # Who did not answer a moment ago would be missed by the masks of the others.
        sites = there if summed else self.grid.sites
        note = self._note(number, len(sites))
        messages = self._messages("evaluate", note, shown, sites)
        if self.summing and summed:
            request = request_digest(note, shown, {})
            self._account_evaluation(number, sites)
            tested, groups = self.summing.evaluate(number, messages, request, task)
            self.progress.tested, self.progress.groups = tested, GroupSums(pooled=groups)
        else:
            reported = self._reported(number, messages)
            self.progress.per_site = {site: reply.sums for site, reply in reported.items()}
            self.progress.tested = pooled(self.progress.per_site)
            self.progress.groups = group_sums(reported)
        return task.metrics(self.progress.tested)

    def _reported(self, number: int, messages: Sequence[Message]) -> dict[str, EvaluateReply]:
        """What every site has told of its own."""
        task, fairness = self.enrolment.task, self.config.fairness
        evaluation = self.mechanism.evaluation
        if evaluation is None:
            read = partial(flower.read_evaluate_reply, layout=task.sum_layout)
            check = partial(check_sums, task=task, fairness=fairness)
            replies = self.grid.exchange(messages, check=check)
            _warn_of(number, replies)
            return {site: read(reply.content) for site, reply in replies.answers.items()}
        read_noised = partial(
            noised_reply, task=task, fairness=fairness, plan=evaluation, number=number
        )
        replies = self.grid.exchange(messages, check=read_noised)
        _warn_of(number, replies)
        refused = {r.site for r in replies.refusals if r.exit_code == PrivacyError.exit_code}
        self._account_evaluation(number, [s for s in self.grid.sites if s not in refused])
        self._check_budget(replies)
        return {site: read_noised(reply.content) for site, reply in replies.answers.items()}

    def _account_evaluation(self, number: int, asked: Sequence[str]) -> None:
        """Keep what private test figures have cost every site that was asked for them."""
        if self.plan is not None and self.plan.evaluation is not None:
            event = self.plan.evaluation.event_at(number)
            self.progress.spent = spent_in_evaluation(event, self.progress.spent, asked)


def _warn_of(number: int, replies: Replies) -> None:
    """Name the sites whose test figures are missing."""
    for site, reason in replies.failures.items():
        log.warning("round %d is evaluated without %s: %s", number, site, reason)


def _too_many(most: int, reason: str, found: Sequence[str]) -> str:
    who = f"every one of them held {', '.join(found)}" if found else "no site was in all of them"
    return (
        f"robust.repeats={most}: more rounds than that were refused, for their sums were none of "
        f"honest sites ({reason}); {who}. Their owners can look into the logs of their sites; "
        "begin a run without a site that lies, under a roster or a choice of sites without it"
    )
