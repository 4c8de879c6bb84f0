"""The key schedule of one round: every secret that a mask, a share or a commitment comes from.

All derivations take the context hash of the round and the names of both ends, so
that a key fits one round, one pair, one direction and one purpose.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedlearn.crypto.codec import name_bytes, sorted_names
from fedlearn.crypto.kdf import derive, expand, key_info

# One message per key, so the nonce may be constant.
_NONCE = bytes(12)


def public_of(private: bytes) -> bytes:
    """The X25519 public key of a private one."""
    return load_private(private).public_key().public_bytes_raw()


def load_private(private: bytes) -> X25519PrivateKey:
    """The key as an object. Loading costs as much as an exchange, so load once for many peers."""
    return X25519PrivateKey.from_private_bytes(private)


def _agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """The X25519 result; `ValueError` for a point of small order (RFC 7748, section 6.1)."""
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def is_usable(public: bytes) -> bool:
    """Whether a key can be agreed on with the owner of a public one: its order is not small."""
    try:
        return bool(_agree(X25519PrivateKey.generate(), public))
    except ValueError:
        return False


def pair_mask_key(
    private: X25519PrivateKey, public: bytes, context: bytes, one: str, other: str
) -> bytes:
    """The key of the mask between two clients; the same from both ends."""
    low, high = map(name_bytes, sorted_names((one, other)))
    return derive(_agree(private, public), "secagg/pair-mask", context, low, high)


def self_mask_key(seed: bytes, context: bytes, owner: str) -> bytes:
    """The key of a client's own mask, from the seed that it shares among its neighbours."""
    return expand(seed, "secagg/self-mask", context, name_bytes(owner))


def share_keys(
    private: X25519PrivateKey, public: bytes, context: bytes, own: str, peer: str
) -> tuple[bytes, bytes]:
    """Two single-use AES-256-GCM keys: to seal the share for `peer`, to open the one from it."""
    agreed = _agree(private, public)
    one, other = name_bytes(own), name_bytes(peer)
    outgoing = derive(agreed, "secagg/share", context, one, other)
    return outgoing, derive(agreed, "secagg/share", context, other, one)


def seal_share(key: bytes, share: bytes, context: bytes) -> bytes:
    """The sealed share; `key` must never seal a second one."""
    return AESGCM(key).encrypt(_NONCE, share, context)


def open_share(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """The share; `InvalidTag` when it was altered or meant for somebody else."""
    return AESGCM(key).decrypt(_NONCE, sealed, context)


def commitment(seed: bytes, context: bytes, owner: str) -> bytes:
    """SHA-256 commitment to a self-mask seed (32 random bytes hide themselves)."""
    info = key_info("secagg/commitment", context, name_bytes(owner), seed)
    return hashlib.sha256(info).digest()


def graph_seed(roll: bytes) -> bytes:
    """What the graph is drawn from: a hash of the roll as every client received it."""
    return hashlib.sha256(key_info("secagg/graph", roll)).digest()
