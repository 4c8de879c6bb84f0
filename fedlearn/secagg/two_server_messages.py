"""The messages of two servers, between which a client's one message is shared; see `two_server`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from fedlearn.crypto.codec import Reader, Writer
from fedlearn.crypto.identity import SIGNATURE_BYTES
from fedlearn.secagg.framing import read_names, read_table, write_names, write_table

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
class MaskedContribution:
    """From a client to the first server: the masked vector, and the seed for the helper."""

    seed: SignedSeed
    blind: bytes
    packed: memoryview
    KIND: ClassVar[int] = 21

    def write(self, writer: Writer) -> None:  # noqa: D102
        writer.raw(self.seed.to_bytes()).raw(self.blind).blob(self.packed)

    @classmethod
    def read(cls, reader: Reader) -> MaskedContribution:  # noqa: D102
        return cls(
            seed=SignedSeed.from_bytes(reader.raw(SignedSeed.SIZE)),
            blind=reader.raw(BLIND_BYTES),
            packed=reader.view(reader.uint(8)),
        )


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """From the first server to the helper: the seeds of all clients in the sum."""

    table: Mapping[str, SignedSeed]
    KIND: ClassVar[int] = 22

    def write(self, writer: Writer) -> None:  # noqa: D102
        write_table(writer, {name: one.to_bytes() for name, one in self.table.items()})

    @classmethod
    def read(cls, reader: Reader) -> Seeds:  # noqa: D102
        table = read_table(reader, SignedSeed.SIZE)
        return cls(table={name: SignedSeed.from_bytes(data) for name, data in table.items()})


@dataclass(frozen=True, kw_only=True)
class MaskSum:
    """From the helper to the first server: whose seeds it could open, and the sum of their
    keystreams, packed.

    The sum is empty where they are too few.
    """

    opened: tuple[str, ...]
    packed: memoryview
    KIND: ClassVar[int] = 23

    def write(self, writer: Writer) -> None:  # noqa: D102
        write_names(writer, self.opened)
        writer.blob(self.packed)

    @classmethod
    def read(cls, reader: Reader) -> MaskSum:  # noqa: D102
        return cls(opened=read_names(reader), packed=reader.view(reader.uint(8)))
