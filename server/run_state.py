"""A run, as the coordinator knows it: what was agreed, who takes part, what has come of it so far.

And what follows from these alone: the words of a request, the groups of a round, what the stages
may ask of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedlearn.agreement import rotation_context, route_of, stack_of
from fedlearn.algorithms import Algorithm, State, Vectors
from fedlearn.config import RunConfig
from fedlearn.config.terms import terms_of
from fedlearn.core.vector import Vector
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import Replies, SiteGrid
from fedlearn.mechanisms import UNPROTECTED, PrivacyPlan
from fedlearn.metrics.sums import Sums
from fedlearn.privacy import Event, NoiseSource
from fedlearn.privacy.noise import noise_of
from fedlearn.results.result import RoundResult, sites_of_refused
from fedlearn.robust import Draw
from fedlearn.robust.draw import Groups
from fedlearn.rounds import RoundNote
from fedlearn.secagg.weights import scaling_notes
from fedlearn.stages import Route, ServerRound, Stack
from server.aside import raise_refusals
from server.audit import SlotsSeen
from server.average import RunningMean
from server.driver import SecAggDriver
from server.enrol import Enrolment
from server.groups import Suspicion
from server.public_training import PublicTraining
from server.run_cost import epsilon_of, spent_besides
from server.validation import Validation


@dataclass(frozen=True, kw_only=True)
class GroupSums:
    """Test sums of groups of people: of every site that releases its own, and over all sites."""

    per_site: dict[str, dict[str, Sums]] = field(default_factory=dict)
    withheld: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Site -> the groups that are too small there to be shown."""
    pooled: dict[str, Sums] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OwnSums:
    """Test sums of sites' own models beside the shared one: of every site that releases its own,
    and over all sites."""

    per_site: dict[str, Sums] = field(default_factory=dict)
    pooled: Sums | None = None


@dataclass(frozen=True, kw_only=True)
class ReleasedSums:
    """What sites have released of one model: over all of them, by site where they do, by group;
    and of their own models beside it, where they have any."""

    sums: Sums
    per_site: dict[str, Sums] = field(default_factory=dict)
    groups: GroupSums = field(default_factory=GroupSums)
    own: OwnSums = field(default_factory=OwnSums)


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
    own: OwnSums = field(default_factory=OwnSums)
    """The latest test sums of sites' own models."""
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
    validation: Validation | None = None
    """Which round's model is kept, where rounds are evaluated on validation records."""
    validated: ReleasedSums | None = None
    """What the last round gave on these, where sites have models of their own; else None."""
    test_read: bool = False
    """Whether the test was read, where that is done once, after all rounds."""
    test_traffic: dict[str, int] = field(default_factory=dict)
    """Bytes of the one reading of the test, where it is not part of a round."""

    @property
    def shown(self) -> Vector:
        """The model that a round has come to: the last, or the running mean."""
        return self.mean.model() if self.mean and self.mean.count else self.model

    @property
    def chosen(self) -> Vector:
        """The model that is kept, and tested at the end: that of a round, by the config."""
        best = self.validation.model if self.validation else None
        return self.shown if best is None else best

    def take_tested(self, tested: ReleasedSums | None) -> None:
        """Keep test sums in the place of those of an earlier model; None: there are none."""
        self.tested = tested.sums if tested else None
        self.groups = tested.groups if tested else GroupSums()
        self.per_site = tested.per_site if tested else {}
        self.own = tested.own if tested else OwnSums()

    @property
    def refused(self) -> list[list[str]]:
        """The sites of every sum that was refused."""
        return sites_of_refused(self.rounds)

    @property
    def done(self) -> int:
        """Rounds that have moved the model."""
        return sum(one.refused is None for one in self.rounds)


@dataclass
class RunState:
    """One run over enrolled sites."""

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
    public: PublicTraining | None = field(init=False)
    """Training on public records at the coordinator, where a rule asks for it."""

    def __post_init__(self) -> None:
        if self.config.validates and self.progress.validation is None:
            training = self.config.training
            self.progress.validation = Validation(training.keep, training.patience)
        self.route = route_of(self.config, self.plan)
        self.stack = stack_of(self.config, self.enrolment.layout.size)
        if self.draw and self.progress.suspicion is None:
            self.progress.suspicion = self._suspicion(self.draw)
        self.public = self._public()
        taken = [one for one in self.progress.rounds if one.refused is None]
        unused = [each.sites for one in taken for each in one.unused]
        self.progress.summed = sum(one.clients.replied for one in taken) - sum(map(len, unused))

    def _suspicion(self, draw: Draw) -> Suspicion:
        """Nothing is opened yet."""
        reach = self.mechanism.reach(terms_of(self.config))
        alike = not self.route.source.weighted and self.route.form(self.stack).bits is None
        norm = reach.norm(self.stack.total) if reach and alike else None
        return Suspicion(self.config.robust, draw.names, self.config.most_rounds, norm)

    def _public(self) -> PublicTraining | None:
        """As sites train: by clipped gradients where they clip those of records."""
        if self.enrolment.public is None:
            return None
        clips = self.config.privacy.clips_with(self.config.training.dp_engine)
        return PublicTraining(
            records=self.enrolment.public,
            algorithm=self.algorithm,
            initial=self.enrolment.initial,
            clip_norm=self.plan.clip_norm if self.plan and clips else None,
            most=self.progress.suspicion.reach if self.progress.suspicion else None,
        )

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

    def epsilons(self) -> dict[str, float]:
        """Epsilon of this run so far, for every site that trained under privacy."""
        if self.plan is None:
            return {}
        spent = sorted(self.progress.spent.items())
        return {site: epsilon_of(self.plan, events) for site, events in spent}

    def noise(self, number: int) -> NoiseSource:
        """The coordinator's own randomness in a round: whom it asks and what it adds."""
        return noise_of(os.environ, "server", number)

    def note(self, number: int, cohort: int) -> RoundNote:
        """What every message of a round with `cohort` sites says of it."""
        clip_norm = self.mechanism.round_norm(self.progress.clip_norm)
        terms = self.config.terms.hex()
        return RoundNote(
            terms=terms, run_id=self.run_id, round=number, cohort=cohort, clip_norm=clip_norm,
            without=self.without, largest=self._largest,
        )  # fmt: skip

    @property
    def without(self) -> tuple[str, ...]:
        """Who is left out of the run for what sums over groups have shown."""
        return self.progress.suspicion.without if self.progress.suspicion else ()

    def groups(self, number: int) -> Groups | None:
        """Which sites are summed together in a round; None: all of them."""
        return self.draw.groups(number, self.without) if self.draw else None

    def _everybody(self) -> float:
        """The weight of all sites together, as they would be counted in a sum."""
        if not self.route.source.weighted:
            return len(self.grid.sites)
        return sum(map(self._weight, self.enrolment.sites))

    @cached_property
    def _largest(self) -> int:
        """The records that all weights are scaled to, where they are."""
        if self.summing is None or not self.route.source.weighted:
            return 0
        return self.summing.largest

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual in what the sites have told, and in how they are summed."""
        if not self._largest or self.summing is None:
            return self.enrolment.notes
        records = [one.train_records for one in self.enrolment.sites.values()]
        return (
            *self.enrolment.notes, *scaling_notes(records, self.summing.settings.max_weight),
        )  # fmt: skip

    def _weight(self, site: str) -> int:
        """What a site weighs that has described its records."""
        records = self.enrolment.sites[site].train_records or 0
        return self.summing.weight(records) if self.summing else records

    def at(self, number: int) -> ServerRound:
        """What the stages may ask of a round."""
        return ServerRound(
            base=self.stack.base(self.progress.model),
            clip_norm=self.mechanism.round_norm(self.progress.clip_norm),
            public=rotation_context(self.config, number),
            noise=self.noise(-number),
            sites=len(self.grid.sites),
            everybody=self._everybody(),
        )

    def messages(
        self,
        kind: Literal["train", "evaluate"],
        note: RoundNote,
        model: Vector,
        sites: Sequence[str],
        besides: Vectors | None = None,
    ) -> list[Message]:
        """The requests to `sites` in a round: a model, and what the algorithm sends beside it."""
        nodes = [self.grid.node_of[site] for site in sites]
        counted = None
        if self.config.remembers and (kind == "train" or self.config.personal):
            counted = {self.grid.node_of[s]: n for s, n in self.progress.counted.items()}
        return flower.round_messages(kind, note, model, nodes, besides, counted)

    def weight(self, sites: Sequence[str], found: float) -> float:
        """What the weights of sites add up to, by the records that they have described."""
        if not self.route.source.weighted:
            return len(sites)
        if any(self.enrolment.sites[site].train_records is None for site in sites):
            return found
        return sum(map(self._weight, sites))

    def check_budget(self, replies: Replies) -> None:
        """Under `on_exhausted=stop`, one site that cannot pay ends the run for all."""
        if not self.config.privacy.drops_sites:
            raise_refusals([one for one in replies.refusals if one.of_budget])

    def account_screening(self, asked: Sequence[str]) -> None:
        """Keep what it costs every site that is asked where its records stand."""
        if self.plan is not None and self.plan.screening is not None:
            event = self.plan.screening.event_at(1)
            self.progress.spent = spent_besides(event, self.progress.spent, asked)
