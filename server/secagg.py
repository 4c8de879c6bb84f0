"""Secure aggregation, as the coordinator drives it: the strategy gets one reply, the mean.

The steps of the protocol run over named sites; a site that vanishes, answers
late or breaks the protocol is left out from there on, and the round goes on
while the threshold holds. There is never more than one running sum of a group here; of
two servers the first keeps masked vectors, packed, until the second has said
which it could open.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import numpy as np
from flwr.app import Message, RecordDict

from fedlearn.agreement import Part, masks_of
from fedlearn.core.errors import ConfigError, ProtocolError, counted
from fedlearn.core.ring import RingVector, unpack
from fedlearn.flower import messages as flower
from fedlearn.flower.records import read_small_bytes, small_bytes
from fedlearn.secagg import proven
from fedlearn.secagg.graph import COMPLETE_UP_TO, Degree, degree_of
from fedlearn.secagg.proven_payload import ProvenPayload
from fedlearn.secagg.server import Receive, ServerSession, run_steps
from fedlearn.secagg.settings import SecAggMasked, SecAggRing, SecAggTwoServer
from fedlearn.secagg.two_server import FirstServer, OpenedSum
from server.driver import SecAggDriver
from server.helper import SecondServer
from server.sums import AskedSums, Sum

log = logging.getLogger(__name__)


class RingDriver(SecAggDriver[SecAggRing]):
    """The sum alone, without masks."""

    def _opened(self, asked: AskedSums) -> list[Sum]:
        requests = dict.fromkeys(asked.place, len(self.sites).to_bytes(4, "big"))
        ring, length, place = asked.payload.ring, asked.payload.length, asked.place
        totals = [ring.zeros(length) for _ in asked.params]

        def add(site: str, data: bytes) -> None:
            total = totals[place[site]]
            np.add(total, unpack(data, length, ring), out=total)

        taken = self._contributions(asked, requests, add)
        least, found = self._least(asked), []
        for at, total in enumerate(totals):
            sites = tuple(site for site in taken if place[site] == at)
            if len(sites) >= least:
                found.append(Sum(sites, asked.payload.decode(ring.reduce(total))))
        if not found:
            raise ProtocolError(
                "", "sum", f"{counted(len(taken), 'site is', 'sites are')} left; needed: {least}"
            )
        return found


class TwoServerDriver(SecAggDriver[SecAggTwoServer]):
    """Shares of the sum at two servers."""

    def _opened(self, asked: AskedSums) -> list[Sum]:
        if isinstance(asked.payload, ProvenPayload):
            return self._proven(asked, asked.payload)
        least, place = self._least(asked), asked.place
        firsts = [FirstServer(one, self.sites, least) for one in asked.params]
        requests = {site: firsts[at].params.encode() for site, at in place.items()}
        self._contributions(
            asked, requests, lambda site, data: firsts[place[site]].receive(site, data)
        )
        found, lost = [], list[ProtocolError]()
        for first in firsts:
            try:
                masks = self._second.answer(first.params, first.request())
                opened = first.finish(masks)
                total = asked.payload.decode(self._total(asked, opened))
            except ProtocolError as error:
                lost.append(error)
            else:
                found.append(Sum(opened.taken, total))
        return _some(found, lost)

    def _proven(self, asked: AskedSums, payload: ProvenPayload) -> list[Sum]:
        """The sums of those whose proofs hold; the others are named."""
        own, place = (self.sites, payload.bound, self._least(asked)), asked.place
        firsts = [proven.ProvingServer(one, *own) for one in asked.params]

        def take(site: str, data: bytes) -> None:
            firsts[place[site]].receive(site, data, self._allowed(site, payload.max_weight))

        requests = {site: firsts[at].params.encode() for site, at in place.items()}
        self._contributions(asked, requests, take)
        found, lost = [], list[ProtocolError]()
        for first in firsts:
            try:
                proved = first.finish(self._second.answer(first.params, first.request()))
                total = self._total(asked, proved)
            except ProtocolError as error:
                lost.append(error)
            else:
                found.append(Sum(proved.taken, payload.decode(total, proved.weight)))
        return _some(found, lost)

    def _total(self, asked: AskedSums, opened: OpenedSum) -> RingVector:
        """What was opened; who is not in it is named, whatever comes of it.

        Raises:
            ProtocolError: too few are in it, by this server's own count or by the second one's.
        """
        asked.tally.failures |= opened.refused
        left = f"{counted(len(opened.taken), 'site is', 'sites are')} left"
        if len(opened.taken) < opened.needed:
            raise ProtocolError("", "sum", f"{left}; needed: {opened.needed} of {opened.asked}")
        if opened.total is None:
            raise ProtocolError("", "sum", f"{left}; the second server asks for more")
        return opened.total

    def _withstood(self, cohort: int) -> int:
        """Of a cohort the coordinator may leave out whom it likes, down to the least of a sum."""
        return super()._withstood(min(cohort, self._fewest("train")))

    def _allowed(self, site: str, most: int) -> Container[int]:
        """What a site may weigh: one, or its records, or any number where it has not told them."""
        if not self._form.weighted:
            return (1,)
        known = self.records.get(site)
        return range(most + 1) if known is None else (self.weight(known),)

    @property
    def _second(self) -> SecondServer:
        if self.helper is None:
            raise RuntimeError("two_server without its second server")
        return self.helper


class MaskedDriver(SecAggDriver[SecAggMasked]):
    """The steps of the protocol with masks."""

    def _masks(self, part: Part) -> SecAggMasked:
        return masks_of(self.settings, self.plan, part)

    def _fewest(self, part: Part) -> int:
        return self._masks(part).min_cohort

    def _degree(self, cohort: int, part: Part) -> Degree:
        """As few neighbours as hide a site among the honest."""
        return degree_of(self._masks(part), cohort)

    def _withstood(self, cohort: int) -> int:
        return min(super()._withstood(cohort), self._degree(cohort, "train").corrupt)

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
                    f"privacy.max_dropouts={silent}: masks of {counted(cohort, 'site')} "
                    "that withstand "
                    f"{found.corrupt} that work with the coordinator let a round finish without "
                    f"{found.dropped} at most. Set privacy.max_dropouts to that, lower "
                    "privacy.max_colluders or secagg.corrupt_fraction, or invite more sites"
                ]
            )

    def _opened(self, asked: AskedSums) -> list[Sum]:
        least = self._least(asked)
        sessions = [ServerSession(one, self.sites, least) for one in asked.params]

        def ask(step: str, requests: Mapping[str, bytes], receive: Receive) -> None:
            if step == "mask":
                self._contributions(asked, requests, receive)
            else:
                self._step(step, requests, receive, asked)

        opened, lost = run_steps(sessions, ask)
        decode = asked.payload.decode
        return _some([Sum(tuple(one.survivors), decode(one.total())) for one in opened], lost)

    def _step(
        self, step: str, requests: Mapping[str, bytes], receive: Receive, asked: AskedSums
    ) -> None:
        """One step without vectors."""
        messages = (
            Message(
                self._request(step, request, asked.without),
                dst_node_id=self.grid.node_of[site],
                message_type=f"{flower.SECAGG}{step}",
            )
            for site, request in requests.items()
        )

        def keep(site: str, reply: Message) -> Message:
            receive(site, _step_reply(reply.content))
            return reply

        asked.tally.note(self.grid.exchange(messages, keep=keep))

    @staticmethod
    def _request(step: str, request: bytes, without: tuple[str, ...]) -> RecordDict:
        if step == "advertise":
            return flower.advertise_request(request, without)
        return small_bytes("secagg", request)


def _some(found: list[Sum], lost: Sequence[ProtocolError]) -> list[Sum]:
    """The sums that could be opened.

    Raises:
        ProtocolError: none could; why the first could not.
    """
    if not found:
        raise lost[0]
    for error in lost:
        log.warning("one sum of the round could not be opened: %s", error)
    return found


DRIVERS: Final[Mapping[type, type[SecAggDriver[Any]]]] = {
    SecAggRing: RingDriver,
    SecAggMasked: MaskedDriver,
    SecAggTwoServer: TwoServerDriver,
}
"""The coordinator's end of every kind of sum."""


def _step_reply(content: RecordDict) -> bytes:
    data = read_small_bytes(content, "secagg")
    if data is None:
        raise ValueError("no bytes of the protocol")
    return data
