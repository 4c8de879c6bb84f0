"""A site's end of secure aggregation, message by message.

The session of a round lives in Flower's `Context.state`, like the channel: it
is secret, and stays at the site.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from clients.joining import SERVER, identity_of, joined_run, secret_bytes
from clients.site import Site
from clients.sum_policy import Terms, params_of
from fedlearn import flower
from fedlearn.agreement import Part, part_of, protocol_round
from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import RingVector, pack
from fedlearn.core.rng import Streams
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import SecureWords
from fedlearn.privacy import Event
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.settings import SecAggMasked, SecAggOff, SecAggTwoServer
from fedlearn.secagg.two_server import contribute
from fedlearn.secagg.whole import AnyPayload, WholePayload

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WholeContribution:
    """What a site adds to a sum under distributed privacy: noisy integers, `int64[d]`."""

    integers: NDArray[np.int64]


@dataclass(frozen=True)
class SiteContribution:
    """What a site adds to a sum: `values: float32[d]`, a weight, and exact counters."""

    values: NDArray[np.float32]
    weight: int
    counters: list[int]


def secagg_step(message: Message, context: Context, site: Site) -> RecordDict:
    """One of the steps of secure aggregation that carry no vector."""
    step = message.metadata.message_type.removeprefix(flower.SECAGG)
    request = flower.read_small_bytes(message.content, "secagg")
    if request is None or not isinstance(site.config.secagg, SecAggMasked):
        raise ProtocolError(SERVER, step, "the message has no request, or this run does not mask")
    part, number = part_of(_protocol_round(context, step, request))
    summing = SecAggClient(Terms(site, context, site.config.secagg, part, number))
    return flower.small_bytes("secagg", summing.step(site.config.secagg, step, request))


def _protocol_round(context: Context, step: str, request: bytes) -> int:
    if step != "advertise":
        stored = _stored(context)
        if stored is None:
            raise ProtocolError(SERVER, step, "out of order: nothing was advertised")
        return int(str(stored["round"]))
    return params_of(request).round


def _stored(context: Context) -> ConfigRecord | None:
    """The session of the last round, and which round that was."""
    return flower.config_record(context.state, "secagg")


@dataclass(frozen=True, eq=False)
class SecAggClient:
    """A site in secure aggregation, for one message."""

    terms: Terms
    """What this site compares requests with."""

    @cached_property
    def identity(self) -> Identity:
        """The key that signs this site's messages."""
        return identity_of(self.terms.context)

    @classmethod
    def of(cls, site: Site, context: Context, part: Part, number: int) -> SecAggClient | None:
        """None where the server takes this part of a round in clear."""
        settings = site.config.secagg
        if isinstance(settings, SecAggOff) or not (
            part == "train" or site.config.evaluation == "pooled"
        ):
            return None
        return cls(Terms(site, context, settings, part, number))

    def answered(self, message: Message) -> bytes | None:
        """The stored contribution to a request that comes once more; None for a new request.

        Ask before records are read or paid for.

        Raises:
            ProtocolError: the request fits no sum, whatever the site would compute.
        """
        request = self._request(message)
        match self.terms.settings:
            case SecAggMasked() as settings:
                session = self._session(settings)
                stored = session.answered(request)
                if stored is None and (session.step != "mask" or self._last_round() != self._now):
                    raise ProtocolError(SERVER, "mask", f"expected was {session.step!r}")
                return stored
            case SecAggTwoServer() as settings:
                self.terms.check_cohort(params_of(request), settings)
        return None

    def reply(
        self,
        message: Message,
        mine: SiteContribution | WholeContribution,
        model_hash: bytes,
        spent: tuple[Event, ...],
    ) -> RecordDict:
        """The contribution, encoded and protected as the config says."""
        request = self._request(message)
        payload = self.terms.payload(request)
        if isinstance(mine, SiteContribution):
            self._warn_of_cuts(mine.values)
        vector = self._encoded(payload, mine)
        match self.terms.settings:
            case SecAggMasked() as settings:
                session = self._session(settings)
                data = self._kept(session, lambda: session.mask(request, vector, model_hash))
            case SecAggTwoServer():
                params = params_of(request)
                self.terms.check(params, payload, model_hash)
                helper = secret_bytes(joined_run(self.terms.context, "mask")["helper"])
                data = contribute(self.identity, self.terms.site.name, params, vector, helper)
            case _:
                data = bytes(pack(vector, payload.ring))
        return flower.summed_reply(self.terms.site.name, bytes(data), spent)

    def _encoded(
        self, payload: AnyPayload, mine: SiteContribution | WholeContribution
    ) -> RingVector:
        match payload, mine:
            case WholePayload(), WholeContribution():
                return payload.encode(mine.integers)
            case Payload(), SiteContribution():
                # Rounding must be unbiased, not secret: from the run's streams, so runs repeat.
                name = ("rounding", self.terms.site.name, self.terms.part, self.terms.number)
                key = Streams(self.terms.site.config.seed).key(*name).to_bytes(16, "little")
                words = SecureWords(hashlib.sha256(key).digest())
                return payload.encode(mine.values, mine.weight, mine.counters, words)
            case _:
                raise RuntimeError("the contribution is not of the form that was agreed")

    def step(self, settings: SecAggMasked, step: str, request: bytes) -> bytes:
        """The answer to one of the steps without a vector."""
        session = self._session(settings, request if step == "advertise" else None)
        match step:
            case "advertise":
                # Kept only once it is accepted: the round that it names may be anything.
                answer = session.advertise(request)
                self._keep(session)
                return answer
            case "share":
                return self._kept(session, lambda: session.share(request))
            case "agree":
                return self._kept(session, lambda: session.agree(request))
            case "unmask":
                return self._kept(session, lambda: session.unmask(request))
        raise ProtocolError(SERVER, step, "no such step")

    def _request(self, message: Message) -> bytes:
        request = flower.read_small_bytes(message.content, "secagg")
        if request is None:
            raise ProtocolError(SERVER, "mask", "asks for an update in clear, and this run masks")
        return request

    def _session(self, settings: SecAggMasked, request: bytes | None = None) -> ClientSession:
        """The session of the round; a new one where `request` opens a round not seen before."""
        stored = _stored(self.terms.context)
        after = self._last_round()
        if stored is not None:
            policy = self.terms.policy(settings, after)
            data = secret_bytes(stored["session"])
            session = ClientSession.from_bytes(data, self.identity, policy)
            if request is None or session.answered(request) is not None:
                return session
        return ClientSession(self.identity, self.terms.policy(settings, after))

    @property
    def _now(self) -> int:
        return protocol_round(self.terms.part, self.terms.number)

    def _last_round(self) -> int:
        stored = _stored(self.terms.context)
        return -1 if stored is None else int(str(stored["round"]))

    def _kept(self, session: ClientSession, work: Callable[[], bytes]) -> bytes:
        """The answer; with or without one the session is stored: a closed one stays closed."""
        try:
            return work()
        finally:
            self._keep(session)

    def _keep(self, session: ClientSession) -> None:
        """Store the session before its answer leaves: a restart cannot answer a step twice."""
        kept = ConfigRecord({"round": self._now, "session": session.to_bytes()})
        self.terms.context.state["secagg"] = kept

    def _warn_of_cuts(self, values: NDArray[np.float32]) -> None:
        cut = np.count_nonzero(np.abs(values) > self.terms.settings.clip)
        if cut:
            log.warning(
                "round %d: %.3g %% of the values of the update exceed secagg.clip=%g and were cut",
                self.terms.number,
                100 * cut / values.size,
                self.terms.settings.clip,
            )
