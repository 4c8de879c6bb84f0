"""A run, as the coordinator sees it: enrol the sites, then round after round.

The algorithm decides what goes to the sites and how their mean becomes a model;
the rest is here: sites by name, a cohort from the run seed, a quorum, checkpoints,
and a result that is true whenever the run ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from flwr.app import Message

from fedlearn import flower
from fedlearn.algorithms import Algorithm, RoundMean, State, Vectors, cohort_size
from fedlearn.config import RunConfig
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.mechanisms import ClientPlan, DistributedPlan, PrivacyPlan
from fedlearn.mechanisms.client import poisson_cohort, smallest_clip_norm
from fedlearn.metrics.sums import EvaluationSums, metrics
from fedlearn.privacy import Event, NoiseSource
from fedlearn.privacy.noise import noise_of
from fedlearn.results.result import Attendance, RoundResult
from fedlearn.rounds import RoundNote
from fedlearn.secagg.payload import Total
from fedlearn.secagg.settings import SecAggOff
from server.audit import SlotsSeen, seen_in_slots
from server.average import RunningMean
from server.enrol import Enrolment, drops_sites, listed, raise_refusals
from server.evaluation import GroupSums, check_sums, group_sums, pooled
from server.grid import Replies, SiteGrid
from server.release import ClippedUpdates, Trusted, WeightedMean, model_of_sum
from server.run_cost import epsilon_of, spent_in_round
from server.secagg import SecAggDriver


@dataclass
class Progress:
    """What is known after a number of rounds; grows in place."""

    rounds: list[RoundResult]
    model: Vector
    spent: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    """What every site has spent in this run, by its own account."""
    per_site: dict[str, EvaluationSums] = field(default_factory=dict)
    """The latest test sums of every site, where sites release them."""
    tested: EvaluationSums | None = None
    """The latest test sums over all sites."""
    groups: GroupSums = field(default_factory=GroupSums)
    """The latest test sums of groups of people, where the run tells them apart."""
    clip_norm: float | None = None
    """The norm of the next round, where it has moved."""
    mean: RunningMean | None = None
    """Of the models over rounds, where the config asks for one."""
    algorithm: State = field(default_factory=dict)
    """What the algorithm carries to the next round."""
    seen: SlotsSeen | None = None
    """What the last round showed in audit slots, where there are any."""

    @property
    def shown(self) -> Vector:
        """The model that is tested and kept: the last, or the running mean."""
        return self.mean.model() if self.mean and self.mean.count else self.model


@dataclass
class Federation:
    """One run over enrolled sites; `run_round` is called with 1, 2, ..., in order."""

    config: RunConfig
    plan: PrivacyPlan | None
    enrolment: Enrolment
    progress: Progress
    run_id: str
    summing: SecAggDriver | None
    _trusted: Trusted | None = field(init=False)

    def __post_init__(self) -> None:
        self._trusted = None
        if isinstance(self.plan, ClientPlan):
            settings = self.config.secagg
            smallest = 0.0
            if not isinstance(settings, SecAggOff):  # the sites round what they clip
                size = self.enrolment.layout.size
                smallest = smallest_clip_norm(size=size, resolution=settings.resolution)
            self._trusted = Trusted(self.plan, self.progress.clip_norm, smallest=smallest)

    @property
    def algorithm(self) -> Algorithm:
        """What the sites do besides training, and how their mean becomes the next model."""
        return self.config.strategy

    @property
    def grid(self) -> SiteGrid:
        """The sites."""
        return self.enrolment.grid

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
        cohort, unable = self._able(number, invited)
        train = self._train(number, cohort)
        last = number == self.config.rounds
        evaluated = (
            self._evaluate(number) if last or not number % self.config.evaluate_every else {}
        )
        dropped = unable | train.failures | {r.site: r.reason for r in train.refusals}
        entry = RoundResult(
            round=number,
            seconds=time.monotonic() - started,
            loss=evaluated.get("loss"),
            evaluate={**evaluated},
            clients=Attendance(invited=len(invited), replied=len(train.answers), dropped=dropped),
            bytes=self.grid.traffic.take(),
            epsilon={**self.epsilons()},
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
        if isinstance(self.plan, ClientPlan) and self.plan.sample_rate < 1:
            return poisson_cohort(sites, self.plan.sample_rate, self.noise(number))
        size = cohort_size(self.config.strategy, len(sites))
        if size >= len(sites):
            return sites
        chosen = Streams(self.config.seed).get("cohort", number).choice(len(sites), size, False)
        return [sites[i] for i in sorted(chosen)]

    def _able(self, number: int, invited: list[str]) -> tuple[list[str], dict[str, str]]:
        """Those who can pay for the round, and why the others cannot; nothing is spent to ask.

        Raises:
            PrivacyError, DataError: one cannot and the run stops for it, or too few can.
        """
        if self.plan is None:
            return invited, {}
        question = flower.afford_request(self._note(number, len(invited)))
        replies = self.grid.ask(flower.AFFORD, question, invited)
        if not drops_sites(self.config):
            raise_refusals(replies.refusals)
        if len(replies.answers) < self._least(invited):
            raise_refusals(replies.refusals)
        unable = replies.failures | {r.site: r.reason for r in replies.refusals}
        return list(replies.answers), unable

    def _least(self, invited: Sequence[str]) -> int:
        """The fewest sites for a round; secret coins may invite fewer than the config asks for."""
        wanted = min(self.config.strategy.min_sites, len(self.grid.sites))
        match self.plan:
            case ClientPlan() if self.plan.sample_rate < 1:
                return min(wanted, len(invited))
            case DistributedPlan():
                return max(wanted, self.plan.min_survivors)
            case _:
                return wanted

    def _note(self, number: int, cohort: int) -> RoundNote:
        clip_norm = self._trusted.clip_norm if self._trusted else 0.0
        return RoundNote(run_id=self.run_id, round=number, cohort=cohort, clip_norm=clip_norm)

    def _train(self, number: int, cohort: Sequence[str]) -> Replies:
        before = self.progress.model
        besides = self.algorithm.broadcast(self.progress.algorithm, before.size)
        # With nobody chosen the round goes on all the same: the noise alone is released.
        wanted = self._messages("train", self._note(number, len(cohort)), before, cohort, besides)
        came: WeightedMean | ClippedUpdates | Total | None
        if self.summing is None:
            came = self._trusted.incoming(before) if self._trusted else WeightedMean(before.size)
            replies = self.grid.exchange(
                wanted, lambda content: flower.check_train_reply(content, before.size), came.take
            )
            asked, failure = list(cohort), None
        else:
            aggregate = self.summing.train(number, wanted, before)
            asked, replies = aggregate.asked, aggregate.replies
            came, failure = aggregate.total, aggregate.failure
        self._account(asked, replies)
        self._check_budget(replies)
        if failure is not None:
            raise failure
        self._check_quorum(number, cohort, replies)
        mean = self._mean(number, came)
        share = len(replies.answers) / len(self.grid.sites)
        found = RoundMean(number=number, before=before, model=mean, extra={}, share=share)
        self.progress.model, self.progress.algorithm = self.algorithm.server(
            found, self.progress.algorithm
        )
        if self.progress.mean:
            self.progress.mean.take(self.progress.model)
        self.progress.seen = seen_in_slots(
            self.enrolment.layout, number, len(replies.answers), before, mean, self.progress.model
        )
        return replies

    def _messages(
        self,
        kind: Literal["train", "evaluate"],
        note: RoundNote,
        model: Vector,
        sites: Sequence[str],
        besides: Vectors | None = None,
    ) -> list[Message]:
        nodes = [self.grid.node_of[site] for site in sites]
        return flower.round_messages(kind, note, model, nodes, besides)

    def _mean(self, number: int, came: WeightedMean | ClippedUpdates | Total | None) -> Vector:
        """The mean of the sites' models, with the coordinator's own noise where that is planned."""
        before, sites = self.progress.model, len(self.grid.sites)
        match came, self._trusted:
            case WeightedMean(), None:
                return came.result()
            case Total(), None:
                return model_of_sum(self.config, self.plan, number, before, came)
            case ClippedUpdates(), Trusted() as trusted:
                model = trusted.of_updates(came, sites, self.noise(-number))
            case Total(), Trusted() as trusted:
                model = trusted.of_sum(before, came, sites, self.noise(-number))
            case _:
                raise RuntimeError("a round gave neither a sum nor a reason")
        self.progress.clip_norm = trusted.clip_norm
        return model

    def _account(self, asked: Sequence[str], replies: Replies) -> None:
        """Keep what every site has spent; `asked` are those that got the model."""
        if self.plan is not None:
            self.progress.spent = spent_in_round(
                self.plan, self.progress.spent, self.grid.sites, asked, replies
            )

    def _check_budget(self, replies: Replies) -> None:
        """Under `on_exhausted=stop`, one site that cannot pay ends the run for all."""
        if not drops_sites(self.config):
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
        own = self.config.strategy.min_sites
        return f"strategy.min_sites={own}" if own >= wanted else f"the noise needs {wanted}"

    def _evaluate(self, number: int) -> dict[str, float]:
        shown = self.progress.shown
        note = self._note(number, len(self.grid.sites))
        messages = self._messages("evaluate", note, shown, self.grid.sites)
        if self.summing and self.config.evaluation == "pooled":
            classes = self.enrolment.task.num_classes
            tested, groups = self.summing.evaluate(number, messages, shown, classes)
            self.progress.tested, self.progress.groups = tested, GroupSums(pooled=groups)
        else:
            classes, fairness = self.enrolment.task.num_classes, self.config.fairness
            replies = self.grid.exchange(
                messages, check=lambda content: check_sums(content, classes, fairness)
            )
            read = flower.read_evaluate_reply
            told = {site: read(reply.content) for site, reply in replies.answers.items()}
            self.progress.per_site = {site: reply.sums for site, reply in told.items()}
            self.progress.tested = pooled(self.progress.per_site)
            self.progress.groups = group_sums(told)
        return metrics(self.progress.tested)
