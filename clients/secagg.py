"""A site's end of secure aggregation, message by message.

The session of a round lives in Flower's `Context.state`, like the channel: it
is secret, and stays at the site.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeVar, cast

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from clients.joining import SERVER, identity_of, joined_run, secret_bytes
from clients.site import Site
from clients.sum_policy import SumPolicy, params_of
from fedlearn import flower
from fedlearn.agreement import Part, part_of, protocol_round
from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import RingVector, pack
from fedlearn.core.rng import Streams
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import SecureWords
from fedlearn.privacy import Event
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.settings import SecAggMasked, SecAggRing, SecAggSum, SecAggTwoServer, sum_of
from fedlearn.secagg.two_server import contribute
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Update

log = logging.getLogger(__name__)


def secagg_step(message: Message, context: Context, site: Site) -> RecordDict:
    """One of the steps of secure aggregation that carry no vector."""
    step = message.metadata.message_type.removeprefix(flower.SECAGG)
    request = flower.read_small_bytes(message.content, "secagg")
    settings = sum_of(site.config.secagg)
    end = CLIENTS[type(settings)] if settings else None
    if settings is None or end is not MaskedClient or request is None:
        raise ProtocolError(SERVER, step, "the message has no request, or this run does not mask")
    part, number = part_of(_protocol_round(context, step, request))
    masked = MaskedClient(SumPolicy(site, context, settings, part, number))
    return flower.small_bytes("secagg", masked.step(step, request))


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


S = TypeVar("S", bound=SecAggSum)


@dataclass(frozen=True, eq=False)
class SecAggClient(ABC, Generic[S]):
    """A site in secure aggregation, for one message; one class for each kind of it."""

    policy: SumPolicy
    """What this site compares requests with."""

    @property
    def settings(self) -> S:
        """Those of the run."""
        return cast(S, self.policy.settings)

    @cached_property
    def identity(self) -> Identity:
        """The key that signs this site's messages."""
        return identity_of(self.policy.context)

    def answered(self, message: Message) -> bytes | None:
        """The stored contribution to a request that comes once more; None for a new request.

        Ask before records are read or paid for.

        Raises:
            ProtocolError: the request fits no sum, whatever the site would compute.
        """
        self._request(message)
        return None

    def reply(
        self, message: Message, mine: Update, model_hash: bytes, spent: tuple[Event, ...]
    ) -> RecordDict:
        """The contribution, encoded and protected as the config says."""
        request = self._request(message)
        payload = self._payload(request)
        self._warn_of_cuts(payload, mine.values)
        data = self._protect(request, payload, self._encoded(payload, mine), model_hash)
        return flower.summed_reply(self.policy.site.name, data, spent)

    def _payload(self, request: bytes) -> AnyPayload:
        return self.policy.payload()

    @abstractmethod
    def _protect(
        self, request: bytes, payload: AnyPayload, vector: RingVector, model_hash: bytes
    ) -> bytes:
        """What leaves the site."""

    def _encoded(self, payload: AnyPayload, mine: Update) -> RingVector:
        # Rounding must be unbiased, not secret: from the run's streams, so that runs repeat.
        name = ("rounding", self.policy.site.name, self.policy.part, self.policy.number)
        key = Streams(self.policy.site.config.seed).key(*name).to_bytes(16, "little")
        return payload.contribution(mine, SecureWords(hashlib.sha256(key).digest()))

    def _request(self, message: Message) -> bytes:
        request = flower.read_small_bytes(message.content, "secagg")
        if request is None:
            raise ProtocolError(SERVER, "mask", "asks for an update in clear, and this run masks")
        return request

    def limit(self, message: Message) -> float:
        """The largest number that enters the sum as it is."""
        return self._payload(self._request(message)).clip

    def _warn_of_cuts(self, payload: AnyPayload, values: NDArray[Any]) -> None:
        cut = np.count_nonzero(np.abs(values) > payload.clip)
        if cut:
            log.warning(
                "round %d: %.3g %% of the values of the update exceed secagg.clip=%g and were cut",
                self.policy.number,
                100 * cut / values.size,
                payload.clip,
            )


class RingClient(SecAggClient[SecAggRing]):
    """Nothing is protected."""

    def _payload(self, request: bytes) -> AnyPayload:
        return self.policy.payload(int.from_bytes(request, "big"))  # told, for nothing is hidden

    def _protect(
        self, request: bytes, payload: AnyPayload, vector: RingVector, model_hash: bytes
    ) -> bytes:
        return bytes(pack(vector, payload.ring))


class TwoServerClient(SecAggClient[SecAggTwoServer]):
    """One message, of which each of two servers can open nothing alone."""

    def answered(self, message: Message) -> bytes | None:
        """None: every request is new. The cohort is looked at before anything is paid for."""
        self.policy.check_cohort(params_of(self._request(message)))
        return None

    def _protect(
        self, request: bytes, payload: AnyPayload, vector: RingVector, model_hash: bytes
    ) -> bytes:
        params, site = params_of(request), self.policy.site.name
        self.policy.check(params, payload, model_hash)
        helper = secret_bytes(joined_run(self.policy.context, "mask")["helper"])
        return bytes(contribute(self.identity, site, params, vector, helper))


class MaskedClient(SecAggClient[SecAggMasked]):
    """The steps of the protocol with masks; its session lives in Flower's `Context.state`."""

    def answered(self, message: Message) -> bytes | None:
        """What was sent in reply to this request, if it is not new.

        Raises:
            ProtocolError: it is out of order.
        """
        session = self._session()
        stored = session.answered(self._request(message))
        if stored is None and (session.step != "mask" or self._last_round() != self._now):
            raise ProtocolError(SERVER, "mask", f"expected was {session.step!r}")
        return stored

    def _protect(
        self, request: bytes, payload: AnyPayload, vector: RingVector, model_hash: bytes
    ) -> bytes:
        session = self._session()
        return self._kept(session, lambda: session.mask(request, vector, model_hash))

    def step(self, step: str, request: bytes) -> bytes:
        """The answer to one of the steps without a vector."""
        session = self._session(request if step == "advertise" else None)
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

    def _session(self, request: bytes | None = None) -> ClientSession:
        """The session of the round; a new one where `request` opens a round not seen before."""
        stored = _stored(self.policy.context)
        after = self._last_round()
        if stored is not None:
            policy = self.policy.policy(self.settings, after)
            data = secret_bytes(stored["session"])
            session = ClientSession.from_bytes(data, self.identity, policy)
            if request is None or session.answered(request) is not None:
                return session
        return ClientSession(self.identity, self.policy.policy(self.settings, after))

    @property
    def _now(self) -> int:
        return protocol_round(self.policy.part, self.policy.number)

    def _last_round(self) -> int:
        stored = _stored(self.policy.context)
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
        self.policy.context.state["secagg"] = kept


CLIENTS: Final[Mapping[type, type[SecAggClient[Any]]]] = {
    SecAggRing: RingClient,
    SecAggMasked: MaskedClient,
    SecAggTwoServer: TwoServerClient,
}
"""The site's end of every kind of sum."""


def client_of(site: Site, context: Context, part: Part, number: int) -> SecAggClient[Any] | None:
    """A site in one sum; None where the server takes this part of a round in clear."""
    settings = sum_of(site.config.secagg)
    if settings is None or not (part == "train" or site.config.evaluation == "pooled"):
        return None
    return CLIENTS[type(settings)](SumPolicy(site, context, settings, part, number))
