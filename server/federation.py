"""A run, as the coordinator sees it: enrol the sites, then round after round.

Flower's strategies decide what a round asks and how replies become a model;
this loop adds what `Strategy.start` has no place for: sites by name, a cohort
from the run seed, a quorum, checkpoints, and a result that is true whenever
the run ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedlearn import flower, models
from fedlearn.config import RunConfig, task_problems
from fedlearn.errors import ConfigError, DataError, FedlearnError, PrivacyError, ProtocolError
from fedlearn.metrics import EvaluationSums, metrics
from fedlearn.models.validate import dp_problems
from fedlearn.privacy.events import Event
from fedlearn.privacy.plan import PrivacyPlan, RecordPrivacy
from fedlearn.rng import Streams
from fedlearn.rounds import Hello, Refusal
from fedlearn.vector import Layout, Vector, layout_of, to_vector
from server.grid import Replies, SiteGrid
from server.result import Attendance, RoundResult
from server.strategies import make_strategy

ENROL_SECONDS = 120.0
"""How long the coordinator waits for the first nodes."""

ERROR_OF_CODE: dict[int, Callable[[str], FedlearnError]] = {
    2: lambda reason: ConfigError([reason]),
    3: PrivacyError,
    5: DataError,
}


@dataclass(frozen=True)
class Enrolment:
    """The sites of a run and the model they start from."""

    grid: SiteGrid
    hellos: dict[str, Hello]
    layout: Layout
    parameters: int
    initial: Vector


@dataclass
class Progress:
    """What is known after a number of rounds; grows in place."""

    rounds: list[RoundResult]
    model: Vector
    spent: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    """What every site has spent in this run, by its own account."""
    per_site: dict[str, EvaluationSums] = field(default_factory=dict)
    """The latest test sums of every site."""


def enrol(
    grid: Grid,
    config: RunConfig,
    plan: PrivacyPlan | None,
    stopping: Callable[[], bool],
) -> Enrolment:
    """Ask every node who it is, and build the model that all of them can train.

    Raises:
        ConfigError, DataError, PrivacyError: what the sites refused, all together.
        ProtocolError: nodes did not answer, or two claim one name.
    """
    nodes = _wait_for_nodes(grid, config.strategy.min_sites)
    by_node = SiteGrid(grid, {f"node {node}": node for node in nodes}, ENROL_SECONDS, stopping)
    replies = by_node.query(flower.HELLO, by_node.sites)
    _raise_refusals(replies.refusals)
    if replies.failures:
        raise ProtocolError("", "hello", _listed(replies.failures))
    hellos, node_of = {}, {}
    for reply in replies.answers.values():
        hello = flower.read_hello(reply.content)
        if hello.site in hellos:
            raise ProtocolError(hello.site, "hello", "two nodes claim this name")
        hellos[hello.site], node_of[hello.site] = hello, reply.metadata.src_node_id
    return _start_model(
        config, plan, SiteGrid(grid, node_of, None, stopping), dict(sorted(hellos.items()))
    )


def _wait_for_nodes(grid: Grid, wanted: int) -> list[int]:
    deadline = time.monotonic() + ENROL_SECONDS
    while len(nodes := sorted(grid.get_node_ids())) < wanted:
        if time.monotonic() > deadline:
            raise ProtocolError("", "hello", f"{len(nodes)} of at least {wanted} sites connected")
        time.sleep(0.2)
    return nodes


def _start_model(
    config: RunConfig, plan: PrivacyPlan | None, grid: SiteGrid, hellos: dict[str, Hello]
) -> Enrolment:
    task = next(iter(hellos.values())).task
    unlike = [site for site, hello in hellos.items() if hello.task != task]
    if unlike:
        raise DataError(
            f"records look different at {', '.join(unlike)} than at {next(iter(hellos))}: "
            "columns, categories and classes must be the same everywhere"
        )
    if found := task_problems(config, task):
        raise ConfigError(found)
    model = models.build(config.model, task, Streams(config.seed))
    if plan and (found := dp_problems(model)):
        raise ConfigError([f"model: {problem}" for problem in found])
    parameters = sum(p.numel() for p in model.parameters())
    return Enrolment(grid, hellos, layout_of(model), parameters, to_vector(model))


@dataclass
class Federation:
    """One run over enrolled sites; `run_round` is called with 1, 2, ..., in order."""

    config: RunConfig
    plan: PrivacyPlan | None
    enrolment: Enrolment
    progress: Progress
    run_id: str
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
        sites, fraction = self.grid.sites, self.config.strategy.fraction
        size = max(
            math.ceil(fraction * len(sites) - 1e-9), min(self.config.strategy.min_sites, len(sites))
        )
        if size >= len(sites):
            return sites
        chosen = Streams(self.config.seed).get("cohort", number).choice(len(sites), size, False)
        return [sites[i] for i in sorted(chosen)]

    def _train(self, number: int, cohort: Sequence[str]) -> Replies:
        arrays = flower.arrays_of(self.progress.model)
        messages = self.strategy.configure_train(
            number, arrays, self._note(), self.grid.view(cohort)
        )
        replies = self.grid.exchange(messages)
        self._account(cohort, replies)
        self._check_budget(replies)
        self._check_quorum(number, replies)
        averaged, _ = self.strategy.aggregate_train(number, list(replies.answers.values()))
        if averaged is None:
            raise RuntimeError("a strategy gave no model for valid replies")
        self.progress.model = flower.vector_of(averaged)
        return replies

    def _note(self) -> ConfigRecord:
        return ConfigRecord({"run-id": self.run_id})

    def _account(self, cohort: Sequence[str], replies: Replies) -> None:
        """Take over what the sites say they spent.

        A site that fell silent, or failed after it had begun, is taken to have
        spent a round; one that refused for privacy has spent nothing.
        """
        if self.plan is None:
            return
        refused = {r.site for r in replies.refusals if r.exit_code == PrivacyError.exit_code}
        for site in cohort:
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
                _raise_refusals(exhausted)

    def _check_quorum(self, number: int, replies: Replies) -> None:
        wanted = min(self.config.strategy.min_sites, len(self.grid.sites))
        if len(replies.answers) >= wanted:
            return
        _raise_refusals(replies.refusals)
        raise ProtocolError(
            "",
            f"round {number}",
            f"{len(replies.answers)} usable replies, and strategy.min_sites={wanted}; "
            + _listed(replies.failures),
        )

    def _evaluate(self, number: int) -> dict[str, float]:
        arrays = flower.arrays_of(self.progress.model)
        messages = self.strategy.configure_evaluate(
            number, arrays, self._note(), self.grid.view(self.grid.sites)
        )
        replies = self.grid.exchange(messages)
        self.progress.per_site = {
            site: flower.read_evaluate_reply(reply.content).sums
            for site, reply in replies.answers.items()
        }
        return metrics(pooled(self.progress.per_site))


def pooled(per_site: dict[str, EvaluationSums]) -> EvaluationSums:
    """The sums over all sites, added in the order of their names."""
    sums = [per_site[site] for site in sorted(per_site)]
    if not sums:
        raise ProtocolError("", "evaluate", "no site answered")
    total = sums[0]
    for more in sums[1:]:
        total = total + more
    return total


def _raise_refusals(refusals: Sequence[Refusal]) -> None:
    """One error for all refusals: of the kind that most needs the user, with every reason."""
    if not refusals:
        return
    code = min(refusal.exit_code for refusal in refusals)
    reasons = dict.fromkeys(
        reason for refusal in refusals for reason in refusal.reason.splitlines()
    )
    make = ERROR_OF_CODE.get(code)
    if make is None:
        raise ProtocolError("", "refused", "; ".join(reasons))
    if code == ConfigError.exit_code:
        raise ConfigError(list(reasons))
    raise make("\n".join(reasons))


def _listed(failures: dict[str, Any]) -> str:
    return "; ".join(f"{site}: {reason}" for site, reason in failures.items()) or "no failures"
