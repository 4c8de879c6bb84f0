"""Secure aggregation, as the coordinator drives it: the strategy gets one reply, the mean.

The steps of the protocol run over named sites; a site that vanishes, answers
late or breaks the protocol is left out from there on, and the round goes on
while the threshold holds. There is never more than one running sum here.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import numpy as np
from flwr.app import Message, RecordDict

from fedlearn import flower
from fedlearn.agreement import (
    Part,
    bound_of,
    evaluate_payload,
    least_of,
    masks_of,
    noised_sums_of,
    part_of,
    payload_of,
    plan_digest,
    protocol_round,
    route_of,
    stack_of,
    sums_of,
)
from fedlearn.algorithms import cohort_size
from fedlearn.config import RunConfig
from fedlearn.core.errors import ConfigError, FedlearnError, PrivacyError, ProtocolError
from fedlearn.core.ring import unpack
from fedlearn.core.vector import Layout
from fedlearn.crypto.codec import sorted_names
from fedlearn.flower import private
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.mechanisms.reach import SumBound
from fedlearn.metrics.sums import Sums
from fedlearn.rounds import Refusal
from fedlearn.secagg.graph import COMPLETE_UP_TO, Degree, degree_of
from fedlearn.secagg.messages import Params
from fedlearn.secagg.server import ServerSession
from fedlearn.secagg.settings import SecAggMasked, SecAggRing, SecAggSum, SecAggTwoServer
from fedlearn.secagg.two_server import FirstServer, Helper
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Form, Total
from fedlearn.tasks import Task
from server.grid import Replies, SiteGrid


class UnusableError(ProtocolError):
    """A sum was opened and is none of what it should be; whose fault that is the masks hide."""

    def __init__(self, reason: str) -> None:
        super().__init__("", "sum", f"of the sites one has lied: {reason}")


@dataclass
class Tally:
    """What became of every site in one protocol run."""

    asked: list[str] = field(default_factory=list)
    """Sites that got the model, and may have trained."""
    contributed: dict[str, Message] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, replies: Replies) -> None:
        """Keep the refusals and failures of one exchange."""
        self.refusals += replies.refusals
        self.failures |= replies.failures

    def replies(self, survivors: Iterable[str]) -> Replies:
        """The outcome, with the replies of those whose contribution is in the sum."""
        answers = {site: self.contributed[site] for site in survivors}
        return Replies(answers, self.refusals, self.failures)


@dataclass(frozen=True)
class Aggregate:
    """What came of a training round: the `total` of its sites, or else `failure`.

    `replies` are those of the sites in the sum; where there is none, of all that had
    contributed: they have trained, and paid for it.
    """

    asked: list[str]
    replies: Replies
    total: Callable[[], Total]
    failure: FedlearnError | None


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
    helper: Helper | None

    def train(self, number: int, messages: Sequence[Message], request: bytes) -> Aggregate:
        """The sum over the surviving sites; with too few left, nothing but the reason.

        `request` is the digest of what all of them are asked (`agreement.request_digest`).

        A failure is returned, not raised: what the sites have spent must still be accounted for.
        """
        payload, tally = self.train_payload(), Tally()
        try:
            survivors, total = self._sum("train", number, messages, request, payload, tally)
            if self._counts(payload) and total.weight != len(survivors):
                raise ProtocolError("", "sum", "it does not hold what its sites say they added")
            if total.weight == 0:
                raise ProtocolError("", "mask", "no site has a record to train on")
        except ProtocolError as error:
            failure = self._with_reasons(error, tally)
            return Aggregate(tally.asked, tally.replies(tally.contributed), _nothing, failure)
        return Aggregate(tally.asked, tally.replies(survivors), lambda: total, None)

    def evaluate(
        self, number: int, messages: Sequence[Message], request: bytes, task: Task
    ) -> tuple[Sums, dict[str, Sums]]:
        """The test sums over all surviving sites, and those of every group of people.

        Raises:
            ProtocolError: too few sites are left; nothing is released.
            UnusableError: one of them has added what are no test sums.
        """
        layout, fairness, tally = task.sum_layout, self.config.fairness, Tally()
        count = len(self.sites)
        payload = evaluate_payload(self.settings, count, layout, fairness, self.plan)
        try:
            survivors, total = self._sum("evaluate", number, messages, request, payload, tally)
        except ProtocolError as error:
            raise self._with_reasons(error, tally) from None
        evaluation = self.plan.evaluation if self.plan else None
        if evaluation is None:
            tested, groups = sums_of(total.counters, layout, fairness)
        else:
            numbers, sites = total.counters, len(survivors)
            tested, groups = noised_sums_of(numbers, task, fairness, evaluation, number, sites)
        try:
            for sums in (tested, *groups.values()):
                task.check_sums(sums)
        except ValueError as error:
            raise UnusableError(str(error)) from None
        return tested, groups

    def train_payload(self) -> AnyPayload:
        """The form of a contribution; also the check that the ring is large enough.

        Raises:
            ConfigError: it is not.
        """
        return payload_of(self._form, self.settings, len(self.sites), self.bound())

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

    def _counts(self, payload: AnyPayload) -> bool:
        """Whether the number of sites in a sum is checked here: where no bound does it."""
        return payload.counts_sites and self.bound() is None

    def check(self) -> None:
        """Refuse before the first round what could not be summed.

        Raises:
            ConfigError: too few bits, steps too coarse, or a cohort too small for its
                threshold or for `secagg.min_cohort`.
        """
        self.train_payload()
        route_of(self.config, self.plan).check(stack_of(self.config, self.layout.size))
        cohort = cohort_size(self.config.strategy, len(self.sites))
        least = self.settings.least
        if cohort < least:
            raise ConfigError(
                [
                    f"secagg.min_cohort={least}: a round has {cohort} of {len(self.sites)} "
                    "sites; invite more, raise strategy.fraction, or set secagg=off"
                ]
            )
        self.check_cohorts(cohort)

    def check_cohorts(self, cohort: int) -> None:
        """Refuse what cannot be summed by `cohort` sites, or by those that a round may have left.

        Raises:
            ConfigError: masks cannot withstand what they should and let a round finish.
        """

    def _sum(
        self,
        part: Part,
        number: int,
        messages: Sequence[Message],
        request: bytes,
        payload: AnyPayload,
        tally: Tally,
    ) -> tuple[Sequence[str], Total]:
        """The sites in the sum, and the sum; `tally` is kept up whatever happens."""
        by_site = {self.grid.site_of(message): message for message in messages}
        least = self._fewest(part)
        if len(by_site) < least:
            raise ProtocolError("", "advertise", f"{len(by_site)} sites; needed: {least}")
        params = self._params(part, number, tuple(by_site), request, payload)
        return self._opened(by_site, params, payload, tally)

    @abstractmethod
    def _opened(
        self, by_site: Mapping[str, Message], params: Params, payload: AnyPayload, tally: Tally
    ) -> tuple[Sequence[str], Total]:
        """The protocol of this kind of sum."""

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

    def _contributions(
        self,
        by_site: Mapping[str, Message],
        requests: Mapping[str, bytes],
        tally: Tally,
        add: Callable[[str, bytes], None],
    ) -> list[str]:
        """Ask for vectors and `add` each as it comes; the sites whose vector is in the sum."""
        asked = [flower.with_request(by_site[site], request) for site, request in requests.items()]
        tally.asked = list(requests)

        def keep(site: str, reply: Message) -> Message:
            data = _contribution(reply.content)
            try:
                add(site, data)
            except ValueError as error:
                raise ProtocolError(site, "mask", str(error)) from None
            return private.without(reply, "contribution")

        replies = self.grid.exchange(asked, _contribution, keep)
        tally.note(replies)
        tally.contributed |= replies.answers
        return list(replies.answers)

    def _with_reasons(self, error: ProtocolError, tally: Tally) -> FedlearnError:
        exhausted = [r.reason for r in tally.refusals if r.exit_code == PrivacyError.exit_code]
        if exhausted:
            return PrivacyError("\n".join(exhausted))
        reasons = [f"{site}: {reason}" for site, reason in tally.failures.items()]
        reasons += [f"{refusal.site}: {refusal.reason}" for refusal in tally.refusals]
        return ProtocolError("", error.step, "; ".join([error.reason, *reasons]))


class RingDriver(SecAggDriver[SecAggRing]):
    """The sum alone, without masks."""

    def _opened(
        self, by_site: Mapping[str, Message], params: Params, payload: AnyPayload, tally: Tally
    ) -> tuple[Sequence[str], Total]:
        requests = dict.fromkeys(by_site, len(self.sites).to_bytes(4, "big"))
        total = payload.ring.zeros(payload.length)

        def add(_site: str, data: bytes) -> None:
            np.add(total, unpack(data, payload.length, payload.ring), out=total)

        taken = self._contributions(by_site, requests, tally, add)
        least = self._fewest(part_of(params.round)[0])
        if len(taken) < least:
            raise ProtocolError("", "sum", f"{len(taken)} sites are left; needed: {least}")
        return taken, payload.decode(payload.ring.reduce(total))


class TwoServerDriver(SecAggDriver[SecAggTwoServer]):
    """Shares of the sum at two servers."""

    def _opened(
        self, by_site: Mapping[str, Message], params: Params, payload: AnyPayload, tally: Tally
    ) -> tuple[Sequence[str], Total]:
        if self.helper is None:
            raise RuntimeError("two_server without its second server")
        first = FirstServer(params, self.sites)
        requests = dict.fromkeys(by_site, params.encode())
        taken = self._contributions(by_site, requests, tally, first.receive)
        masks = self.helper.sum_masks(params, first.request())
        return taken, payload.decode(first.finish(masks))


class MaskedDriver(SecAggDriver[SecAggMasked]):
    """The steps of the protocol with masks."""

    def _masks(self, part: Part) -> SecAggMasked:
        return masks_of(self.settings, self.plan, part)

    def _fewest(self, part: Part) -> int:
        return self._masks(part).min_cohort

    def _degree(self, cohort: int, part: Part) -> Degree:
        """As few neighbours as hide a site among the honest."""
        return degree_of(self._masks(part), cohort)

    def check_cohorts(self, cohort: int) -> None:
        """Every size from the smallest that is summed; and all dropouts that noise is added for."""
        found = self._degree(cohort, "train")
        for size in range(self._fewest("train"), min(cohort, COMPLETE_UP_TO)):
            self._degree(size, "train")
        log.info(
            "masks of %d sites withstand %d that work with the coordinator; %d may fall silent",
            *(cohort, found.corrupt, found.dropped),
        )
        silent = cohort - self.plan.min_survivors if self.plan and self.plan.needs_sum else 0
        if silent > found.dropped:
            raise ConfigError(
                [
                    f"privacy.max_dropouts={silent}: masks of {cohort} sites that withstand "
                    f"{found.corrupt} that work with the coordinator let a round finish without "
                    f"{found.dropped} at most. Set privacy.max_dropouts to that, lower "
                    "privacy.max_colluders or secagg.corrupt_fraction, or invite more sites"
                ]
            )

    def _opened(
        self, by_site: Mapping[str, Message], params: Params, payload: AnyPayload, tally: Tally
    ) -> tuple[Sequence[str], Total]:
        least = self._fewest(part_of(params.round)[0])
        session = ServerSession(params, self.sites, least)
        while session.step != "done":
            if session.step == "mask":
                self._contributions(by_site, session.requests(), tally, session.receive)
            else:
                self._step(session, tally)
            session.close_step()
        return session.survivors, payload.decode(session.total())

    def _step(self, session: ServerSession, tally: Tally) -> None:
        """One step without vectors."""
        asked = (
            Message(
                flower.small_bytes("secagg", request),
                dst_node_id=self.grid.node_of[site],
                message_type=f"{flower.SECAGG}{session.step}",
            )
            for site, request in session.requests().items()
        )
        replies = self.grid.exchange(asked, check=_step_reply)
        tally.note(replies)
        for site, reply in replies.answers.items():
            try:
                session.receive(site, _step_reply(reply.content))
            except ProtocolError as error:
                tally.failures[site] = error.reason


DRIVERS: Final[Mapping[type, type[SecAggDriver[Any]]]] = {
    SecAggRing: RingDriver,
    SecAggMasked: MaskedDriver,
    SecAggTwoServer: TwoServerDriver,
}
"""The coordinator's end of every kind of sum."""


def _nothing() -> Total:
    raise RuntimeError("a round gave a reason and no sum")


def _contribution(content: RecordDict) -> bytes:
    """The contribution in a reply; ValueError and the like for what is none."""
    data = flower.read_large_bytes(content, "contribution")
    if not isinstance(data, bytes):
        raise ValueError("no contribution")
    flower.read_spent(content)
    return data


def _step_reply(content: RecordDict) -> bytes:
    data = flower.read_small_bytes(content, "secagg")
    if data is None:
        raise ValueError("no bytes of the protocol")
    return data
