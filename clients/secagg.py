"""A site's end of secure aggregation, message by message, and what it holds every sum to.

Length, ring, plan, layout and the fewest sites to hide among follow from the config
that the site agreed to, the roster that it pinned and the policy of its owner: its own
reading of the run. A request is compared with them; nothing is adopted from it.

The session of a round lives in Flower's `Context.state`, like the channel: it
is secret, and stays at the site.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Final, Generic, TypeVar, cast

import numpy as np
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray

from clients import groups
from clients.joining import identity_of, joined_run, plan_of
from clients.site import Site
from fedlearn.agreement import (
    Part,
    bound_of,
    evaluate_payload,
    evaluates_in_sum,
    least_of,
    masks_of,
    part_of,
    payload_of,
    plan_digest,
    protocol_round,
    route_of,
    screen_payload,
    sites_in_sum,
    stack_of,
)
from fedlearn.config import first_layout
from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import RingVector, pack
from fedlearn.core.rng import Streams
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import SecureWords
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.flower import messages as flower
from fedlearn.flower.records import read_small_bytes, small_bytes
from fedlearn.flower.site import SessionStore, params_of, roster_of, secret_bytes
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.privacy import Event
from fedlearn.rounds import RoundNote
from fedlearn.secagg import proven
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.messages import Params
from fedlearn.secagg.policy import ClientPolicy
from fedlearn.secagg.proven_payload import ProvenPayload
from fedlearn.secagg.settings import SecAggMasked, SecAggRing, SecAggSum, SecAggTwoServer, sum_of
from fedlearn.secagg.two_server import contribute
from fedlearn.secagg.weights import weight_in_sum
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Form, Update

log = logging.getLogger(__name__)

_SESSION: Final = "secagg"


def secagg_step(message: Message, context: Context, site: Site) -> RecordDict:
    """One of the steps of secure aggregation that carry no vector."""
    step = message.metadata.message_type.removeprefix(flower.SECAGG)
    request = read_small_bytes(message.content, "secagg")
    if CLIENTS.get(type(site.config.secagg)) is not MaskedClient or request is None:
        raise ProtocolError(SERVER, step, "the message has no request, or this run does not mask")
    part, number = part_of(_protocol_round(context, step, request))
    masked = MaskedClient(site, context, cast(SecAggMasked, site.config.secagg), part, number)
    if step != "advertise":
        return small_bytes("secagg", masked.step(step, request))
    with groups.unless_refused(context):
        masked.begin(flower.read_without(message.content))
        return small_bytes("secagg", masked.step(step, request))


def _protocol_round(context: Context, step: str, request: bytes) -> int:
    if step == "advertise":
        return params_of(request).round
    stored = SessionStore(context, _SESSION).stored
    if stored is None:
        raise ProtocolError(SERVER, step, "out of order: nothing was advertised")
    return int(str(stored["round"]))


def proposed_cohort(message: Message) -> int | None:
    """How many sites are in the masked sum that a message proposes; None if it proposes none.

    Raises:
        ProtocolError: its parameters are not well-formed.
    """
    if message.metadata.message_type != f"{flower.SECAGG}advertise":
        return None
    request = read_small_bytes(message.content, "secagg")
    return None if request is None else len(params_of(request).cohort)


S = TypeVar("S", bound=SecAggSum)
T = TypeVar("T")

Enters = Callable[[AnyPayload, Update, RingVector], RingVector]
"""What a site puts into a sum, `word[length]`: of its form, its update, and that as it is encoded
by the rules."""


def as_it_is(payload: AnyPayload, mine: Update, vector: RingVector) -> RingVector:
    """What an honest site puts into a sum."""
    return vector


@dataclass(frozen=True, eq=False)
class SecAggClient(ABC, Generic[S]):
    """A site in one sum, `part` of round `number`; one class for each kind of it."""

    site: Site
    context: Context
    settings: S
    part: Part
    number: int

    @cached_property
    def _identity(self) -> Identity:
        """The key that signs this site's messages."""
        return identity_of(self.context)

    def answered(self, message: Message, asked: bytes) -> bytes | None:
        """The stored contribution to a request that comes once more; None for a new request.

        Ask before records are read or paid for. `asked` is the digest of what arrived
        (`agreement.request_digest`).

        Raises:
            ProtocolError: the request fits no sum, whatever the site would compute.
        """
        self._request(message)
        return None

    def reply(
        self,
        message: Message,
        mine: Update,
        asked: bytes,
        spent: tuple[Event, ...],
        enters: Enters = as_it_is,
    ) -> RecordDict:
        """The contribution to a request that `answered` has let pass, encoded and protected as
        the config says.
        """
        request = self._request(message)
        payload = self._payload(request)
        self._warn_of_cuts(payload, mine.values)
        vector = enters(payload, mine, self._encoded(payload, mine))
        data = self._protect(request, payload, vector, asked, mine.weight)
        return flower.summed_reply(self.site.name, data, spent)

    def payload(self, message: Message) -> AnyPayload:
        """The form of the contribution that a message asks for."""
        return self._payload(self._request(message))

    @abstractmethod
    def _protect(
        self, request: bytes, payload: AnyPayload, vector: RingVector, asked: bytes, weight: float
    ) -> bytes:
        """What leaves the site."""

    def _encoded(self, payload: AnyPayload, mine: Update) -> RingVector:
        # Rounding must be unbiased, not secret: from the run's streams, so that runs repeat.
        name = ("rounding", self.site.name, self.part, self.number)
        key = Streams(self.site.config.seed).key(*name).to_bytes(16, "little")
        return payload.contribution(mine, SecureWords(hashlib.sha256(key).digest()))

    def _request(self, message: Message) -> bytes:
        request = read_small_bytes(message.content, "secagg")
        if request is None:
            raise ProtocolError(SERVER, "mask", "asks for an update in clear, and this run masks")
        return request

    def weighed(self, mine: Update, note: RoundNote) -> Update:
        """The update with what it weighs in a sum, where sites have weights."""
        if not self._form.weighted:
            return mine
        weight = weight_in_sum(mine.weight, most=self.settings.max_weight, largest=note.largest)
        return replace(mine, weight=weight)

    def limit(self, message: Message) -> float:
        """The largest number that enters the sum as it is."""
        return self.payload(message).clip

    def _warn_of_cuts(self, payload: AnyPayload, values: NDArray[Any]) -> None:
        cut = np.count_nonzero(np.abs(values) > payload.clip)
        if cut:
            log.warning(
                "round %d: %.3g %% of the values of the update exceed secagg.clip=%g and were cut",
                self.number,
                100 * cut / values.size,
                payload.clip,
            )

    # --- what a sum is held to ----------------------------------------------------

    @cached_property
    def _plan(self) -> PrivacyPlan | None:
        return plan_of(self.site, self.context)

    @cached_property
    def _form(self) -> Form:
        size = self.site.layout.size
        return route_of(self.site.config, self._plan).form(stack_of(self.site.config, size))

    def _payload(self, request: bytes) -> AnyPayload:
        """The form of the contribution: to a sum over all on the roster.

        Raises:
            ConfigError: the ring is too small for that many sites.
        """
        return self._payload_of(len(self._roster().sites()))

    def _payload_of(self, sites: int) -> AnyPayload:
        sites = sites_in_sum(self.site.config, self.part, sites)
        if self.part == "train":
            bound = bound_of(self.site.config, self._plan, self._form)
            proved = self.site.config.robust.proves
            return payload_of(self._form, self.settings, sites, bound, proved=proved)
        if self.part == "screen":
            table = first_layout(self.site.config, self.site.task)
            if table is None:
                raise ProtocolError(SERVER, "screen", "the run sums no tables")
            return screen_payload(self.settings, sites, table)
        layout, fairness = self.site.task.sum_layout, self.site.config.fairness
        own = self.site.config.compares_own
        return evaluate_payload(self.settings, sites, layout, fairness, self._plan, own=own)

    def begin(self, without: Sequence[str]) -> None:
        """Take the coordinator's word for who is left out of the run.

        Raises:
            ProtocolError: it cannot be.
        """
        config = self.site.config
        if config.robust.group_size is not None or without:
            groups.leave_out(self.context, config, without, self._roster().sites().keys())

    def take_note(self, note: RoundNote) -> None:
        """Take from a request for an update who is left out of the run.

        Raises:
            ProtocolError: it cannot be.
        """
        self.begin(note.without)

    def _together(self) -> Mapping[str, bytes]:
        """Whom this site may be summed with, with their keys."""
        sites = self._roster().sites()
        if self.part != "train":
            return sites
        return groups.group(self.context, self.site.config, self.site.name, sites, self.number)

    def _roster(self) -> Roster:
        return roster_of(str(joined_run(self.context, self.part)["roster"]))

    @cached_property
    def _layout_hash(self) -> bytes:
        return bytes.fromhex(self.site.layout.digest())

    def _plan_hash(self, payload: AnyPayload) -> bytes:
        return _digest_of(self.site, payload, self.part, self._plan)

    def _least(self, min_cohort: int) -> int:
        """The fewest sites: of the settings, the noise that the plan counts on, and the owner."""
        policy = self.site.owner.policy
        planned = least_of(self._plan, min_cohort, self.part)
        return max(planned, policy.min_cohort if policy else 0)


@lru_cache(maxsize=64)
def _digest_of(site: Site, payload: AnyPayload, part: Part, plan: PrivacyPlan | None) -> bytes:
    return plan_digest(site.config, payload, part, plan)


class RingClient(SecAggClient[SecAggRing]):
    """Nothing is protected."""

    def _payload(self, request: bytes) -> AnyPayload:
        # As many sites as the request says, for nothing is hidden.
        sites = int.from_bytes(request, "big")
        return self._payload_of(sites) if sites else super()._payload(request)

    def _protect(
        self, request: bytes, payload: AnyPayload, vector: RingVector, asked: bytes, weight: float
    ) -> bytes:
        return bytes(pack(vector, payload.ring))


class TwoServerClient(SecAggClient[SecAggTwoServer]):
    """One message, of which each of two servers can open nothing alone."""

    def answered(self, message: Message, asked: bytes) -> bytes | None:
        """None: every request is new. All of it is known before anything is paid for."""
        request = self._request(message)
        params = params_of(request)
        self._check_cohort(params)
        self._check(params, self._payload(request), asked)
        return None

    def _protect(
        self, request: bytes, payload: AnyPayload, vector: RingVector, asked: bytes, weight: float
    ) -> bytes:
        helper = secret_bytes(joined_run(self.context, "mask")["helper"])
        own = self._identity, self.site.name, params_of(request), vector
        if isinstance(payload, ProvenPayload):
            return proven.contribute(*own, payload.weight(weight), payload.bound, helper)
        return contribute(*own, helper)

    def _check_cohort(self, params: Params) -> None:
        """Refuse strangers, a cohort without this site, and one too small to hide in."""
        sites, cohort = self._together(), set(params.cohort)
        if self.site.name not in cohort or not cohort <= sites.keys():
            raise ProtocolError(SERVER, "mask", "the cohort is not of this run's sites")
        if len(cohort) < self._least(self.settings.least):
            raise ProtocolError(SERVER, "mask", f"a cohort of {len(cohort)}")

    def _check(self, params: Params, payload: AnyPayload, asked: bytes) -> None:
        """Refuse a run, round, form, plan or request that is not this site's."""
        own = (
            secret_bytes(joined_run(self.context, "mask")["run-id"]),
            protocol_round(self.part, self.number),
            payload.ring.bits,
            payload.length,
            self._layout_hash,
            self._plan_hash(payload),
            asked,
        )
        got = (
            params.run_id,
            params.round,
            params.bits,
            params.length,
            params.layout_hash,
            params.plan_hash,
            params.request_hash,
        )
        if got != own:
            raise ProtocolError(SERVER, "mask", "run, round, form, plan or request differ")


class MaskedClient(SecAggClient[SecAggMasked]):
    """The steps of the protocol with masks; its session lives in Flower's `Context.state`."""

    def answered(self, message: Message, asked: bytes) -> bytes | None:
        """What was sent in reply to this request, if it is not new.

        Raises:
            ProtocolError: it is out of order, or would be refused once it was paid for.
        """
        session, request = self._session(), self._request(message)
        stored = session.answered(request)
        if stored is not None:
            return stored
        if session.step != "mask" or self._last_round() != self._now:
            raise ProtocolError(SERVER, "mask", f"expected was {session.step!r}")
        self._kept(session, lambda: session.check_mask(request, asked))
        return None

    def _protect(
        self, request: bytes, payload: AnyPayload, vector: RingVector, asked: bytes, weight: float
    ) -> bytes:
        session = self._session()
        return self._kept(session, lambda: session.mask(request, vector, asked))

    def step(self, step: str, request: bytes) -> bytes:
        """The answer to one of the steps without a vector."""
        session = self._session(request if step == "advertise" else None)
        if step != "advertise":
            return self._kept(session, lambda: session.answer(step, request))
        # Kept only once it is accepted: the round that it names may be anything.
        answer = session.advertise(request)
        self._store.keep(session, self._beside)
        return answer

    def _session(self, request: bytes | None = None) -> ClientSession:
        """The session of the round; a new one where `request` opens a round not seen before."""
        policy = self._policy()
        session = self._store.load(self._identity, policy)
        if request is None or session.answered(request) is not None:
            return session
        return ClientSession(self._identity, policy)

    def _policy(self) -> ClientPolicy:
        """What a session compares every proposal with."""
        payload = self._payload_of(len(self._roster().sites()))
        return ClientPolicy(
            name=self.site.name,
            sites=self._together(),
            settings=self._masks(payload),
            run_id=secret_bytes(joined_run(self.context, self.part)["run-id"]),
            after_round=self._last_round(),
            length=payload.length,
            layout_hash=self._layout_hash,
            plan_hash=self._plan_hash(payload),
            min_cohort=self._least(self.settings.least),
        )

    def take_note(self, note: RoundNote) -> None:
        """It is what was said before this site has shown its keys."""
        groups.check_left_out(self.context, note.without)

    def _masks(self, payload: AnyPayload) -> SecAggMasked:
        """The ring, and what the masks of everybody in this sum withstand."""
        return masks_of(self.settings, self._plan, self.part, payload.lane_bits)

    @property
    def _now(self) -> int:
        return protocol_round(self.part, self.number)

    @property
    def _store(self) -> SessionStore:
        """The session of the last round, beside the number of that."""
        return SessionStore(self.context, _SESSION)

    @property
    def _beside(self) -> dict[str, int | bytes]:
        return {"round": self._now}

    def _last_round(self) -> int:
        stored = self._store.stored
        return -1 if stored is None else int(str(stored["round"]))

    def _kept(self, session: ClientSession, work: Callable[[], T]) -> T:
        return self._store.kept(session, self._beside, work)


CLIENTS: Final[Mapping[type, type[SecAggClient[Any]]]] = {
    SecAggRing: RingClient,
    SecAggMasked: MaskedClient,
    SecAggTwoServer: TwoServerClient,
}
"""The site's end of every kind of sum."""


def client_of(site: Site, context: Context, part: Part, number: int) -> SecAggClient[Any] | None:
    """A site in one sum; None where the server takes this part of a round in clear."""
    settings = sum_of(site.config.secagg)
    if settings is None or (part == "evaluate" and not evaluates_in_sum(site.config)):
        return None
    return CLIENTS[type(settings)](site, context, settings, part, number)
