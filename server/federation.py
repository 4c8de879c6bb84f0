"""A run, as the coordinator sees it: enrol the sites, then round after round.

The algorithm decides what goes to the sites and how their mean becomes a model;
the rest is here: sites by name, a cohort from the run seed, a quorum, checkpoints,
and a result that is true whenever the run ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedlearn.agreement import request_digest
from fedlearn.algorithms import RoundMean, cohort_size
from fedlearn.config.terms import terms_of
from fedlearn.core.errors import FedlearnError, PrivacyError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import Replies
from fedlearn.results.result import Attendance, RefusedSum, RoundResult, Suspect
from fedlearn.robust import left_out, suspects
from fedlearn.stages import MODEL, ServerRound, Total
from server.aside import listed, raise_refusals
from server.audit import seen_in_slots
from server.average import RunningMean, arriving
from server.driver import UnusableError
from server.evaluation import evaluate
from server.groups import Suspicion
from server.run_cost import spent_in_round
from server.run_state import ReleasedSums, RunState
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
class Federation(RunState):
    """One run over enrolled sites; `run_round` is called with 1, 2, ..., in order."""

    first: int = field(init=False)
    """The first round of this process."""

    def __post_init__(self) -> None:
        self.first = len(self.progress.rounds) + 1
        super().__post_init__()

    @property
    def goes_on(self) -> bool:
        """Whether another round follows.

        Where rounds are paid for, one that was refused leaves one less to learn in.

        Raises:
            PoisonedError: more rounds were refused than may be.
        """
        if not self.config.statistics.idle:
            return False
        most = self.config.robust.most_refused
        if sum(one.refused is not None for one in self.progress.rounds) > most:
            last = next(one.refused for one in reversed(self.progress.rounds) if one.refused)
            found = suspects(self.progress.refused)
            raise PoisonedError("", "sum", _too_many(most, last.reason, found))
        used = len(self.progress.rounds)
        if self.progress.validation is not None and self.progress.validation.enough:
            return False
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
        silent = asked.failures | train.failures | asked.by_owner() | train.by_owner()
        there = [site for site in self.grid.sites if site not in silent]
        evaluated = self._measured(number, there) if self.config.evaluates(number) else {}
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

    def test(self) -> None:
        """Read the test once, after all rounds, with the model that is kept; where rounds are
        tested, nothing.

        Raises as `run_round` does where sites give nothing, but where a round would not, either.
        """
        number, rounds = self.config.test_number, self.progress.rounds
        if number is None or not rounds:
            return
        if self.grid.sealing:
            self.grid.sealing.round = number
        silent = rounds[-1].clients.dropped if len(rounds) >= self.first else {}
        there = [site for site in self.grid.sites if site not in silent]
        self.progress.take_tested(self._evaluated(number, self.progress.chosen, there))
        self.progress.test_traffic, self.progress.test_read = self.grid.traffic.take(), True

    def _measured(self, number: int, there: Sequence[str]) -> dict[str, float]:
        """The metrics of a round: of validation, by which a model is chosen, or of the test."""
        shown, validation = self.progress.shown, self.progress.validation
        task = self.enrolment.task
        found = self._evaluated(number, shown, there)
        metrics = task.metrics(found.sums) if found else {}
        if validation is None:
            self.progress.take_tested(found)
        elif found:
            validation.look(number, task.leading, metrics, shown)
            self.progress.validated = found if found.own.per_site else None
        return metrics

    def _cohort(self, number: int) -> list[str]:
        sites = self.grid.sites
        if self.draw and self.draw.several:
            return sorted(site for one in self.groups(number) or () for site in one)
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
        """Those who take part and can pay, and what all said; nothing is spent to ask.

        Where sites have owners who may pause them they are asked also where nothing is paid for.

        Raises:
            PrivacyError, DataError: one cannot and the run stops for it, or too few can.
            ProtocolError: too few answer.
        """
        owners = self.enrolment.owners
        if self.plan is None and owners is None:
            return invited, Replies({}, [], {})
        question = flower.afford_request(self.note(number, len(invited)))
        replies = self.grid.ask(flower.AFFORD, question, invited)
        if owners is not None:
            again = partial(self.grid.ask, flower.AFFORD, question)
            replies = owners.settled(replies, again, number)
        if not self.config.privacy.drops_sites:
            raise_refusals([one for one in replies.refusals if not one.by_owner])
        self._check_quorum(number, invited, replies)
        return list(replies.answers), replies

    @property
    def _would_differ(self) -> bool:
        """Whether a second sum of a round, over other sites, differs from the first by what one of
        them gave: nothing but masks hides that without noise."""
        return self.plan is None and self.config.secagg.hides

    def _least(self, invited: Sequence[str]) -> int:
        """The fewest sites for a round; secret coins may invite fewer than the config asks for."""
        wanted = min(self.config.strategy.min_sites, len(self.grid.sites))
        return max(self.mechanism.quorum(wanted, len(invited)), self.config.robust.fewest)

    def _train(self, number: int, cohort: Sequence[str]) -> tuple[Replies, Unused]:
        before = self.progress.model
        besides = self.algorithm.broadcast(self.progress.algorithm, before.size)
        # With nobody chosen the round goes on all the same: the noise alone is released.
        at, note = self.at(number), self.note(number, len(cohort))
        wanted = self.messages("train", note, before, cohort, besides)
        request = request_digest(note, before, besides)
        try:
            aggregate = self._collect(number, cohort, wanted, request, at)
        except (FedlearnError, KeyboardInterrupt):
            # A SuperLink that is lost, or a stop: whoever got the model may have paid, and may
            # never come back to say so.
            self._account(cohort, Replies({}, [], {}), [])
            raise
        replies = aggregate.replies
        sums = [] if aggregate.failure else aggregate.sums()
        self._account(aggregate.asked, replies, sums)
        self.check_budget(replies)
        if aggregate.failure is not None:
            raise aggregate.failure
        try:
            self._check_quorum(number, cohort, replies)
        except ProtocolError as error:
            if not (sums and self._would_differ):
                raise
            # Other sites in the same round: what the two sums differ by is what one site gave.
            raise PrivacyError(
                f"{error}. The sum of those that replied is open, so that the round is not made "
                "again with others by itself: the difference would be the update of a single site"
            ) from error
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

    def _impossible(self, total: Total, sites: Sequence[str], at: ServerRound) -> str | None:
        """Why honest sites cannot have made a sum; None where they can, or no rule says so.

        What is taken counts in the sum of all so far.
        """
        if self.summing is None:
            return None
        bound = self.summing.bound(at.clip_norm)
        if bound is None:
            return None
        weight = self.weight(sites, total.weight)
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
        if self.progress.validation:
            self.progress.validation.forget()
        for number, sums in suspicion.clean():
            base = self.stack.base(self.progress.model)
            changes = np.stack([one.change for one in sums]).astype(np.float64)
            mean = self.stack.split(np.asarray(base + self._combined(number, changes), np.float32))
            self._step(number, mean, sorted(site for one in sums for site in one.sites), 1.0)

    def _combined(self, number: int, changes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The change of a round from those of its groups, `float64[m, d]`, by the rule."""
        rule = self.config.robust
        if self.public is None:
            return rule.combined(changes)
        direction = self.public.change(self.progress.model, number)
        whole = self.stack.base(np.asarray(direction, np.float32))
        return rule.combined(changes, whole.astype(np.float64))

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
            groups, without = self.groups(number), self.without
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
        return next(len(g) for g in self.groups(number) or () if set(one.sites) <= set(g))

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
            noise=self._noise_of(len(sites)),
        )
        self.progress.model, self.progress.algorithm = self.algorithm.server(
            found, self.progress.algorithm
        )
        if self.public:
            self.progress.model = self.public.held(self.progress.model, number)
        if self.config.remembers:
            self.progress.counted |= dict.fromkeys(sites, number)
        if self.progress.mean:
            self.progress.mean.take(self.progress.model)
        self.progress.seen = seen_in_slots(
            self.enrolment.layout, number, len(sites), before, model, self.progress.model
        )

    def _noise_of(self, there: int) -> float:
        """Of privacy, in each value of the mean of as many sites; 0 where there is none."""
        if self.plan is None:
            return 0.0
        return self.plan.noise_in_mean(terms_of(self.config), there, len(self.grid.sites))

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

    def _check_quorum(self, number: int, cohort: Sequence[str], replies: Replies) -> None:
        opened = self.config.secagg.least if cohort else 0  # of nobody nothing is opened
        wanted = max(self._least(cohort), opened)
        if len(replies.answers) >= wanted:
            return
        raise_refusals([one for one in replies.refusals if not one.by_owner])
        raise ProtocolError(
            "",
            f"round {number}",
            f"{len(replies.answers)} usable replies, and {self._rule(wanted)}; "
            + listed(replies.failures | replies.by_owner()),
        )

    def _rule(self, wanted: int) -> str:
        own, rule = self.config.strategy.min_sites, self.config.robust
        if own >= wanted:
            return f"strategy.min_sites={own}"
        if self.config.secagg.least >= wanted:
            return f"secagg.min_cohort={wanted}"
        who = f"robust={rule.kind}" if rule.fewest >= wanted else "the noise"
        return f"{who} needs {wanted}"

    def _evaluated(self, number: int, model: Vector, there: Sequence[str]) -> ReleasedSums | None:
        """What sites release of a model; none where they gave it before the run was cut off.

        Sites evaluate a round once. Of the round that a resumed run repeats they may have given
        what was lost with the coordinator. And a round that was paid for is not made again for
        its figures, nor one of which a sum is open: of other sites it would show what one gave.
        """
        first = self.resumed and len(self.progress.rounds) + 1 == self.first
        try:
            return self._evaluate(number, model, there)
        except ProtocolError as error:
            paid = self.plan is not None
            needless = first or paid or self._would_differ or isinstance(error, UnusableError)
            if not needless:
                raise
            log.warning("round %d is not evaluated: %s", number, error)
            return None  # what an earlier round gave is of another model

    def _evaluate(self, number: int, model: Vector, there: Sequence[str]) -> ReleasedSums:
        return evaluate(self, number, model, there)


def _too_many(most: int, reason: str, found: Sequence[str]) -> str:
    who = f"every one of them held {', '.join(found)}" if found else "no site was in all of them"
    return (
        f"robust.repeats={most}: more rounds than that were refused, for their sums were none of "
        f"honest sites ({reason}); {who}. Their owners can look into the logs of their sites; "
        "begin a run without a site that lies, under a roster or a choice of sites without it"
    )
