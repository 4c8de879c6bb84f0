"""The messages of secure aggregation; docs/protocol.md has the same as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from fedlearn.crypto.codec import Reader, Writer
from fedlearn.crypto.identity import SIGNATURE_BYTES
from fedlearn.crypto.kdf import key_info
from fedlearn.secagg.framing import (
    MAGIC,
    VERSION,
    Blob,
    Fields,
    Hash,
    Names,
    check_header,
    raw,
    record,
    records,
    table,
    uint,
)

KEY_BYTES = 32
SHARE_BYTES = 32
SEALED_BYTES = 1 + 2 * SHARE_BYTES + 16  # point, two shares, tag

SealedShares = Annotated[Mapping[str, bytes], table(SEALED_BYTES)]
OpenShares = Annotated[Mapping[str, bytes], table(1 + SHARE_BYTES)]


@dataclass(frozen=True, kw_only=True)
class Params(Fields):
    """Step 0, to the client: everything the round depends on. Its hash is the context.

    `plan_hash` covers how updates are clipped, weighted, encoded and noised,
    `request_hash` is SHA-256 of all that the sites are asked, the global model included.
    """

    run_id: Annotated[bytes, raw(16)]
    round: Annotated[int, uint(4)]
    cohort: Names
    neighbours: Annotated[int, uint(4)]
    threshold: Annotated[int, uint(4)]
    bits: Annotated[int, uint(1)]
    length: Annotated[int, uint(8)]
    layout_hash: Hash
    plan_hash: Hash
    request_hash: Hash
    KIND: ClassVar[int] = 1

    def encode(self) -> bytes:
        """The bytes of the message; the one message that no context precedes."""
        writer = Writer().raw(MAGIC).uint(VERSION, 1).uint(self.KIND, 1)
        self.write(writer)
        return writer.done()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Params:
        """The parameters in these bytes; `ValueError` when they are not canonical."""
        reader = Reader(data)
        check_header(reader, cls.KIND)
        params = cls.read(reader)
        reader.end()
        return params

    def context(self) -> bytes:
        """SHA-256 over the canonical encoding: bound into every key, signature and message."""
        return hashlib.sha256(b"fedlearn/secagg/v1/params" + self.encode()).digest()

    def bound_to(self, roll: bytes) -> bytes:
        """The context once everybody's keys are known: what all that follows the roll depends on.

        Clients that were shown different rolls, and so other graphs, understand nothing of
        each other.
        """
        return hashlib.sha256(key_info("secagg/roll", self.context(), roll)).digest()


@dataclass(frozen=True, kw_only=True)
class RoundKeys:
    """The two X25519 public keys of a client for one round, signed by its identity."""

    cipher_key: bytes
    mask_key: bytes
    signature: bytes
    SIZE: ClassVar[int] = 2 * KEY_BYTES + SIGNATURE_BYTES

    def to_bytes(self) -> bytes:
        """128 bytes."""
        return self.cipher_key + self.mask_key + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> RoundKeys:
        """The keys in 128 bytes."""
        return cls(cipher_key=data[:32], mask_key=data[32:64], signature=data[64:])


@dataclass(frozen=True, kw_only=True)
class Advertisement(Fields):
    """Step 0, from the client: its keys for the round."""

    keys: Annotated[RoundKeys, record(RoundKeys)]
    KIND: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class Roll(Fields):
    """Step 1, to the client: the keys of everybody who advertised."""

    keys: Annotated[Mapping[str, RoundKeys], records(RoundKeys)]
    KIND: ClassVar[int] = 3


@dataclass(frozen=True, kw_only=True)
class Shares(Fields):
    """Step 1, from the client: a commitment to its self mask, and a sealed share per neighbour."""

    commitment: Hash
    sealed: SealedShares
    KIND: ClassVar[int] = 4


@dataclass(frozen=True, kw_only=True)
class Inbox(Fields):
    """Step 2, to the client: the shares that its neighbours sealed for it."""

    sealed: SealedShares
    KIND: ClassVar[int] = 5


@dataclass(frozen=True, kw_only=True)
class Masked(Fields):
    """Step 2, from the client: its masked vector, packed."""

    packed: Blob
    KIND: ClassVar[int] = 6


@dataclass(frozen=True, kw_only=True)
class Survivors(Fields):
    """Step 3, to the client: whose masked vectors are in the sum."""

    names: Names
    KIND: ClassVar[int] = 7

    def hash(self) -> bytes:
        """SHA-256 of the canonical list; what survivors sign."""
        writer = Writer()
        self.write(writer)
        return hashlib.sha256(b"fedlearn/secagg/v1/survivors" + writer.done()).digest()


@dataclass(frozen=True, kw_only=True)
class Agreement(Fields):
    """Step 3, from the client: its signature on the one survivor list it was shown."""

    signature: Annotated[bytes, raw(SIGNATURE_BYTES)]
    KIND: ClassVar[int] = 8


@dataclass(frozen=True, kw_only=True)
class Endorsements(Fields):
    """Step 4, to the client: its neighbours' signatures on the same list."""

    signatures: Annotated[Mapping[str, bytes], table(SIGNATURE_BYTES)]
    KIND: ClassVar[int] = 9


@dataclass(frozen=True, kw_only=True)
class Opening(Fields):
    """Step 4, from the client: one share per neighbour, point (1 byte) and value (32 bytes).

    Of a survivor the share of its self mask, of a dropped client the share of its
    mask key. The two tables have no name in common.
    """

    self_shares: OpenShares
    key_shares: OpenShares
    KIND: ClassVar[int] = 10

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take both tables; ValueError where a name is in both."""
        opening = super().read(reader)
        if opening.self_shares.keys() & opening.key_shares.keys():
            raise ValueError("both shares of one client are in one message")
        return opening
