"""The five transitions of a client's session: state and request in, next state and reply out.

Each checks everything that the server claims before it answers, and changes nothing
outside what it returns; `fedlearn.secagg.client` keeps the state, answers retries
and closes the session when one of these refuses.

All raise `ProtocolError` for a request that is malformed, of another round, or against
the policy; the protocol and its sources stand in `fedlearn.secagg.client`.
"""

from __future__ import annotations

import hmac
import os

from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import Ring, RingVector, pack
from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import RunRanges, add_masks
from fedlearn.secagg import keys
from fedlearn.secagg.framing import B, decode, encode
from fedlearn.secagg.graph import neighbours_of
from fedlearn.secagg.messages import (
    SHARE_BYTES,
    Advertisement,
    Agreement,
    Endorsements,
    Inbox,
    Opening,
    Params,
    Roll,
    RoundKeys,
    Survivors,
)
from fedlearn.secagg.messages import Masked as MaskedMessage
from fedlearn.secagg.policy import SERVER, ClientPolicy, check_agreement, check_params, check_roll
from fedlearn.secagg.sharing import exchange_keys, mask_keys, open_share, seal_shares
from fedlearn.secagg.states import Advertised, Agreed, Closed, MaskedState, Shared


def advertise(request: bytes, identity: Identity, policy: ClientPolicy) -> tuple[Advertised, bytes]:
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


def share(state: Advertised, request: bytes, policy: ClientPolicy) -> tuple[Shared, bytes]:
    """Check everybody's signed keys; a share of each secret for each neighbour, sealed."""
    params, own = state.params, policy.name
    roll = _decode(Roll, request, params, "share").keys
    mine = keys.public_of(state.cipher_private), keys.public_of(state.mask_private)
    check_roll(roll, mine, params, policy)
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


def mask(
    state: Shared,
    request: bytes,
    vector: RingVector,
    model_hash: bytes,
    *,
    own: str,
    parts: int,
    run: RunRanges,
) -> tuple[MaskedState, bytes]:
    """Open the neighbours' shares; the contribution under its masks, packed.

    `vector: word[length]` is left unchanged; `model_hash` is of the model that arrived.
    """
    params = state.params
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
    following = MaskedState(
        params=params, listed=state.listed, neighbours=tuple(state.peers), shares=shares
    )
    return following, encode(MaskedMessage(packed=packed), params.context())


def agree(
    state: MaskedState, request: bytes, identity: Identity, policy: ClientPolicy
) -> tuple[Agreed, bytes]:
    """Check the list of survivors; a signature of it."""
    survivors = _decode(Survivors, request, state.params, "agree")
    names = set(survivors.names)
    if policy.name not in names or not names <= set(state.listed):
        raise ProtocolError(SERVER, "agree", "the list lacks this client or has strangers")
    if not names.intersection(state.neighbours) <= state.shares.keys():
        raise ProtocolError(SERVER, "agree", "a survivor's shares were held back")
    if len(names) < policy.settings.min_cohort:
        raise ProtocolError(SERVER, "agree", f"a sum over {len(names)} clients is too telling")
    if len(names & state.shares.keys()) < state.params.threshold:
        raise ProtocolError(SERVER, "agree", "fewer surviving neighbours than the threshold")
    context = state.params.context()
    signature = identity.sign("secagg/survivors", context, survivors.hash())
    following = Agreed(
        params=state.params,
        neighbours=state.neighbours,
        shares=state.shares,
        survivors=survivors,
    )
    return following, encode(Agreement(signature=signature), context)


def unmask(state: Agreed, request: bytes, policy: ClientPolicy) -> tuple[Closed, bytes]:
    """Check who signed the same list; one share of each neighbour: of its seed or its key."""
    context, survivors = state.params.context(), set(state.survivors.names)
    signatures = _decode(Endorsements, request, state.params, "unmask").signatures
    for name, signature in signatures.items():
        if name not in survivors or name not in state.neighbours:
            raise ProtocolError(name, "unmask", "signed, but is no surviving neighbour")
        if not check_agreement(policy.sites[name], signature, state.survivors, context):
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


def _decode(kind: type[B], request: bytes, params: Params, step: str) -> B:
    try:
        return decode(kind, request, params.context())
    except ValueError as error:
        raise ProtocolError(SERVER, step, str(error)) from None
