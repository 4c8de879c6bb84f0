"""What the coordinator does with every kind of sum over named sites: the parameters that it asks
for, what it takes in, what it refuses to begin, and what it says where there is no sum."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

from flwr.app import Message, RecordDict

from fedlearn.agreement import (
    Part,
    Tested,
    bound_of,
    evaluate_payload,
    evaluates_in_sum,
    least_of,
    noised_sums_of,
    part_of,
    payload_of,
    plan_digest,
    protocol_round,
    route_of,
    screen_payload,
    sites_in_sum,
    stack_of,
    sums_of,
)
from fedlearn.algorithms import cohort_size
from fedlearn.config import RunConfig, sizes_of
from fedlearn.core.errors import ConfigError, ProtocolError, counted, refuse
from fedlearn.core.vector import Layout
from fedlearn.crypto.codec import sorted_names
from fedlearn.figures import TableLayout
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.grid import SiteGrid, Tally
from fedlearn.flower.records import read_large_bytes
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.mechanisms.reach import SumBound
from fedlearn.robust.chance import chances
from fedlearn.robust.draw import Groups, Sizes
from fedlearn.screening import ScreeningLayout
from fedlearn.secagg.graph import Degree
from fedlearn.secagg.graph import part_of as part_of_sites
from fedlearn.secagg.messages import Params
from fedlearn.secagg.settings import SecAggSum
from fedlearn.secagg.weights import scaled_to, weight_in_sum
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Form
from fedlearn.tasks import Task
from server.cohorts import cohort_problems
from server.helper import SecondServer
from server.sums import Aggregate, AskedSums, Sum


class UnusableError(ProtocolError):
    """A sum was opened and is none of what it should be; whose fault that is the masks hide."""

    def __init__(self, reason: str) -> None:
        super().__init__("", "sum", f"of the sites one has lied: {reason}")


log = logging.getLogger(__name__)

S = TypeVar("S", bound=SecAggSum)


@dataclass(frozen=True)
class SecAggDriver(ABC, Generic[S]):
    """Sums over the sites of a run; `sites` are their public keys by name.

    One class for each kind of sum.
    """

    grid: SiteGrid
    config: RunConfig
    settings: S
    plan: PrivacyPlan | None
    run_id: bytes
    sites: Mapping[str, bytes]
    layout: Layout
    helper: SecondServer | None
    records: Mapping[str, int] = field(default_factory=dict)
    """The records of sites that have told how many they are."""

    def train(
        self,
        number: int,
        messages: Sequence[Message],
        request: bytes,
        groups: Groups | None = None,
        without: tuple[str, ...] = (),
    ) -> Aggregate:
        """The sums over the surviving sites; with too few left, nothing but the reason.

        `request` is the digest of what all of them are asked (`agreement.request_digest`),
        `groups` are the sites that are summed together (None: all of them), `without` those that
        are left out of the run.

        A failure is returned, not raised: what the sites have spent must still be accounted for.
        """
        payload, tally = self.train_payload(), Tally()
        try:
            cohorts = self._cohorts("train", messages, groups)
            params = [self._params("train", number, one, request, payload) for one in cohorts]
            by_site = {self.grid.site_of(message): message for message in messages}
            sums = self._opened(AskedSums(by_site, params, payload, tally, without))
            self._check_sums(payload, sums)
        except ProtocolError as error:
            contributed = tally.replies(tally.contributed)
            return Aggregate(tally.asked, contributed, _nothing, tally.error(error))
        survivors = sorted(site for one in sums for site in one.sites)
        return Aggregate(tally.asked, tally.replies(survivors), lambda: sums, None)

    def _check_sums(self, payload: AnyPayload, sums: Sequence[Sum]) -> None:
        for one in sums:
            if self._counts(payload) and one.total.weight != len(one.sites):
                raise ProtocolError("", "sum", "it does not hold what its sites say they added")
        if all(one.total.weight == 0 for one in sums):
            raise ProtocolError("", "mask", "no site has a record to train on")

    def _cohorts(
        self, part: Part, messages: Sequence[Message], groups: Groups | None
    ) -> list[tuple[str, ...]]:
        """Of every sum of a round, who is asked for it: those of its group that are there.

        Raises:
            ProtocolError: no sum has as many sites as it needs.
        """
        there = {self.grid.site_of(message) for message in messages}
        found = [tuple(s for s in one if s in there) for one in groups or (tuple(there),)]
        least = self._fewest(part)
        enough = [one for one in found if len(one) >= least]
        if not enough:
            most = max(map(len, found), default=0)
            raise ProtocolError("", "advertise", f"{counted(most, 'site')}; needed: {least}")
        return enough

    def evaluate(
        self,
        number: int,
        messages: Sequence[Message],
        request: bytes,
        task: Task,
        without: tuple[str, ...] = (),
    ) -> Tested:
        """The test sums over all surviving sites.

        `without` are the sites that are left out of the run, as in `train`.

        Raises:
            ProtocolError: too few sites are left; nothing is released.
            UnusableError: one of them has added what are no test sums.
        """
        layout, fairness = task.sum_layout, self.config.fairness
        count = len(self.sites)
        own = self.config.compares_own
        payload = evaluate_payload(self.settings, count, layout, fairness, self.plan, own=own)
        opened = self._only_sum("evaluate", number, messages, request, payload, without)
        evaluation = self.plan.evaluation if self.plan else None
        if evaluation is None:
            tested = sums_of(opened.total.counters, layout, fairness)
        else:
            numbers, sites = opened.total.counters, len(opened.sites)
            tested = noised_sums_of(numbers, task, fairness, evaluation, number, sites)
        try:
            for sums in tested.all:
                task.check_sums(sums)
        except ValueError as error:
            raise UnusableError(str(error)) from None
        return tested

    def screen(
        self, messages: Sequence[Message], request: bytes, layout: ScreeningLayout | TableLayout
    ) -> Sum:
        """The sums of tables before the first round, over the sites that survive.

        Raises:
            ProtocolError: too few sites are left; nothing is released.
        """
        payload = screen_payload(self.settings, len(self.sites), layout)
        return self._only_sum("screen", 0, messages, request, payload, ())

    def _only_sum(
        self,
        part: Part,
        number: int,
        messages: Sequence[Message],
        request: bytes,
        payload: AnyPayload,
        without: tuple[str, ...],
    ) -> Sum:
        """One sum over all sites that are there."""
        tally = Tally()
        try:
            (cohort,) = self._cohorts(part, messages, None)
            params = self._params(part, number, cohort, request, payload)
            by_site = {self.grid.site_of(message): message for message in messages}
            (opened,) = self._opened(AskedSums(by_site, [params], payload, tally, without))
        except ProtocolError as error:
            raise tally.error(error) from None
        for site, reason in tally.reasons().items():
            log.warning("round %d, %s: the sum is without %s: %s", number, part, site, reason)
        return opened

    def train_payload(self) -> AnyPayload:
        """The form of a contribution; also the check that the ring is large enough.

        Raises:
            ConfigError: it is not.
        """
        together = sites_in_sum(self.config, "train", len(self.sites))
        proved = self.config.robust.proves
        return payload_of(self._form, self.settings, together, self.bound(), proved=proved)

    @property
    def _form(self) -> Form:
        """Of what leaves a site."""
        stack = stack_of(self.config, self.layout.size)
        return route_of(self.config, self.plan).form(stack)

    def bound(self, clip_norm: float = 0.0) -> SumBound | None:
        """What honest sites can make; None where no rule bounds it.

        `clip_norm` is that of one round, zero for what holds in all of them.
        """
        return bound_of(self.config, self.plan, self._form, clip_norm)

    @cached_property
    def largest(self) -> int:
        """The records of the largest site, where all weights are scaled to it; else zero."""
        return scaled_to(self.records.values(), self.settings.max_weight)

    def weight(self, records: int) -> int:
        """What a site of so many records weighs in a sum in which sites have weights."""
        return weight_in_sum(records, most=self.settings.max_weight, largest=self.largest)

    def _counts(self, payload: AnyPayload) -> bool:
        """Whether the number of sites in a sum is checked here: where no bound does it."""
        return payload.counts_sites and self.bound() is None

    def check(self) -> None:
        """Refuse before the first round what could not be summed.

        Raises:
            ConfigError: too few bits, steps too coarse, or a cohort too small for its
                threshold or for `secagg.min_cohort`.
        """
        if not self.config.statistics.idle:
            self._check_statistics()
            return
        self.train_payload()
        route_of(self.config, self.plan).check(stack_of(self.config, self.layout.size))
        cohort = cohort_size(self.config.strategy, len(self.sites))
        least = self.settings.least
        refuse(cohort_problems(self.config, least, len(self.sites)), ConfigError)
        sizes = sizes_of(self.config, cohort)
        if sizes.smallest < least:
            raise ConfigError(
                [
                    f"secagg.min_cohort={least}: groups have "
                    f"{counted(sizes.smallest, 'site')}. Raise "
                    "robust.size, or choose robust=bounded"
                ]
            )
        for size in range(sizes.smallest, sizes.largest + 1):
            self.check_cohorts(size)
        self._tell_of_chance(sizes)
        if evaluates_in_sum(self.config):
            self._degree(cohort, "evaluate")
        if not self.config.screening.idle:
            self._degree(len(self.sites), "screen")

    def _check_statistics(self) -> None:
        """The same where tables are summed once, and nothing else."""
        sites, least = len(self.sites), self._fewest("screen")
        if sites < least:
            raise ConfigError(
                [f"secagg.min_cohort={least}: {counted(sites, 'site')} take part. Invite more"]
            )
        self._degree(sites, "screen")

    def _tell_of_chance(self, sizes: Sizes) -> None:
        """What chance does to those who are summed with a site, before anybody is asked."""
        grouped = self.config.robust.group_size is not None and sizes.groups > 1
        if not grouped or not self.settings.hides:
            return
        counted_on = part_of_sites(getattr(self.settings, "corrupt_fraction", 0.0), sizes.sites)
        withstood = self._withstood(sizes.smallest)
        for one in chances(sizes, withstood, counted_on, self.config.most_rounds):
            log.warning("groups of %d sites: %s", sizes.smallest, one)

    def _withstood(self, cohort: int) -> int:
        """So many of a sum may work with the coordinator: all but two know no single update."""
        return cohort - 2

    def check_cohorts(self, cohort: int) -> None:
        """Refuse what cannot be summed by `cohort` sites, or by those that a round may have left.

        Raises:
            ConfigError: masks cannot withstand what they should and let a round finish.
        """

    @abstractmethod
    def _opened(self, asked: AskedSums) -> list[Sum]:
        """The protocol of this kind of sum; those of its sums that could be opened.

        Raises:
            ProtocolError: none could.
        """

    def _degree(self, cohort: int, part: Part) -> Degree:
        """With how many others a site shares its secrets, and how many are needed to open them."""
        return Degree(neighbours=0, threshold=0, corrupt=0, dropped=cohort)

    def _params(
        self,
        part: Part,
        number: int,
        cohort: tuple[str, ...],
        request: bytes,
        payload: AnyPayload,
    ) -> Params:
        degree = self._degree(len(cohort), part)
        return Params(
            run_id=self.run_id,
            round=protocol_round(part, number),
            cohort=sorted_names(cohort),
            neighbours=degree.neighbours,
            threshold=degree.threshold,
            bits=payload.ring.bits,
            length=payload.length,
            layout_hash=bytes.fromhex(self.layout.digest()),
            plan_hash=plan_digest(self.config, payload, part, self.plan),
            request_hash=request,
        )

    def _fewest(self, part: Part) -> int:
        """The fewest sites whose sum may be opened."""
        return least_of(self.plan, self.settings.least, part)

    def _least(self, asked: AskedSums) -> int:
        """The same of the sums that are asked for."""
        return self._fewest(part_of(asked.params[0].round)[0])

    def _contributions(
        self,
        asked: AskedSums,
        requests: Mapping[str, bytes],
        add: Callable[[str, bytes], None],
    ) -> list[str]:
        """Ask for vectors and `add` each as it comes; the sites whose vector is in the sum."""
        messages = [
            flower.with_request(asked.by_site[site], request) for site, request in requests.items()
        ]
        tally = asked.tally
        tally.asked = sorted(requests)

        def keep(site: str, reply: Message) -> Message:
            data = _contribution(reply.content)
            try:
                add(site, data)
            except ValueError as error:
                raise ProtocolError(site, "mask", str(error)) from None
            return private.without(reply, "contribution")

        replies = self.grid.exchange(messages, _contribution, keep, sorts=False)
        tally.note(replies)
        tally.contributed |= replies.answers
        return list(replies.answers)


def _nothing() -> Sequence[Sum]:
    raise RuntimeError("a round gave a reason and no sum")


def _contribution(content: RecordDict) -> bytes:
    """The contribution in a reply; ValueError and the like for what is none."""
    data = read_large_bytes(content, "contribution")
    if not isinstance(data, bytes):
        raise ValueError("no contribution")
    flower.read_spent(content)
    return data
