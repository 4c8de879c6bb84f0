"""The messages of two servers where every vector has a proof of its norm; see `proven`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final

from fedlearn.crypto.codec import Reader, Writer, name_bytes
from fedlearn.crypto.identity import SIGNATURE_BYTES, Identity, verify
from fedlearn.crypto.kdf import key_info
from fedlearn.secagg.framing import Blob, Fields, raw, read_table, record, write_table
from fedlearn.secagg.proofs.norm import NormBound
from fedlearn.secagg.two_server_messages import BLIND_BYTES, SEALED_BYTES

KEY_BYTES: Final = 32
UNPROVED: Final = "its proof does not hold: its update may be longer than any honest one"
"""Why the site of a proof that does not hold is left out of a round."""


@dataclass(frozen=True, kw_only=True)
class SignedShare:
    """What a client signs: its weight, what the first server holds of it, the seed for the helper.

    `bits_hash` is of the first server's shares of the bits in the statement.
    """

    weight: int
    vector_hash: bytes
    bits_hash: bytes
    sealed: bytes
    signature: bytes = b""
    SIZE: ClassVar[int] = 4 + 2 * 32 + SEALED_BYTES + SIGNATURE_BYTES

    def to_bytes(self) -> bytes:
        """212 bytes."""
        return b"".join((*self.fields, self.signature))

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedShare:
        """The share in 212 bytes."""
        reader = Reader(data)
        return cls(
            weight=reader.uint(4),
            vector_hash=reader.raw(32),
            bits_hash=reader.raw(32),
            sealed=reader.raw(SEALED_BYTES),
            signature=reader.raw(SIGNATURE_BYTES),
        )

    @property
    def fields(self) -> tuple[bytes, ...]:
        """What is signed."""
        return self.weight.to_bytes(4, "big"), self.vector_hash, self.bits_hash, self.sealed

    def signed_by(self, identity: Identity, name: str, context: bytes) -> SignedShare:
        """The same with a signature."""
        signature = identity.sign("two-server/share", context, name_bytes(name), *self.fields)
        return replace(self, signature=signature)

    def is_signed(self, public: bytes, name: str, context: bytes) -> bool:
        """Whether the client of that key has signed it for this round."""
        fields = (context, name_bytes(name), *self.fields)
        return verify(public, self.signature, "two-server/share", *fields)

    def signs(self, context: bytes, name: str) -> bytes:
        """The key of the images' signs: whoever knows it has fixed the vector."""
        _, digest, _, sealed = self.fields
        return hashed("two-server/signs", context, name_bytes(name), digest, sealed)

    def coefficients(self, context: bytes, name: str) -> bytes:
        """The key of the coefficients: whoever knows it has fixed the vector and the bits."""
        return hashed("two-server/coefficients", context, name_bytes(name), *self.fields)


@dataclass(frozen=True, kw_only=True)
class ProvenContribution(Fields):
    """From a client to the first server: masked vector, share of its proof, seed for the helper."""

    share: Annotated[SignedShare, record(SignedShare)]
    blind: Annotated[bytes, raw(BLIND_BYTES)]
    packed: Blob
    proof: Blob
    KIND: ClassVar[int] = 24


@dataclass(frozen=True, kw_only=True)
class Statements:
    """From the first server to the helper: what it sees of the proof of every client.

    `points` is the key of where proofs are looked at.
    """

    bound: NormBound
    points: bytes
    table: Mapping[str, tuple[SignedShare, bytes]]
    KIND: ClassVar[int] = 25

    def write(self, writer: Writer) -> None:  # noqa: D102
        self.bound.write(writer)
        rows = {name: share.to_bytes() + seen for name, (share, seen) in self.table.items()}
        write_table(writer.raw(self.points), rows)

    @classmethod
    def read(cls, reader: Reader) -> Statements:  # noqa: D102
        bound, points, at = NormBound.read(reader), reader.raw(KEY_BYTES), SignedShare.SIZE
        rows = read_table(reader, at + bound.seen_bytes)
        table = {n: (SignedShare.from_bytes(row[:at]), row[at:]) for n, row in rows.items()}
        return cls(bound=bound, points=points, table=table)


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """From the helper to the first server: what it sees of the proofs, and the sum of keystreams.

    Whoever is not in the table has sealed what is no seed. The sum, of all whose proofs hold, is
    empty where they are too few.
    """

    table: Mapping[str, bytes]
    packed: memoryview
    KIND: ClassVar[int] = 26

    def write(self, writer: Writer) -> None:  # noqa: D102
        width = len(next(iter(self.table.values()), b""))
        write_table(writer.uint(width, 4), self.table)
        writer.blob(self.packed)

    @classmethod
    def read(cls, reader: Reader) -> Verdicts:  # noqa: D102
        width = reader.uint(4)
        table = read_table(reader, width)
        if width and not table:
            raise ValueError("rows of some width, and none of them")
        return cls(table=table, packed=reader.view(reader.uint(8)))


def hashed(label: str, *fields: bytes) -> bytes:
    """SHA-256 of fields, under a label of their own."""
    return hashlib.sha256(key_info(label, *fields)).digest()
