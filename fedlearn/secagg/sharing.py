"""What a client does with the round's keys: seal shares, open shares, collect mask keys.

Between the session, which decides what may happen, and `keys`, which derives.
A peer whose key cannot be used is named in the `ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidTag

from fedlearn.core.errors import ProtocolError
from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.shamir import split
from fedlearn.secagg import keys
from fedlearn.secagg.messages import RoundKeys, Shares
from fedlearn.secagg.states import POINTED_SHARES, Shared


def exchange_keys(
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


def seal_shares(state: Shared, outgoing: Mapping[str, bytes], own: str) -> Shares:
    """Shares of the self-mask seed and the mask key, each sealed for one neighbour."""
    context = state.params.context()
    secret = state.self_seed + state.mask_private
    rows = split(secret, state.params.threshold, len(outgoing))
    sealed = {
        peer: keys.seal_share(key, bytes([point]) + row.tobytes(), context)
        for point, (row, (peer, key)) in enumerate(
            zip(rows, outgoing.items(), strict=True), start=1
        )
    }
    return Shares(commitment=keys.commitment(state.self_seed, context, own), sealed=sealed)


def open_share(state: Shared, peer: str, sealed: bytes) -> bytes:
    """A neighbour's share for us: point and two shares, checked against our place in its list."""
    try:
        share = keys.open_share(state.inbox_keys[peer], sealed, state.params.context())
    except InvalidTag:
        raise ProtocolError(peer, "mask", "its share could not be opened") from None
    if len(share) != POINTED_SHARES or share[0] != state.points[peer]:
        raise ProtocolError(peer, "mask", "its share lies at another point")
    return share


def mask_keys(state: Shared, own: str, senders: tuple[str, ...]) -> tuple[list[bytes], list[bytes]]:
    """Keys of the masks to add and to subtract: the higher name of a pair adds."""
    context = state.params.context()
    plus, minus = [keys.self_mask_key(state.self_seed, context, own)], list[bytes]()
    private = keys.load_private(state.mask_private)
    for peer in senders:
        public = state.peers[peer].mask_key
        try:
            key = keys.pair_mask_key(private, public, context, own, peer)
        except ValueError:
            raise ProtocolError(peer, "mask", "its mask key is a point of small order") from None
        (plus if name_bytes(own) > name_bytes(peer) else minus).append(key)
    return plus, minus
