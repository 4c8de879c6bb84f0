"""A run, as the coordinator sees it: enrol the sites, then round after round.

Flower's strategies decide what a round asks and how replies become a model;
this loop adds what `Strategy.start` has no place for: sites by name, a cohort
from the run seed, a quorum, checkpoints, and a result that is true whenever
the run ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedlearn import flower
from fedlearn.config import RunConfig
from fedlearn.errors import PrivacyError, ProtocolError
from fedlearn.metrics import EvaluationSums, metrics, score_bins
from fedlearn.privacy.events import Event
from fedlearn.privacy.plan import PrivacyPlan, RecordPrivacy
from fedlearn.rng import Streams
from fedlearn.vector import Vector
from server.enrol import Enrolment, listed, raise_refusals
from server.grid import Replies, SiteGrid
from server.result import Attendance, RoundResult
from server.strategies import cohort_size, make_strategy
from server.summing import Summing


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


@dataclass
class Federation:
    """One run over enrolled sites; `run_round` is called with 1, 2, ..., in order."""

    config: RunConfig
    plan: PrivacyPlan | None
    enrolment: Enrolment
    progress: Progress
    run_id: str
    summing: Summing | None
    strategy: FedAvg = field(init=False)

    def __post_init__(self) -> None:
        self.strategy = make_strategy(self.config.strategy)

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
        cohort = self._cohort(number)
        train = self._train(number, cohort)
        last = number == self.config.rounds
        evaluated = (
            self._evaluate(number) if last or not number % self.config.evaluate_every else {}
        )
        dropped = train.failures | {r.site: r.reason for r in train.refusals}
        entry = RoundResult(
            round=number,
            seconds=time.monotonic() - started,
            loss=evaluated.get("loss"),
            evaluate={**evaluated},
            clients=Attendance(invited=len(cohort), replied=len(train.answers), dropped=dropped),
            bytes=self.grid.traffic.take(),
            epsilon={**self.epsilons()},
        )
        self.progress.rounds.append(entry)
        return entry

    def epsilons(self) -> dict[str, float]:
        """Epsilon of this run so far, for every site that trained under privacy."""
        from fedlearn.privacy.accounting import epsilon

        if self.plan is None:
            return {}
        return {
            site: epsilon(events, self.plan.delta)
            for site, events in sorted(self.progress.spent.items())
        }

    def _cohort(self, number: int) -> list[str]:
        sites = self.grid.sites
        size = cohort_size(self.config.strategy, len(sites))
        if size >= len(sites):
            return sites
        chosen = Streams(self.config.seed).get("cohort", number).choice(len(sites), size, False)
        return [sites[i] for i in sorted(chosen)]

    def _train(self, number: int, cohort: Sequence[str]) -> Replies:
        arrays = flower.arrays_of(self.progress.model)
        messages = self.strategy.configure_train(
            number, arrays, self._note(), self.grid.view(cohort)
        )
        if self.summing is None:
            size = self.enrolment.layout.size
            replies = self.grid.exchange(
                messages, check=lambda content: flower.check_train_reply(content, size)
            )
            asked, usable, failure = list(cohort), list(replies.answers.values()), None
        else:
            aggregate = self.summing.train(number, list(messages), self.progress.model)
            asked, replies = aggregate.asked, aggregate.replies
            usable, failure = [aggregate.mean] if aggregate.mean else [], aggregate.failure
        self._account(asked, replies)
        self._check_budget(replies)
        if failure is not None:
            raise failure
        self._check_quorum(number, replies)
        averaged, _ = self.strategy.aggregate_train(number, usable)
        if averaged is None:
            raise RuntimeError("a strategy gave no model for valid replies")
        self.progress.model = flower.vector_of(averaged)
        return replies

    def _note(self) -> ConfigRecord:
        return ConfigRecord({"run-id": self.run_id})

    def _account(self, asked: Sequence[str], replies: Replies) -> None:
        """Take over what the sites say they spent; `asked` are those that got the model.

        A site that fell silent, or failed after it had begun, is taken to have
        spent a round; one that refused for privacy has spent nothing.
        """
        if self.plan is None:
            return
        refused = {r.site for r in replies.refusals if r.exit_code == PrivacyError.exit_code}
        for site in asked:
            if site in replies.answers:
                self.progress.spent[site] = flower.read_spent(replies.answers[site].content)
            elif site not in refused:
                before = self.progress.spent.get(site, ())
                self.progress.spent[site] = (*before, self.plan.round_event)

    def _check_budget(self, replies: Replies) -> None:
        """Under `on_exhausted=stop`, one site that cannot pay ends the run for all."""
        match self.config.privacy:
            case RecordPrivacy(on_exhausted="stop"):
                exhausted = [r for r in replies.refusals if r.exit_code == PrivacyError.exit_code]
                raise_refusals(exhausted)

    def _check_quorum(self, number: int, replies: Replies) -> None:
        wanted = min(self.config.strategy.min_sites, len(self.grid.sites))
        if len(replies.answers) >= wanted:
            return
        raise_refusals(replies.refusals)
        raise ProtocolError(
            "",
            f"round {number}",
            f"{len(replies.answers)} usable replies, and strategy.min_sites={wanted}; "
            + listed(replies.failures),
        )

    def _check_sums(self, content: RecordDict) -> None:
        """Refuse test sums that cannot be added to those of the other sites."""
        if not _fits(flower.read_evaluate_reply(content).sums, self.enrolment.task.num_classes):
            raise ValueError("test sums of another shape")

    def _evaluate(self, number: int) -> dict[str, float]:
        arrays = flower.arrays_of(self.progress.model)
        messages = self.strategy.configure_evaluate(
            number, arrays, self._note(), self.grid.view(self.grid.sites)
        )
        if self.summing and self.config.evaluation == "pooled":
            classes = self.enrolment.task.num_classes
            model = self.progress.model
            self.progress.tested = self.summing.evaluate(number, list(messages), model, classes)
        else:
            replies = self.grid.exchange(messages, check=self._check_sums)
            self.progress.per_site = {
                site: flower.read_evaluate_reply(reply.content).sums
                for site, reply in replies.answers.items()
            }
            self.progress.tested = pooled(self.progress.per_site)
        return metrics(self.progress.tested)


def _fits(sums: EvaluationSums, classes: int) -> bool:
    shapes = sums.confusion.shape, sums.scores.shape
    return shapes == ((classes, classes), (2, score_bins(classes)))


def pooled(per_site: dict[str, EvaluationSums]) -> EvaluationSums:
    """The sums over all sites, added in the order of their names."""
    sums = [per_site[site] for site in sorted(per_site)]
    if not sums:
        raise ProtocolError("", "evaluate", "no site answered")
    total = sums[0]
    for more in sums[1:]:
        total = total + more
    return total
