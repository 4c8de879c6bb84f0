"""The messages of two servers, between which a client's one message is shared; see `two_server`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from fedlearn.crypto.identity import SIGNATURE_BYTES
from fedlearn.secagg.framing import Blob, Fields, Names, raw, record, records

SEED_BYTES: Final = 32
BLIND_BYTES: Final = 32
SEALED_BYTES: Final = 32 + SEED_BYTES + 16  # encapsulated key, seed, tag
UNOPENED: Final = "its seed could not be opened by the second server"
"""Why the site of what is no seed is left out of a round."""


@dataclass(frozen=True, kw_only=True)
class SignedSeed:
    """A client's seed, readable by the helper alone, and the client's signature on it.

    `vector_hash` ties the seed to the masked vector that the first server holds, and tells the
    helper, which knows the mask, nothing: a number that only the first server has is hashed too.
    """

    vector_hash: bytes
    sealed: bytes
    signature: bytes
    SIZE: ClassVar[int] = 32 + SEALED_BYTES + SIGNATURE_BYTES

    def to_bytes(self) -> bytes:
        """176 bytes."""
        return self.vector_hash + self.sealed + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedSeed:
        """The seed in 176 bytes."""
        at = 32 + SEALED_BYTES
        return cls(vector_hash=data[:32], sealed=data[32:at], signature=data[at:])


@dataclass(frozen=True, kw_only=True)
class MaskedContribution(Fields):
    """From a client to the first server: the masked vector, and the seed for the helper."""

    seed: Annotated[SignedSeed, record(SignedSeed)]
    blind: Annotated[bytes, raw(BLIND_BYTES)]
    packed: Blob
    KIND: ClassVar[int] = 21


@dataclass(frozen=True, kw_only=True)
class Seeds(Fields):
    """From the first server to the helper: the seeds of all clients in the sum."""

    table: Annotated[Mapping[str, SignedSeed], records(SignedSeed)]
    KIND: ClassVar[int] = 22


@dataclass(frozen=True, kw_only=True)
class MaskSum(Fields):
    """From the helper to the first server: whose seeds it could open, and the sum of their
    keystreams, packed.

    The sum is empty where they are too few.
    """

    opened: Names
    packed: Blob
    KIND: ClassVar[int] = 23
