"""The messages of secure aggregation; docs/protocol.md has the same as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedlearn.crypto.codec import Reader, Writer
from fedlearn.crypto.identity import SIGNATURE_BYTES
from fedlearn.crypto.kdf import key_info
from fedlearn.secagg.framing import (
    HASH_BYTES,
    MAGIC,
    VERSION,
    check_header,
    read_names,
    read_table,
    write_names,
    write_table,
)

KEY_BYTES = 32
SHARE_BYTES = 32
SEALED_BYTES = 1 + 2 * SHARE_BYTES + 16  # point, two shares, tag


@dataclass(frozen=True, kw_only=True)
class Params:
    """Step 0, to the client: everything the round depends on. Its hash is the context.

    `plan_hash` covers how updates are clipped, weighted, encoded and noised,
    `request_hash` is SHA-256 of all that the sites are asked, the global model included.
    """

    run_id: bytes
    round: int
    cohort: tuple[str, ...]
    neighbours: int
    threshold: int
    bits: int
    length: int
    layout_hash: bytes
    plan_hash: bytes
    request_hash: bytes
    KIND: ClassVar[int] = 1

    def encode(self) -> bytes:
        """The bytes of the message; the one message that no context precedes."""
        writer = Writer().raw(MAGIC).uint(VERSION, 1).uint(self.KIND, 1).raw(self.run_id)
        writer.uint(self.round, 4)
        write_names(writer, self.cohort)
        writer.uint(self.neighbours, 4).uint(self.threshold, 4).uint(self.bits, 1)
        writer.uint(self.length, 8)
        return writer.raw(self.layout_hash).raw(self.plan_hash).raw(self.request_hash).done()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Params:
        """The parameters in these bytes; `ValueError` when they are not canonical."""
        reader = Reader(data)
        check_header(reader, cls.KIND)
        params = cls(
            run_id=reader.raw(16),
            round=reader.uint(4),
            cohort=read_names(reader),
            neighbours=reader.uint(4),
            threshold=reader.uint(4),
            bits=reader.uint(1),
            length=reader.uint(8),
            layout_hash=reader.raw(HASH_BYTES),
            plan_hash=reader.raw(HASH_BYTES),
            request_hash=reader.raw(HASH_BYTES),
        )
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
class Advertisement:
    """Step 0, from the client: its keys for the round."""

    keys: RoundKeys
    KIND: ClassVar[int] = 2

    def write(self, writer: Writer) -> None:  # noqa: D102
        writer.raw(self.keys.to_bytes())

    @classmethod
    def read(cls, reader: Reader) -> Advertisement:  # noqa: D102
        return cls(keys=RoundKeys.from_bytes(reader.raw(RoundKeys.SIZE)))


@dataclass(frozen=True, kw_only=True)
class Roll:
    """Step 1, to the client: the keys of everybody who advertised."""

    keys: Mapping[str, RoundKeys]
    KIND: ClassVar[int] = 3

    def write(self, writer: Writer) -> None:  # noqa: D102
        write_table(writer, {name: keys.to_bytes() for name, keys in self.keys.items()})

    @classmethod
    def read(cls, reader: Reader) -> Roll:  # noqa: D102
        table = read_table(reader, RoundKeys.SIZE)
        return cls(keys={name: RoundKeys.from_bytes(data) for name, data in table.items()})


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Step 1, from the client: a commitment to its self mask, and a sealed share per neighbour."""

    commitment: bytes
    sealed: Mapping[str, bytes]
    KIND: ClassVar[int] = 4

    def write(self, writer: Writer) -> None:  # noqa: D102
        writer.raw(self.commitment)
        write_table(writer, self.sealed)

    @classmethod
    def read(cls, reader: Reader) -> Shares:  # noqa: D102
        return cls(commitment=reader.raw(HASH_BYTES), sealed=read_table(reader, SEALED_BYTES))


@dataclass(frozen=True, kw_only=True)
class Inbox:
    """Step 2, to the client: the shares that its neighbours sealed for it."""

    sealed: Mapping[str, bytes]
    KIND: ClassVar[int] = 5

    def write(self, writer: Writer) -> None:  # noqa: D102
        write_table(writer, self.sealed)

    @classmethod
    def read(cls, reader: Reader) -> Inbox:  # noqa: D102
        return cls(sealed=read_table(reader, SEALED_BYTES))


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Step 2, from the client: its masked vector, packed."""

    packed: memoryview
    KIND: ClassVar[int] = 6

    def write(self, writer: Writer) -> None:  # noqa: D102
        writer.blob(self.packed)

    @classmethod
    def read(cls, reader: Reader) -> Masked:  # noqa: D102
        return cls(packed=reader.view(reader.uint(8)))


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """Step 3, to the client: whose masked vectors are in the sum."""

    names: tuple[str, ...]
    KIND: ClassVar[int] = 7

    def write(self, writer: Writer) -> None:  # noqa: D102
        write_names(writer, self.names)

    @classmethod
    def read(cls, reader: Reader) -> Survivors:  # noqa: D102
        return cls(names=read_names(reader))

    def hash(self) -> bytes:
        """SHA-256 of the canonical list; what survivors sign."""
        writer = Writer()
        self.write(writer)
        return hashlib.sha256(b"fedlearn/secagg/v1/survivors" + writer.done()).digest()


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Step 3, from the client: its signature on the one survivor list it was shown."""

    signature: bytes
    KIND: ClassVar[int] = 8

    def write(self, writer: Writer) -> None:  # noqa: D102
        writer.raw(self.signature)

    @classmethod
    def read(cls, reader: Reader) -> Agreement:  # noqa: D102
        return cls(signature=reader.raw(SIGNATURE_BYTES))


@dataclass(frozen=True, kw_only=True)
class Endorsements:
    """Step 4, to the client: its neighbours' signatures on the same list."""

    signatures: Mapping[str, bytes]
    KIND: ClassVar[int] = 9

    def write(self, writer: Writer) -> None:  # noqa: D102
        write_table(writer, self.signatures)

    @classmethod
    def read(cls, reader: Reader) -> Endorsements:  # noqa: D102
        return cls(signatures=read_table(reader, SIGNATURE_BYTES))


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Step 4, from the client: one share per neighbour, point (1 byte) and value (32 bytes).

    Of a survivor the share of its self mask, of a dropped client the share of its
    mask key. The two tables have no name in common.
    """

    self_shares: Mapping[str, bytes]
    key_shares: Mapping[str, bytes]
    KIND: ClassVar[int] = 10

    def write(self, writer: Writer) -> None:  # noqa: D102
        write_table(writer, self.self_shares)
        write_table(writer, self.key_shares)

    @classmethod
    def read(cls, reader: Reader) -> Opening:  # noqa: D102
        opening = cls(
            self_shares=read_table(reader, 1 + SHARE_BYTES),
            key_shares=read_table(reader, 1 + SHARE_BYTES),
        )
        if opening.self_shares.keys() & opening.key_shares.keys():
            raise ValueError("both shares of one client are in one message")
        return opening
