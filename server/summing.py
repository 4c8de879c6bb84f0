"""Secure aggregation, as the coordinator drives it: the strategy gets one reply, the mean.

The steps of the protocol run over named sites; a site that vanishes, answers
late or breaks the protocol is left out from there on, and the round goes on
while the threshold holds. There is never more than one running sum here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
from flwr.app import Message

from fedlearn import flower
from fedlearn.agreement import (
    Part,
    evaluate_payload,
    least_of,
    part_of,
    plan_digest,
    protocol_round,
    sums_of,
    train_payload,
)
from fedlearn.config import RunConfig
from fedlearn.crypto.codec import sorted_names
from fedlearn.errors import FedlearnError, PrivacyError, ProtocolError
from fedlearn.metrics import EvaluationSums
from fedlearn.privacy import ClientPlan, PrivacyPlan
from fedlearn.privacy.client_level import room_to_round
from fedlearn.ring import unpack
from fedlearn.rounds import Refusal
from fedlearn.secagg.graph import Degree, choose_degree
from fedlearn.secagg.messages import Params
from fedlearn.secagg.payload import Total
from fedlearn.secagg.server import ServerSession
from fedlearn.secagg.settings import SecAggMasked, SecAggRing, SecAggSum, SecAggTwoServer
from fedlearn.secagg.two_server import FirstServer, Helper
from fedlearn.secagg.whole import AnyPayload, WholePayload
from fedlearn.vector import Layout, Vector, vector_digest
from server.grid import Replies, SiteGrid


@dataclass
class Tally:
    """What became of every site in one protocol run."""

    contributed: dict[str, Message] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, replies: Replies) -> None:
        """Keep the refusals and failures of one exchange."""
        self.refusals += replies.refusals
        self.failures |= replies.failures

    def replies(self, survivors: Sequence[str]) -> Replies:
        """The outcome, with the replies of those whose contribution is in the sum."""
        answers = {site: self.contributed[site] for site in survivors}
        return Replies(answers, self.refusals, self.failures)


@dataclass(frozen=True)
class Summing:
    """Sums over the sites of a run; `sites` are their public keys by name."""

    grid: SiteGrid
    config: RunConfig
    settings: SecAggSum
    plan: PrivacyPlan | None
    run_id: bytes
    sites: Mapping[str, bytes]
    layout: Layout
    helper: Helper | None

    def train(
        self, number: int, messages: Sequence[Message], model: Vector
    ) -> tuple[Replies, Total]:
        """The sites in the sum of a round, and that sum.

        Raises:
            ProtocolError: too few sites are left; nothing is released.
        """
        payload = self.train_payload()
        replies, total = self._sum("train", number, messages, model, payload)
        if isinstance(payload, WholePayload) and total.weight != len(replies.answers):
            raise ProtocolError(
                "", f"round {number}", "the sum does not hold what its sites say they added"
            )
        return replies, total

    def evaluate(
        self, number: int, messages: Sequence[Message], model: Vector, classes: int
    ) -> EvaluationSums:
        """The test sums over all surviving sites.

        Raises:
            ProtocolError: too few sites are left; nothing is released.
        """
        payload = evaluate_payload(self.settings, len(self.sites), classes)
        _, total = self._sum("evaluate", number, messages, model, payload)
        return sums_of(total.counters, classes)

    def train_payload(self) -> AnyPayload:
        """The form of a contribution; also the check that the ring is large enough.

        Raises:
            ConfigError: it is not.
        """
        return train_payload(self.plan, self.settings, len(self.sites), self.layout.size)

    def check(self) -> None:
        """Refuse before the first round what could not be summed.

        Raises:
            ConfigError: too few bits, a cohort too small for its threshold, or steps too coarse.
        """
        payload = self.train_payload()
        if isinstance(self.plan, ClientPlan):
            size, resolution = self.layout.size, self.settings.resolution
            room_to_round(self.plan.clip_norm, size=size, resolution=resolution)
        cohort = tuple(self.sites)
        self._params("train", 0, cohort, np.zeros(0, np.float32), payload)

    def _sum(
        self,
        part: Part,
        number: int,
        messages: Sequence[Message],
        model: Vector,
        payload: AnyPayload,
    ) -> tuple[Replies, Total]:
        by_site = {self.grid.site_of(message): message for message in messages}
        params = self._params(part, number, tuple(by_site), model, payload)
        tally = Tally()
        match self.settings:
            case SecAggRing():
                return self._ring(by_site, params, payload, tally)
            case SecAggMasked():
                return self._masked(by_site, params, payload, tally)
            case SecAggTwoServer():
                return self._two_server(by_site, params, payload, tally)
            case _:
                assert_never(self.settings)

    def _params(
        self,
        part: Part,
        number: int,
        cohort: tuple[str, ...],
        model: Vector,
        payload: AnyPayload,
    ) -> Params:
        degree = Degree(neighbours=0, threshold=0)
        if isinstance(self.settings, SecAggMasked):
            fractions = self.settings.corrupt_fraction, self.settings.dropout_fraction
            degree = choose_degree(len(cohort), *fractions)
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
            model_hash=bytes.fromhex(vector_digest(model)),
        )

    def _least(self, params: Params) -> int:
        """The fewest sites whose sum may be opened."""
        least = 1 if isinstance(self.settings, SecAggRing) else self.settings.min_cohort
        return least_of(self.plan, least) if part_of(params.round)[0] == "train" else least

    def _contributions(
        self, by_site: Mapping[str, Message], requests: Mapping[str, bytes], tally: Tally
    ) -> dict[str, bytes]:
        """Ask for vectors; what arrived, by site."""
        asked = [flower.with_request(by_site[site], request) for site, request in requests.items()]
        replies = self.grid.exchange(asked)
        tally.note(replies)
        found = {}
        for site, reply in replies.answers.items():
            data = flower.read_large_bytes(reply.content, "contribution")
            if data is None:
                tally.failures[site] = "its reply has no contribution"
            else:
                found[site] = data
                tally.contributed[site] = reply
        return found

    def _ring(
        self, by_site: Mapping[str, Message], params: Params, payload: AnyPayload, tally: Tally
    ) -> tuple[Replies, Total]:
        requests = dict.fromkeys(by_site, b"")
        total, taken = payload.ring.zeros(payload.length), []
        for site, data in self._contributions(by_site, requests, tally).items():
            try:
                total += unpack(data, payload.length, payload.ring)
                taken.append(site)
            except ValueError as error:
                tally.failures[site] = str(error)
        least = self._least(params)
        if len(taken) < least:
            missing = ProtocolError("", "sum", f"{len(taken)} sites are left; needed: {least}")
            raise self._with_reasons(missing, tally)
        return tally.replies(taken), payload.decode(payload.ring.reduce(total))

    def _two_server(
        self,
        by_site: Mapping[str, Message],
        params: Params,
        payload: AnyPayload,
        tally: Tally,
    ) -> tuple[Replies, Total]:
        if self.helper is None:
            raise RuntimeError("two_server without its second server")
        first, taken = FirstServer(params, self.sites), []
        requests = dict.fromkeys(by_site, params.encode())
        for site, data in self._contributions(by_site, requests, tally).items():
            try:
                first.receive(site, data)
                taken.append(site)
            except ProtocolError as error:
                tally.failures[site] = error.reason
        try:
            masks = self.helper.sum_masks(params, first.request())
        except ProtocolError as error:
            raise self._with_reasons(error, tally) from None
        return tally.replies(taken), payload.decode(first.finish(masks))

    def _masked(
        self,
        by_site: Mapping[str, Message],
        params: Params,
        payload: AnyPayload,
        tally: Tally,
    ) -> tuple[Replies, Total]:
        assert isinstance(self.settings, SecAggMasked)  # noqa: S101  (told apart by the caller)
        session = ServerSession(params, self.sites, self._least(params))
        while session.step != "done":
            for site, data in self._step(session, by_site, tally).items():
                try:
                    session.receive(site, data)
                except ProtocolError as error:
                    tally.failures[site] = error.reason
            try:
                session.close_step()
            except ProtocolError as error:
                raise self._with_reasons(error, tally) from None
        return tally.replies(session.survivors), payload.decode(session.total())

    def _step(
        self, session: ServerSession, by_site: Mapping[str, Message], tally: Tally
    ) -> dict[str, bytes]:
        """One step's replies by site."""
        if session.step == "mask":
            return self._contributions(by_site, session.requests(), tally)
        replies = self.grid.exchange(
            Message(
                flower.small_bytes("secagg", request),
                dst_node_id=self.grid.node_of[site],
                message_type=f"{flower.SECAGG}{session.step}",
            )
            for site, request in session.requests().items()
        )
        tally.note(replies)
        return {
            site: flower.read_small_bytes(reply.content, "secagg") or b""
            for site, reply in replies.answers.items()
        }

    def _with_reasons(self, error: ProtocolError, tally: Tally) -> FedlearnError:
        exhausted = [r.reason for r in tally.refusals if r.exit_code == PrivacyError.exit_code]
        if exhausted:
            return PrivacyError("\n".join(exhausted))
        reasons = [f"{site}: {reason}" for site, reason in tally.failures.items()]
        reasons += [f"{refusal.site}: {refusal.reason}" for refusal in tally.refusals]
        return ProtocolError("", error.step, "; ".join([error.reason, *reasons]))
