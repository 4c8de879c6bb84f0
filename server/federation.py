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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedlearn.agreement import (
    evaluates_in_sum,
    request_digest,
    rotation_context,
    route_of,
    stack_of,
)
from fedlearn.algorithms import Algorithm, RoundMean, State, Vectors, cohort_size
from fedlearn.config import RunConfig
from fedlearn.config.terms import terms_of
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import Replies, SiteGrid
from fedlearn.mechanisms import UNPROTECTED, PrivacyPlan
from fedlearn.metrics.sums import Sums
from fedlearn.privacy import Event, NoiseSource
from fedlearn.privacy.noise import noise_of
from fedlearn.results.result import (
    Attendance,
    RefusedSum,
    RoundResult,
    Suspect,
    sites_of_refused,
)
from fedlearn.robust import Draw, left_out, suspects
from fedlearn.robust.draw import Groups
from fedlearn.rounds import EvaluateReply, RoundNote
from fedlearn.stages import MODEL, Route, ServerRound, Stack, Total
from server.aside import listed, raise_refusals
from server.audit import SlotsSeen, seen_in_slots
from server.average import RunningMean, arriving
from server.driver import SecAggDriver, UnusableError
from server.enrol import Enrolment
from server.evaluation import GroupSums, check_sums, group_sums, noised_reply, pooled
from server.groups import Suspicion
from server.run_cost import epsilon_of, spent_besides, spent_in_round
from server.sums import Aggregate, Sum

log = logging.getLogger(__name__)


class PoisonedError(ProtocolError):
    """More sums were refused than a run allows: to go on with the same sites is of no use."""


@dataclass(frozen=True)
class Unused:
    """What of the sums of a round was not used: `refused` where nothing was, else `unused`."""

    refused: RefusedSum | None = None
    unused: list[RefusedSum] = field(default_factory=list)

    @property
    def all(self) -> list[RefusedSum]:
        """Every sum that was refused."""
        return [*self.unused, *([self.refused] if self.refused else [])]


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
    suspicion: Suspicion | None = None
    """What was opened, and who is left out for it, where sums are of groups."""
    seen: SlotsSeen | None = None
    """What the last round showed in audit slots, where there are any."""

    summed: float = 0.0
    """How many updates are in it."""
    screened: int | None = None
    """How many sites have compared their tables; None where they have not."""

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
        return sum(one.refused is None for one in self.rounds)


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
        if self.draw and self.progress.suspicion is None:
            self.progress.suspicion = self._suspicion(self.draw)
        taken = [one for one in self.progress.rounds if one.refused is None]
        unused = [each.sites for one in taken for each in one.unused]
        self.progress.summed = sum(one.clients.replied for one in taken) - sum(map(len, unused))

    def _suspicion(self, draw: Draw) -> Suspicion:
        """Nothing is opened yet."""
        reach = self.mechanism.reach(terms_of(self.config))
        alike = not self.route.source.weighted and self.route.form(self.stack).bits is None
        norm = reach.norm(self.stack.total) if reach and alike else None
        return Suspicion(self.config.robust, draw.names, self.config.most_rounds, norm)

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
        return self.config.robust.kind if bounded or self.draw else "none"

    @property
    def false_alarm(self) -> float | None:
        """The chance that the rule leaves out a site that never pulls against the others."""
        return self.config.robust.false_alarm if self.draw else None

    @property
    def draw(self) -> Draw | None:
        """The groups of every round, where sums are of groups."""
        return self.enrolment.keys.draw

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
        most = self.config.robust.most_refused
        if sum(one.refused is not None for one in self.progress.rounds) > most:
            last = next(one.refused for one in reversed(self.progress.rounds) if one.refused)
            found = suspects(self.progress.refused)
            raise PoisonedError("", "sum", _too_many(most, last.reason, found))
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
        train, outcome = self._train(number, cohort)
        named = self._look(number, outcome)
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
            refused=outcome.refused,
            unused=outcome.unused,
            named=named,
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
        if self.draw and self.draw.several:
            return sorted(site for one in self._groups(number) or () for site in one)
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
            terms=terms, run_id=self.run_id, round=number, cohort=cohort, clip_norm=clip_norm,
            without=self._without,
        )  # fmt: skip

    @property
    def _without(self) -> tuple[str, ...]:
        """Who is left out of the run for what sums over groups have shown."""
        return self.progress.suspicion.without if self.progress.suspicion else ()

    def _groups(self, number: int) -> Groups | None:
        """Which sites are summed together in a round; None: all of them."""
        return self.draw.groups(number, self._without) if self.draw else None

    def _train(self, number: int, cohort: Sequence[str]) -> tuple[Replies, Unused]:
        before = self.progress.model
        besides = self.algorithm.broadcast(self.progress.algorithm, before.size)
        # With nobody chosen the round goes on all the same: the noise alone is released.
        at, note = self._at(number), self._note(number, len(cohort))
        wanted = self._messages("train", note, before, cohort, besides)
        request = request_digest(note, before, besides)
        aggregate = self._collect(number, cohort, wanted, request, at)
        replies = aggregate.replies
        sums = [] if aggregate.failure else aggregate.sums()
        self._account(aggregate.asked, replies, sums)
        self._check_budget(replies)
        if aggregate.failure is not None:
            raise aggregate.failure
        self._check_quorum(number, cohort, replies)
        possible, left = self._possible(number, sums, at)
        if not possible:
            there = sorted(site for one in left for site in one.sites)
            return replies, Unused(refused=RefusedSum(reason=left[0].reason, sites=there))
        mean = self._released(number, possible, at)
        there = sorted(site for one in possible for site in one.sites)
        self._step(number, mean, there, at.share)
        return replies, Unused(unused=left)

    def _possible(
        self, number: int, sums: Sequence[Sum], at: ServerRound
    ) -> tuple[list[Sum], list[RefusedSum]]:
        """The sums that honest sites can have made, and those that they cannot."""
        possible, refused = [], []
        for one in sums:
            if reason := self._impossible(one.total, one.sites, at):
                names = ", ".join(one.sites)
                log.warning("round %d: the sum of %s is refused: %s", number, names, reason)
                refused.append(RefusedSum(reason=reason, sites=list(one.sites)))
            else:
                possible.append(one)
        return possible, refused

    def _look(self, number: int, unused: Unused) -> list[Suspect]:
        """Who is left out from here on; the model is that of the sums without them."""
        suspicion = self.progress.suspicion
        if suspicion is None:
            return []
        refused = [*self.progress.refused, *(one.sites for one in unused.all)]
        before, found = suspicion.blamed, suspicion.look(number, refused)
        if suspicion.blamed and suspicion.blamed != before:
            log.warning(
                "round %d: the sums speak against %s, but not without others, which may have put "
                "that on them by what they gave in their company: nobody is left out for it",
                number,
                ", ".join(suspicion.blamed),
            )
        for one in found:
            log.warning("round %d: %s is left out: it %s", number, one.site, one.reason)
        if found:
            self._take_back(suspicion)
        return found

    def _take_back(self, suspicion: Suspicion) -> None:
        """Go over the sums again that nobody was in who is named."""
        self.progress.model, self.progress.algorithm = self.enrolment.initial, {}
        if self.progress.mean:
            self.progress.mean = RunningMean(
                self.progress.mean.decay, np.zeros_like(self.progress.mean.total)
            )
        for number, changes in suspicion.clean():
            base = self.stack.base(self.progress.model)
            whole = base + self._combined(number, changes)
            self._step(number, self.stack.split(np.asarray(whole, np.float32)), (), 1.0)

    def _combined(self, number: int, changes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The change of a round from those of its groups, `float64[m, d]`, by the rule."""
        public, rule = self.enrolment.public, self.config.robust
        if public is None:
            return rule.combined(changes)
        direction = public.change(self.progress.model, number)
        most = self.progress.suspicion.reach if self.progress.suspicion else None
        if most is not None:
            direction *= min(1.0, most / max(float(np.linalg.norm(direction)), 1e-30))
        whole = self.stack.base(np.asarray(direction, np.float32))
        return rule.combined(changes, whole.astype(np.float64))

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
            weight=self.progress.summed,
            counters=total.counters,
        )
        reason = self.config.robust.refuses(bound, total, before)
        if reason is None and bound.reach.adds_up:
            self.progress.opened = before.values + total.values
            self.progress.summed += len(sites)
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
            groups, without = self._groups(number), self._without
            return self.summing.train(number, messages, request, groups, without)
        size = self.route.form(self.stack).values
        arrived = arriving(self.config.robust, self.route, at, size)
        replies = self.grid.exchange(
            messages, lambda content: flower.check_train_reply(content, size), arrived.take
        )
        there = tuple(replies.answers)
        return Aggregate(list(cohort), replies, lambda: [Sum(there, arrived.total())], None)

    def _released(self, number: int, sums: Sequence[Sum], at: ServerRound) -> Mapping[str, Vector]:
        """The sites' common vectors by name: the model, with the noise that is planned for it."""
        suspicion = self.progress.suspicion
        if suspicion is None:
            whole = self.route.backward(sums[0].total, at)
        else:
            rounds = [replace(at, sites=self._size_of(number, one)) for one in sums]
            wholes = [self.route.backward(s.total, r) for s, r in zip(sums, rounds, strict=True)]
            changes = np.stack(wholes).astype(np.float64) - at.base
            suspicion.take(number, [one.sites for one in sums], changes)
            whole = np.asarray(at.base + self._combined(number, changes), np.float32)
            at.clip_norm = float(np.median([one.clip_norm for one in rounds]))
            at.share = min(1.0, sum(one.share for one in rounds))
        self.progress.clip_norm = at.clip_norm or None
        return self.stack.split(whole)

    def _size_of(self, number: int, one: Sum) -> int:
        """How many sites were drawn for a sum, whoever came."""
        return next(len(g) for g in self._groups(number) or () if set(one.sites) <= set(g))

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

    def _account(self, asked: Sequence[str], replies: Replies, sums: Sequence[Sum]) -> None:
        """Keep what every site has spent; `asked` are those that got the model."""
        if self.plan is None:
            return
        together = dict.fromkeys(asked, len(replies.answers))
        if self.draw:
            together = {site: len(one.sites) for one in sums for site in one.sites}
        self.progress.spent = spent_in_round(
            self.plan, self.progress.spent, self.grid.sites, asked, replies, together
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
        # Who did not answer a moment ago would be missed by the masks of the others; and who is
        # left out for a lie could spoil a sum in which nobody sees it.
        heard = [site for site in there if site not in self._without]
        sites = heard if summed else self.grid.sites
        note = self._note(number, len(sites))
        messages = self._messages("evaluate", note, shown, sites)
        if self.summing and summed:
            request = request_digest(note, shown, {})
            self._account_evaluation(number, sites)
            tested, groups = self.summing.evaluate(number, messages, request, task, self._without)
            self.progress.tested, self.progress.groups = tested, GroupSums(pooled=groups)
        else:
            reported = self._reported(number, messages)
            self.progress.per_site = {site: reply.sums for site, reply in reported.items()}
            self.progress.tested = pooled(task, self.progress.per_site)
            self.progress.groups = group_sums(task, reported)
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

    def account_screening(self, asked: Sequence[str]) -> None:
        """Keep what it costs every site that is asked where its records stand."""
        if self.plan is not None and self.plan.screening is not None:
            event = self.plan.screening.event_at(1)
            self.progress.spent = spent_besides(event, self.progress.spent, asked)

    def _account_evaluation(self, number: int, asked: Sequence[str]) -> None:
        """Keep what private test figures have cost every site that was asked for them."""
        if self.plan is not None and self.plan.evaluation is not None:
            event = self.plan.evaluation.event_at(number)
            self.progress.spent = spent_besides(event, self.progress.spent, asked)


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
