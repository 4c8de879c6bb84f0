"""One client in one round of secure aggregation.

    step        request          reply            state before -> after
    advertise   Params           Advertisement    Fresh      -> Advertised
    share       Roll             Shares           Advertised -> Shared
    mask        Inbox + model    Masked           Shared     -> Masked
    agree       Survivors        Agreement        Masked     -> Agreed
    unmask      Endorsements     Opening          Agreed     -> Closed

Requests come from a server that may be malicious. Whatever the client's own
policy decides (roster, ring, threshold, smallest cohort) is compared with the
request, never taken from it. Each step is answered once: the same request again
gets the stored bytes, another one is refused. A request that breaks the protocol
closes the session and drops its keys.

Python cannot wipe memory: dropped keys are unreachable, not overwritten.

Sources: Bonawitz et al., CCS 2017, figure 4 (malicious variant); Bell et al.,
CCS 2020, algorithm 2. The model hash in the context stops the model
inconsistency attack of Pasquini et al., CCS 2022.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import TypeVar

from fedlearn.crypto.codec import Reader, Writer, name_bytes
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import RunRanges, add_masks
from fedlearn.errors import ConfigError, ProtocolError
from fedlearn.ring import Ring, RingVector, pack
from fedlearn.secagg import keys
from fedlearn.secagg.graph import neighbours_of
from fedlearn.secagg.messages import (
    SHARE_BYTES,
    Advertisement,
    Agreement,
    B,
    Endorsements,
    Inbox,
    Opening,
    Params,
    Roll,
    RoundKeys,
    Survivors,
    decode,
    encode,
)
from fedlearn.secagg.messages import Masked as MaskedMessage
from fedlearn.secagg.policy import (
    SERVER,
    ClientPolicy,
    check_agreement,
    check_params,
    check_roll,
)
from fedlearn.secagg.settings import ring_of
from fedlearn.secagg.sharing import exchange_keys, mask_keys, open_share, seal_shares
from fedlearn.secagg.states import (
    Advertised,
    Agreed,
    Closed,
    Fresh,
    Masked,
    Shared,
    State,
    read_state,
    write_state,
)

S = TypeVar("S", bound=State)
STEP_OF: dict[type[State], str] = {
    Fresh: "advertise",
    Advertised: "share",
    Shared: "mask",
    Masked: "agree",
    Agreed: "unmask",
    Closed: "closed",
}


class ClientSession:
    """The client's side of one round; see the table at the top of the module.

    Guarantees, if at most `corrupt_fraction` of the cohort works with the server:
        the server learns nothing about this client's vector but the sum over at
        least `min_cohort` survivors, all of which started from the same model.
    """

    def __init__(self, identity: Identity, policy: ClientPolicy) -> None:
        if policy.sites.get(policy.name) != identity.public:
            raise ConfigError(
                [f"{policy.name}: the roster does not list this identity under that name"]
            )
        self._identity, self._policy = identity, policy
        self._state: State = Fresh()
        self._last_step, self._last_request, self._last_reply = "", b"", b""

    @property
    def step(self) -> str:
        """The step that may come next, or "closed"."""
        return STEP_OF[type(self._state)]

    def __repr__(self) -> str:
        return f"ClientSession({self._policy.name!r}, step={self.step!r}, secret state)"

    def __reduce__(self) -> str:
        raise TypeError("a session is not pickled; use to_bytes and keep the bytes secret")

    def answered(self, request: bytes) -> bytes | None:
        """The stored reply, if this is the last answered request once more, byte for byte.

        Ask before training: a retried `mask` request needs no second training.
        """
        same = self._last_step and hmac.compare_digest(self._last_request, _digest(request))
        return self._last_reply if same else None

    def abort(self) -> None:
        """Gives the round up; all its secrets are dropped and every further step is refused."""
        self._state = Closed()
        self._last_step, self._last_request, self._last_reply = "", b"", b""

    # --- The five steps ---------------------------------------------------------

    def advertise(self, request: bytes) -> bytes:
        """Checks the round's parameters against the policy and sends fresh signed keys.

        Raises:
            ProtocolError: a parameter is not what the policy allows.
        """
        return self._answer("advertise", request, lambda: self._advertise(request))

    def share(self, request: bytes) -> bytes:
        """Checks everybody's signed keys and shares this client's secrets among its neighbours.

        Raises:
            ProtocolError: a signature, a name or the own key is wrong, or too few advertised.
        """
        return self._answer("share", request, lambda: self._share(request))

    def mask(
        self,
        request: bytes,
        vector: RingVector,
        model_hash: bytes,
        *,
        parts: int = 1,
        run: RunRanges = map,
    ) -> bytes:
        """Masks a contribution: `vector: word[length]`, reduced to the ring, left unchanged.

        `model_hash` is SHA-256 of the model that really arrived. A retry of an
        answered request returns the stored bytes and does not look at `vector`:
        two different vectors never leave under one mask.

        Raises:
            ProtocolError: the model is not the announced one, or the shares are wrong.
            ValueError: the vector has the wrong length or dtype.
        """
        ring = ring_of(self._policy.settings)
        if vector.shape != (self._policy.length,) or vector.dtype != ring.dtype:
            raise ValueError(
                f"vector is {vector.dtype}{list(vector.shape)}; the round sums "
                f"{ring.dtype}[{self._policy.length}]"
            )
        return self._answer(
            "mask", request, lambda: self._mask(request, vector, model_hash, parts, run)
        )

    def agree(self, request: bytes) -> bytes:
        """Signs the one survivor list of the round.

        Raises:
            ProtocolError: the list is too short, lacks this client, or is a second list.
        """
        return self._answer("agree", request, lambda: self._agree(request))

    def unmask(self, request: bytes) -> bytes:
        """Releases one share per neighbour, once enough neighbours signed the same list.

        Raises:
            ProtocolError: a signature is wrong or too few signed.
        """
        return self._answer("unmask", request, lambda: self._unmask(request))

    # --- Survival between processes ---------------------------------------------

    def to_bytes(self) -> bytes:
        """The state as bytes. SECRET: holds the round's private keys, or the neighbours' shares.

        Includes the last reply, which after `mask` is as large as the vector.
        """
        writer = Writer().blob(b"fedlearn/secagg/v1/session")
        write_state(writer, self._state)
        writer.blob(self._last_step.encode()).blob(self._last_request).blob(self._last_reply)
        return writer.done()

    @classmethod
    def from_bytes(cls, data: bytes, identity: Identity, policy: ClientPolicy) -> ClientSession:
        """The session that `to_bytes` wrote, with the same identity and policy.

        Raises:
            ValueError: the bytes are not a session.
        """
        reader = Reader(data)
        if reader.blob() != b"fedlearn/secagg/v1/session":
            raise ValueError("not a secure aggregation session")
        session = cls(identity, policy)
        session._state = read_state(reader)
        session._last_step = reader.blob().decode()
        session._last_request, session._last_reply = reader.blob(), reader.blob()
        reader.end()
        return session

    # --- How every step is answered ---------------------------------------------

    def _answer(self, step: str, request: bytes, work: Callable[[], tuple[State, bytes]]) -> bytes:
        stored = self.answered(request)
        if stored is not None and step == self._last_step:
            return stored
        if step != self.step:
            again = "a second, different request" if step == self._last_step else "out of order"
            raise ProtocolError(SERVER, step, f"{again}; this client expects {self.step!r}")
        try:
            self._state, reply = work()
        except ProtocolError:
            self.abort()
            raise
        self._last_step, self._last_request, self._last_reply = step, _digest(request), reply
        return reply

    def _advertise(self, request: bytes) -> tuple[State, bytes]:
        try:
            params = Params.decode(request)
        except ValueError as error:
            raise ProtocolError(SERVER, "advertise", str(error)) from None
        check_params(params, self._policy)
        cipher_private, mask_private = os.urandom(32), os.urandom(32)
        public = keys.public_of(cipher_private), keys.public_of(mask_private)
        signature = self._identity.sign(
            "secagg/keys", params.context(), name_bytes(self._policy.name), *public
        )
        message = Advertisement(
            keys=RoundKeys(cipher_key=public[0], mask_key=public[1], signature=signature)
        )
        state = Advertised(params=params, cipher_private=cipher_private, mask_private=mask_private)
        return state, encode(message, params.context())

    def _share(self, request: bytes) -> tuple[State, bytes]:
        state = _expect(self._state, Advertised)
        params, own = state.params, self._policy.name
        roll = _decode(Roll, request, params, "share").keys
        mine = keys.public_of(state.cipher_private), keys.public_of(state.mask_private)
        check_roll(roll, mine, params, self._policy)
        graph = neighbours_of(tuple(roll), params.neighbours, keys.graph_seed(request))
        if len(graph[own]) < params.threshold:
            raise ProtocolError(SERVER, "share", "fewer neighbours than the threshold")
        peers = {peer: roll[peer] for peer in graph[own]}
        outgoing, incoming = exchange_keys(state.cipher_private, peers, params.context(), own)
        shared = Shared(
            params=params,
            listed=tuple(roll),
            mask_private=state.mask_private,
            self_seed=os.urandom(32),
            peers=peers,
            points={peer: graph[peer].index(own) + 1 for peer in graph[own]},
            inbox_keys=incoming,
        )
        return shared, encode(seal_shares(shared, outgoing, own), params.context())

    def _mask(
        self,
        request: bytes,
        vector: RingVector,
        model_hash: bytes,
        parts: int,
        run: RunRanges,
    ) -> tuple[State, bytes]:
        state = _expect(self._state, Shared)
        params, own = state.params, self._policy.name
        inbox = _decode(Inbox, request, params, "mask").sealed
        if not hmac.compare_digest(model_hash, params.model_hash):
            raise ProtocolError(SERVER, "mask", "the model is not the one that was announced")
        if not inbox.keys() <= state.peers.keys() or len(inbox) < params.threshold:
            raise ProtocolError(SERVER, "mask", "shares from strangers, or from too few neighbours")
        shares = {peer: open_share(state, peer, sealed) for peer, sealed in inbox.items()}
        plus, minus = mask_keys(state, own, tuple(inbox))
        masked = vector.copy()
        add_masks(masked, plus, minus, parts=parts, run=run)
        ring = Ring(bits=params.bits)
        packed = pack(ring.reduce(masked), ring)
        following = Masked(
            params=params, listed=state.listed, neighbours=tuple(state.peers), shares=shares
        )
        return following, encode(MaskedMessage(packed=packed), params.context())

    def _agree(self, request: bytes) -> tuple[State, bytes]:
        state = _expect(self._state, Masked)
        survivors = _decode(Survivors, request, state.params, "agree")
        names = set(survivors.names)
        if self._policy.name not in names or not names <= set(state.listed):
            raise ProtocolError(SERVER, "agree", "the list lacks this client or has strangers")
        if not names.intersection(state.neighbours) <= state.shares.keys():
            raise ProtocolError(SERVER, "agree", "a survivor's shares were held back")
        if len(names) < self._policy.settings.min_cohort:
            raise ProtocolError(SERVER, "agree", f"a sum over {len(names)} clients is too telling")
        if len(names & state.shares.keys()) < state.params.threshold:
            raise ProtocolError(SERVER, "agree", "fewer surviving neighbours than the threshold")
        context = state.params.context()
        signature = self._identity.sign("secagg/survivors", context, survivors.hash())
        following = Agreed(
            params=state.params,
            neighbours=state.neighbours,
            shares=state.shares,
            survivors=survivors,
        )
        return following, encode(Agreement(signature=signature), context)

    def _unmask(self, request: bytes) -> tuple[State, bytes]:
        state = _expect(self._state, Agreed)
        context, survivors = state.params.context(), set(state.survivors.names)
        signatures = _decode(Endorsements, request, state.params, "unmask").signatures
        for name, signature in signatures.items():
            if name not in survivors or name not in state.neighbours:
                raise ProtocolError(name, "unmask", "signed, but is no surviving neighbour")
            if not check_agreement(self._policy.sites[name], signature, state.survivors, context):
                raise ProtocolError(name, "unmask", "did not sign the same survivor list")
        if len(signatures) < state.params.threshold:
            raise ProtocolError(SERVER, "unmask", "too few signatures on the survivor list")
        alive = {peer: data for peer, data in state.shares.items() if peer in survivors}
        gone = {peer: data for peer, data in state.shares.items() if peer not in survivors}
        opening = Opening(
            self_shares={peer: data[: 1 + SHARE_BYTES] for peer, data in alive.items()},
            key_shares={peer: data[:1] + data[1 + SHARE_BYTES :] for peer, data in gone.items()},
        )
        return Closed(), encode(opening, context)


def _digest(request: bytes) -> bytes:
    return hashlib.sha256(request).digest()


def _expect(state: State, kind: type[S]) -> S:
    if not isinstance(state, kind):
        raise RuntimeError(f"session is in {type(state).__name__}, not in {kind.__name__}")
    return state


def _decode(kind: type[B], request: bytes, params: Params, step: str) -> B:
    try:
        return decode(kind, request, params.context())
    except ValueError as error:
        raise ProtocolError(SERVER, step, str(error)) from None
