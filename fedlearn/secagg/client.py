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
from collections.abc import Callable, Mapping
from typing import TypeVar

from cryptography.exceptions import InvalidTag

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.ring import Ring, RingVector, pack
from fedlearn.crypto.codec import Reader, Writer, name_bytes
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import RunRanges, add_masks
from fedlearn.crypto.roster import SERVER
from fedlearn.crypto.shamir import split
from fedlearn.secagg import keys
from fedlearn.secagg.framing import B, decode, encode
from fedlearn.secagg.graph import degree_of, most_missing, neighbours_of
from fedlearn.secagg.messages import (
    SHARE_BYTES,
    Advertisement,
    Agreement,
    Endorsements,
    Inbox,
    Masked,
    Opening,
    Params,
    Roll,
    RoundKeys,
    Shares,
    Survivors,
)
from fedlearn.secagg.policy import ClientPolicy, check_agreement, check_params, check_roll
from fedlearn.secagg.settings import ring_of
from fedlearn.secagg.states import (
    POINTED_SHARES,
    Advertised,
    Agreed,
    Closed,
    Fresh,
    MaskedState,
    Shared,
    State,
    read_state,
    write_state,
)

S = TypeVar("S", bound=State)
STEP_OF: dict[type[object], str] = {
    Fresh: "advertise",
    Advertised: "share",
    Shared: "mask",
    MaskedState: "agree",
    Agreed: "unmask",
    Closed: "closed",
}


class ClientSession:
    """The client's side of one round; see the table at the top of the module.

    Guarantees, if at most `degree_of(...).corrupt` of the cohort work with the server:
        the server learns nothing about this client's vector but the sum over at
        least `policy.least` survivors, all of which started from the same model.
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
        return self._answer(
            Fresh, request, lambda _: _advertise(request, self._identity, self._policy)
        )

    def share(self, request: bytes) -> bytes:
        """Checks everybody's signed keys and shares this client's secrets among its neighbours.

        Raises:
            ProtocolError: a signature, a name or the own key is wrong, or too few advertised.
        """
        return self._answer(Advertised, request, lambda state: _share(state, request, self._policy))

    def check_mask(self, request: bytes, request_hash: bytes) -> None:
        """Refuse now what `mask` would refuse for its `request`, before a vector is made for it.

        Raises:
            ProtocolError: out of order, the model is not the announced one, or the shares are
                wrong.
        """
        if not isinstance(self._state, Shared):
            raise ProtocolError(SERVER, "mask", f"out of order; this client expects {self.step!r}")
        try:
            _inbox(self._state, request, request_hash)
        except ProtocolError:
            self.abort()
            raise

    def mask(
        self,
        request: bytes,
        vector: RingVector,
        request_hash: bytes,
        *,
        parts: int = 1,
        run: RunRanges = map,
    ) -> bytes:
        """Masks a contribution: `vector: word[length]`, reduced to the ring, left unchanged.

        `request_hash` is SHA-256 of the model that really arrived. A retry of an
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
        own = self._policy.name
        return self._answer(
            Shared,
            request,
            lambda state: _mask(
                state, request, vector, request_hash, own=own, parts=parts, run=run
            ),
        )

    def agree(self, request: bytes) -> bytes:
        """Signs the one survivor list of the round.

        Raises:
            ProtocolError: the list is too short, lacks this client, or is a second list.
        """
        return self._answer(
            MaskedState,
            request,
            lambda state: _agree(state, request, self._identity, self._policy),
        )

    def unmask(self, request: bytes) -> bytes:
        """Releases one share per neighbour, once enough neighbours signed the same list.

        Raises:
            ProtocolError: a signature is wrong or too few signed.
        """
        return self._answer(Agreed, request, lambda state: _unmask(state, request, self._policy))

    def answer(self, step: str, request: bytes) -> bytes:
        """The answer to a step that carries no vector.

        Raises:
            ProtocolError: there is no such step, or what the step raises.
        """
        match step:
            case "advertise":
                return self.advertise(request)
            case "share":
                return self.share(request)
            case "agree":
                return self.agree(request)
            case "unmask":
                return self.unmask(request)
        raise ProtocolError(SERVER, step, "no such step")

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

    def _answer(
        self, kind: type[S], request: bytes, move: Callable[[S], tuple[State, bytes]]
    ) -> bytes:
        """The stored reply to a retry; else what `move` makes of a state of this kind."""
        step, stored, state = STEP_OF[kind], self.answered(request), self._state
        if stored is not None and step == self._last_step:
            return stored
        if not isinstance(state, kind):
            again = "a second, different request" if step == self._last_step else "out of order"
            raise ProtocolError(SERVER, step, f"{again}; this client expects {self.step!r}")
        try:
            self._state, reply = move(state)
        except ProtocolError:
            self.abort()
            raise
        self._last_step, self._last_request, self._last_reply = step, _digest(request), reply
        return reply


def _digest(request: bytes) -> bytes:
    return hashlib.sha256(request).digest()


# --- The five transitions: state and request in, next state and reply out -----------
#
# Each checks everything that the server claims before it answers, and changes nothing
# outside what it returns. All raise `ProtocolError` for a request that is malformed, of
# another round, or against the policy.


def _advertise(
    request: bytes, identity: Identity, policy: ClientPolicy
) -> tuple[Advertised, bytes]:
    """Check the round's parameters against the policy; fresh keys, signed."""
    try:
        params = Params.decode(request)
    except ValueError as error:
        raise ProtocolError(SERVER, "advertise", str(error)) from None
    check_params(params, policy)
    cipher_private, mask_private = os.urandom(32), os.urandom(32)
    public = keys.public_of(cipher_private), keys.public_of(mask_private)
    signature = identity.sign("secagg/keys", params.context(), name_bytes(policy.name), *public)
    message = Advertisement(
        keys=RoundKeys(cipher_key=public[0], mask_key=public[1], signature=signature)
    )
    state = Advertised(params=params, cipher_private=cipher_private, mask_private=mask_private)
    return state, encode(message, params.context())


def _share(state: Advertised, request: bytes, policy: ClientPolicy) -> tuple[Shared, bytes]:
    """Check everybody's signed keys; a share of each secret for each neighbour, sealed."""
    params, own = state.params, policy.name
    roll = _decode(Roll, request, params.context(), "share").keys
    mine = keys.public_of(state.cipher_private), keys.public_of(state.mask_private)
    check_roll(roll, mine, params, policy)
    graph = neighbours_of(tuple(roll), params.neighbours, keys.graph_seed(request))
    if len(graph[own]) < params.threshold:
        raise ProtocolError(SERVER, "share", "fewer neighbours than the threshold")
    peers, context = {peer: roll[peer] for peer in graph[own]}, params.bound_to(request)
    _check_mask_keys(peers)
    outgoing, incoming = _exchange_keys(state.cipher_private, peers, context, own)
    shared = Shared(
        params=params,
        context=context,
        listed=tuple(roll),
        mask_private=state.mask_private,
        self_seed=os.urandom(32),
        peers=peers,
        points={peer: graph[peer].index(own) + 1 for peer in graph[own]},
        inbox_keys=incoming,
    )
    return shared, encode(_seal_shares(shared, outgoing, own), context)


def _mask(
    state: Shared,
    request: bytes,
    vector: RingVector,
    request_hash: bytes,
    *,
    own: str,
    parts: int,
    run: RunRanges,
) -> tuple[MaskedState, bytes]:
    """Open the neighbours' shares; the contribution under its masks, packed.

    `vector: word[length]` is left unchanged; `request_hash` is of the model that arrived.
    """
    params, shares = state.params, _inbox(state, request, request_hash)
    plus, minus = _mask_keys(state, own, tuple(shares))
    masked = vector.copy()
    add_masks(masked, plus, minus, parts=parts, run=run)
    ring = Ring(bits=params.bits)
    packed = pack(ring.reduce(masked), ring)
    following = MaskedState(
        params=params,
        context=state.context,
        listed=state.listed,
        neighbours=tuple(state.peers),
        shares=shares,
    )
    return following, encode(Masked(packed=packed), state.context)


def _inbox(state: Shared, request: bytes, request_hash: bytes) -> dict[str, bytes]:
    """The neighbours' shares, opened."""
    inbox = _decode(Inbox, request, state.context, "mask").sealed
    if not hmac.compare_digest(request_hash, state.params.request_hash):
        raise ProtocolError(SERVER, "mask", "the model is not the one that was announced")
    if not inbox.keys() <= state.peers.keys() or len(inbox) < state.params.threshold:
        raise ProtocolError(SERVER, "mask", "shares from strangers, or from too few neighbours")
    return {peer: _open_share(state, peer, sealed) for peer, sealed in inbox.items()}


def _agree(
    state: MaskedState, request: bytes, identity: Identity, policy: ClientPolicy
) -> tuple[Agreed, bytes]:
    """Check the list of survivors; a signature of it."""
    survivors = _decode(Survivors, request, state.context, "agree")
    names, params = set(survivors.names), state.params
    if policy.name not in names or not names <= set(state.listed):
        raise ProtocolError(SERVER, "agree", "the list lacks this client or has strangers")
    if not names.intersection(state.neighbours) <= state.shares.keys():
        raise ProtocolError(SERVER, "agree", "a survivor's shares were held back")
    if len(names) < policy.least:
        raise ProtocolError(SERVER, "agree", f"a sum over {len(names)} clients is too telling")
    if len(names & state.shares.keys()) < params.threshold:
        raise ProtocolError(SERVER, "agree", "fewer surviving neighbours than the threshold")
    most = most_missing(len(state.listed), degree_of(policy.settings, len(params.cohort)))
    if len(state.listed) - len(names) > most:
        raise ProtocolError(SERVER, "agree", f"more than {most} are missing: the rest may be split")
    signature = identity.sign("secagg/survivors", state.context, survivors.hash())
    following = Agreed(
        params=params,
        context=state.context,
        neighbours=state.neighbours,
        shares=state.shares,
        survivors=survivors,
    )
    return following, encode(Agreement(signature=signature), state.context)


def _unmask(state: Agreed, request: bytes, policy: ClientPolicy) -> tuple[Closed, bytes]:
    """Check who signed the same list; one share of each neighbour: of its seed or its key."""
    survivors = set(state.survivors.names)
    signatures = _decode(Endorsements, request, state.context, "unmask").signatures
    for name, signature in signatures.items():
        if name not in survivors or name not in state.neighbours:
            raise ProtocolError(name, "unmask", "signed, but is no surviving neighbour")
        if not check_agreement(policy.sites[name], signature, state.survivors, state.context):
            raise ProtocolError(name, "unmask", "did not sign the same survivor list")
    if len(signatures) < state.params.threshold:
        raise ProtocolError(SERVER, "unmask", "too few signatures on the survivor list")
    alive = {peer: data for peer, data in state.shares.items() if peer in survivors}
    gone = {peer: data for peer, data in state.shares.items() if peer not in survivors}
    opening = Opening(
        self_shares={peer: data[: 1 + SHARE_BYTES] for peer, data in alive.items()},
        key_shares={peer: data[:1] + data[1 + SHARE_BYTES :] for peer, data in gone.items()},
    )
    return Closed(), encode(opening, state.context)


def _decode(kind: type[B], request: bytes, context: bytes, step: str) -> B:
    try:
        return decode(kind, request, context)
    except ValueError as error:
        raise ProtocolError(SERVER, step, str(error)) from None


def _exchange_keys(
    private: bytes, peers: Mapping[str, RoundKeys], context: bytes, own: str
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """For every neighbour the key that seals our share for it, and the key that opens its own."""
    outgoing, incoming = dict[str, bytes](), dict[str, bytes]()
    loaded = keys.load_private(private)
    for peer, public in peers.items():
        try:
            pair = keys.share_keys(loaded, public.cipher_key, context, own, peer)
        except ValueError:
            raise ProtocolError(peer, "share", "its cipher key is of small order") from None
        outgoing[peer], incoming[peer] = pair
    return outgoing, incoming


def _check_mask_keys(peers: Mapping[str, RoundKeys]) -> None:
    """Refuse now, before a vector is made and paid for, whom no mask could be agreed on with."""
    for peer, public in peers.items():
        if not keys.is_usable(public.mask_key):
            raise ProtocolError(peer, "share", "its mask key is of small order")


def _seal_shares(state: Shared, outgoing: Mapping[str, bytes], own: str) -> Shares:
    """Shares of the self-mask seed and the mask key, each sealed for one neighbour."""
    context = state.context
    secret = state.self_seed + state.mask_private
    rows = split(secret, state.params.threshold, len(outgoing))
    sealed = {
        peer: keys.seal_share(key, bytes([point]) + row.tobytes(), context)
        for point, (row, (peer, key)) in enumerate(
            zip(rows, outgoing.items(), strict=True), start=1
        )
    }
    return Shares(commitment=keys.commitment(state.self_seed, context, own), sealed=sealed)


def _open_share(state: Shared, peer: str, sealed: bytes) -> bytes:
    """A neighbour's share for us: point and two shares, checked against our place in its list."""
    try:
        share = keys.open_share(state.inbox_keys[peer], sealed, state.context)
    except InvalidTag:
        raise ProtocolError(peer, "mask", "its share could not be opened") from None
    if len(share) != POINTED_SHARES or share[0] != state.points[peer]:
        raise ProtocolError(peer, "mask", "its share lies at another point")
    return share


def _mask_keys(
    state: Shared, own: str, senders: tuple[str, ...]
) -> tuple[list[bytes], list[bytes]]:
    """Keys of the masks to add and to subtract: the higher name of a pair adds."""
    context = state.context
    plus, minus = [keys.self_mask_key(state.self_seed, context, own)], list[bytes]()
    private = keys.load_private(state.mask_private)
    for peer in senders:
        key = keys.pair_mask_key(private, state.peers[peer].mask_key, context, own, peer)
        (plus if name_bytes(own) > name_bytes(peer) else minus).append(key)
    return plus, minus
