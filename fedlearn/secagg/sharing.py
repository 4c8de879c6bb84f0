"""What a client does with the round's keys: seal shares, open shares, collect mask keys.

Between the session, which decides what may happen, and `keys`, which derives.
A peer whose key cannot be used is named in the `ProtocolError`.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag

from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.shamir import split
from fedlearn.errors import ProtocolError
from fedlearn.secagg import keys
from fedlearn.secagg.messages import RoundKeys, Shares
from fedlearn.secagg.states import POINTED_SHARES, Shared


def seal_shares(state: Shared, own: str) -> Shares:
    """Shares of the self-mask seed and the mask key, each sealed for one neighbour."""
    context = state.params.context()
    secret = state.self_seed + state.mask_private
    rows = split(secret, state.params.threshold, len(state.peers))
    sealed: dict[str, bytes] = {}
    for point, (peer, peer_keys) in enumerate(state.peers.items(), start=1):
        key = _share_key(state.cipher_private, peer_keys, context, own, peer, peer)
        sealed[peer] = keys.seal_share(key, bytes([point]) + rows[point - 1].tobytes(), context)
    return Shares(commitment=keys.commitment(state.self_seed, context, own), sealed=sealed)


def _share_key(
    private: bytes, peer_keys: RoundKeys, context: bytes, sender: str, receiver: str, peer: str
) -> bytes:
    try:
        return keys.share_key(private, peer_keys.cipher_key, context, sender, receiver)
    except ValueError:
        raise ProtocolError(peer, "share", "its cipher key is a point of small order") from None


def open_share(state: Shared, own: str, peer: str, sealed: bytes) -> bytes:
    """A neighbour's share for us: point and two shares, checked against our place in its list."""
    context = state.params.context()
    key = _share_key(state.cipher_private, state.peers[peer], context, peer, own, peer)
    try:
        share = keys.open_share(key, sealed, context)
    except InvalidTag:
        raise ProtocolError(peer, "mask", "its share could not be opened") from None
    if len(share) != POINTED_SHARES or share[0] != state.points[peer]:
        raise ProtocolError(peer, "mask", "its share lies at another point")
    return share


def mask_keys(state: Shared, own: str, senders: tuple[str, ...]) -> tuple[list[bytes], list[bytes]]:
    """Keys of the masks to add and to subtract: the higher name of a pair adds."""
    context = state.params.context()
    plus, minus = [keys.self_mask_key(state.self_seed, context, own)], list[bytes]()
    for peer in senders:
        public = state.peers[peer].mask_key
        try:
            key = keys.pair_mask_key(state.mask_private, public, context, own, peer)
        except ValueError:
            raise ProtocolError(peer, "mask", "its mask key is a point of small order") from None
        (plus if name_bytes(own) > name_bytes(peer) else minus).append(key)
    return plus, minus
