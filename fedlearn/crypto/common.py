"""Randomness that nobody chooses: every site commits itself to a share, then all shares are opened.

A site commits itself before it knows another's share, and opens its own once it has seen what
all the others are committed to, under its signature. So neither a site nor the coordinator
can choose what the shares together give. What is left to one that sees the shares of the others
first is to break the run off; the next one begins with new commitments.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from fedlearn.crypto.codec import name_bytes, sorted_names
from fedlearn.crypto.identity import Identity, verify
from fedlearn.crypto.kdf import key_info

SHARE_BYTES = 32
_PURPOSE = "common/share"


@dataclass(frozen=True)
class OpenedShare:
    """A share (hex) that its site was committed to, and the site's signature (hex) on it."""

    share: str
    signature: str


def new_share() -> bytes:
    """A share, from the generator of the operating system."""
    return secrets.token_bytes(SHARE_BYTES)


def commitment(name: str, share: bytes) -> str:
    """What a site shows of its share before it knows the others': a hash (hex)."""
    return hashlib.sha256(key_info("common/commitment", name_bytes(name), share)).hexdigest()


def opened(
    identity: Identity, name: str, share: bytes, run_id: bytes, commitments: Mapping[str, str]
) -> OpenedShare:
    """The share of a site, once it knows what everybody is committed to.

    Raises:
        ValueError: its own commitment is not among them.
    """
    if commitments.get(name) != commitment(name, share):
        raise ValueError(f"{name} is not committed to its own share")
    signature = identity.sign(_PURPOSE, *_signed(name, share, run_id, commitments))
    return OpenedShare(share=share.hex(), signature=signature.hex())


def seed_of(
    openings: Mapping[str, OpenedShare],
    run_id: bytes,
    commitments: Mapping[str, str],
    sites: Mapping[str, bytes],
) -> bytes:
    """What the shares of all `sites` (name to public key) together give: 32 bytes.

    Guarantees: equal at all who know the same sites, run and commitments; uniform and unknown
    to whoever has committed himself, as long as one share is.

    Raises:
        ValueError: a share is missing, is not what its site was committed to, or was not opened
            by it for this run and these commitments.
    """
    if not sites or not openings.keys() == commitments.keys() == sites.keys():
        raise ValueError("the shares are not those of the run's sites")
    for name, fault in faults(openings, run_id, commitments, sites).items():
        raise ValueError(f"{name} {fault}")
    shares = []
    for name in sorted_names(sites):
        shares += [name_bytes(name), bytes.fromhex(openings[name].share)]
    return hashlib.sha256(key_info("common/seed", run_id, *shares)).digest()


def faults(
    openings: Mapping[str, OpenedShare],
    run_id: bytes,
    commitments: Mapping[str, str],
    sites: Mapping[str, bytes],
) -> dict[str, str]:
    """What is wrong with the shares of single sites, by the site."""
    found = {name: _fault(name, openings, run_id, commitments, key) for name, key in sites.items()}
    return {name: fault for name, fault in found.items() if fault}


def _fault(
    name: str,
    openings: Mapping[str, OpenedShare],
    run_id: bytes,
    commitments: Mapping[str, str],
    public: bytes,
) -> str:
    if name not in openings:
        return "has not opened the share that it was committed to"
    try:
        share, signature = map(bytes.fromhex, (openings[name].share, openings[name].signature))
    except ValueError:
        return "has opened what is no share"
    if len(share) != SHARE_BYTES or commitments.get(name) != commitment(name, share):
        return "has opened another share than it was committed to"
    if not verify(public, signature, _PURPOSE, *_signed(name, share, run_id, commitments)):
        return "has not opened its share for this run"
    return ""


def _signed(
    name: str, share: bytes, run_id: bytes, commitments: Mapping[str, str]
) -> tuple[bytes, ...]:
    listed = [part for one in sorted_names(commitments) for part in _pair(one, commitments)]
    return (run_id, name_bytes(name), share, *listed)


def _pair(name: str, commitments: Mapping[str, str]) -> tuple[bytes, bytes]:
    return name_bytes(name), commitments[name].encode()
