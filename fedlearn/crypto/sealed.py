"""Sealed messages between one client and the server: streaming AES-256-GCM with forward secrecy.

A message is a header of 84 bytes and a stream of 16 KiB chunks: Cobblestone-256
of pyca/cryptography, which is C2SP chunked-encryption with SHA-512 and
AES-256-GCM. Its key is derived per message from a fresh salt, is committed to,
and has the header as its context. The key of a round and direction comes from a
root that is ratcheted forward every round; the old root is dropped.

Nothing of a message is returned before its end is authenticated, and everything
wrong with one is the same `UnauthenticatedError`. What this does not do: hide updates
from the server, or hide lengths, kinds and times.

Sources: C2SP chunked-encryption, version 1; NIST SP 800-38D; docs/protocol.md for the bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from struct import Struct

import numpy as np
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from fedlearn.core.errors import UnauthenticatedError
from fedlearn.crypto.codec import Reader, Writer, name_bytes
from fedlearn.crypto.kdf import expand

_HEADER = Struct(">4sBBH16sIQ16s16s8sQ")
HEADER_BYTES = _HEADER.size
_MAGIC, _SUITE = b"FLS1", 1
_TO_SERVER, _TO_CLIENT = 0, 1
_PREFIX_BYTES = 24 + 32  # salt, key commitment
_CHUNK_BYTES, _TAG_BYTES = 16 * 1024, 16
_STEP = 1 << 20
# A jump of more rounds than a run can have is a forgery or a bug; each costs one hash.
_MAX_ROUND_JUMP = 10_000
# The number after the last one must fit its eight bytes as well.
_LAST_SEQUENCE = 2**64 - 1
WINDOW = 1024
"""How many of the latest sequence numbers are told apart."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An authenticated message: what it is, its round, and its plaintext."""

    kind: int
    round: int
    data: memoryview


@dataclass(frozen=True, kw_only=True)
class _Header:
    direction: int
    kind: int
    run_id: bytes
    round: int
    sequence: int
    sender: bytes
    receiver: bytes
    key_id: bytes
    length: int

    def pack(self) -> bytes:
        return _HEADER.pack(
            _MAGIC,
            _SUITE,
            self.direction,
            self.kind,
            self.run_id,
            self.round,
            self.sequence,
            self.sender,
            self.receiver,
            self.key_id,
            self.length,
        )


def sealed_size(length: int) -> int:
    """Bytes of a sealed message with `length` bytes of plaintext."""
    chunks = length // _CHUNK_BYTES + 1  # the last one is short, or empty
    return HEADER_BYTES + _PREFIX_BYTES + length + chunks * _TAG_BYTES


def _address(name: str) -> bytes:
    return hashlib.sha256(b"fedlearn/v1/address" + name_bytes(name)).digest()[:16]


class ReplayWindow:
    """Remembers which sequence numbers of one key were accepted (the scheme of RFC 6479).

    Numbers may arrive out of order within the window; what is older than the window
    is refused, because whether it was seen is no longer known.

    `is_new` asks, `accept` remembers: ask before the work of authentication,
    remember only after it succeeded, or a forger could burn numbers.
    """

    def __init__(self, next_number: int = 0, seen: int = 0) -> None:
        self._next = next_number  # one above the highest accepted
        self._seen = seen  # bit i: number next-1-i was accepted

    def is_new(self, number: int) -> bool:
        """Whether the number was not accepted before and is not older than the window."""
        age = self._next - 1 - number
        return age < 0 or (age < WINDOW and not self._seen >> age & 1)

    def accept(self, number: int) -> None:
        """Remembers a number.

        Raises:
            RuntimeError: the number is not new; the caller did not ask.
        """
        if not self.is_new(number):
            raise RuntimeError(f"sequence number {number} was accepted before")
        if number >= self._next:
            # A jump beyond the window forgets everything; do not build a huge integer on the way.
            self._seen = (self._seen << min(number + 1 - self._next, WINDOW)) & (1 << WINDOW) - 1
            self._next = number + 1
        self._seen |= 1 << (self._next - 1 - number)

    def to_bytes(self) -> bytes:
        """The window as 136 bytes."""
        return Writer().uint(self._next, 8).uint(self._seen, WINDOW // 8).done()

    @classmethod
    def read(cls, reader: Reader) -> ReplayWindow:
        """A window that `to_bytes` wrote."""
        return cls(reader.uint(8), reader.uint(WINDOW // 8))


class Channel:
    """One end of a channel; made by `fedlearn.crypto.handshake`.

    The round only moves forward. A message of a later round moves it, but only
    once it is authenticated; messages of earlier rounds cannot be opened any
    more, because their keys are gone.
    """

    def __init__(self, root: bytes, run_id: bytes, me: bytes, peer: bytes, is_client: bool) -> None:
        self._root, self._run_id, self._me, self._peer = root, run_id, me, peer
        self._is_client = is_client
        self._round, self._sequence, self._window = 0, 0, ReplayWindow()

    @classmethod
    def start(cls, root: bytes, run_id: bytes, *, me: str, peer: str, is_client: bool) -> Channel:
        """The channel at round zero, from the root that the set-up agreed on."""
        return cls(
            expand(root, "seal/root", run_id), run_id, _address(me), _address(peer), is_client
        )

    def __repr__(self) -> str:
        return f"Channel(round={self._round}, secret root of {len(self._root)} bytes)"

    def __reduce__(self) -> str:
        raise TypeError("a channel is not pickled; use to_bytes and keep the bytes secret")

    def seal(self, kind: int, round_number: int, data: bytes | memoryview) -> memoryview:
        """The sealed message; `sealed_size(len(data))` bytes.

        Raises:
            RuntimeError: the round lies behind the channel's.
        """
        if round_number < self._round:
            raise RuntimeError(f"round {round_number} is over; its key is gone")
        root = self._root_at(round_number)
        self._advance(round_number, root)
        key = self._key(root, outgoing=True)
        view = memoryview(data).cast("B")
        header = _Header(
            direction=self._direction(outgoing=True),
            kind=kind,
            run_id=self._run_id,
            round=round_number,
            sequence=self._sequence,
            sender=self._me,
            receiver=self._peer,
            key_id=expand(key, "seal/key-id", length=8),
            length=len(view),
        ).pack()
        self._sequence += 1
        return _encrypt(key, header, view)

    def open(
        self,
        kind: int,
        message: bytes | memoryview,
        *,
        round_number: int | None = None,
        max_bytes: int = 1 << 32,
    ) -> Opened:
        """The plaintext of a message of that kind, and of that round where one is given.

        Guarantees: nothing is returned that the peer did not seal for this end, in
        this run, as this kind, and each sealed message is opened once at most.

        Raises:
            UnauthenticatedError: anything else; says nothing about what.
        """
        view = memoryview(message).cast("B")
        header = self._check(view, kind, round_number, max_bytes)
        root = self._root_at(header.round)
        key = self._key(root, outgoing=False)
        is_current = header.round == self._round
        if is_current and not self._window.is_new(header.sequence):
            raise UnauthenticatedError
        if not hmac.compare_digest(expand(key, "seal/key-id", length=8), header.key_id):
            raise UnauthenticatedError
        data = _decrypt(key, view, header.length)
        # Only now is anything about the message true: move the round and burn its number.
        self._advance(header.round, root)
        self._window.accept(header.sequence)
        return Opened(kind=header.kind, round=header.round, data=data)

    def to_bytes(self) -> bytes:
        """The state as bytes. SECRET: opens every message of this round and later ones.

        Two copies of one state must not both be used: a copy would open a message
        that the other has opened before.
        """
        writer = Writer().blob(b"fedlearn/seal/v1/channel").uint(self._is_client, 1)
        for field in (self._root, self._run_id, self._me, self._peer):
            writer.blob(field)
        writer.uint(self._round, 4).uint(self._sequence, 8)
        return writer.raw(self._window.to_bytes()).done()

    @classmethod
    def from_bytes(cls, data: bytes) -> Channel:
        """The channel that `to_bytes` wrote.

        Raises:
            ValueError: the bytes are not a channel.
        """
        reader = Reader(data)
        if reader.blob() != b"fedlearn/seal/v1/channel":
            raise ValueError("not a channel")
        is_client = bool(reader.uint(1))
        root, run_id, me, peer = (reader.blob() for _ in range(4))
        channel = cls(root, run_id, me, peer, is_client)
        channel._round, channel._sequence = reader.uint(4), reader.uint(8)
        channel._window = ReplayWindow.read(reader)
        reader.end()
        return channel

    def _direction(self, outgoing: bool) -> int:
        return _TO_SERVER if self._is_client == outgoing else _TO_CLIENT

    def _key(self, root: bytes, outgoing: bool) -> bytes:
        return expand(root, "seal/direction", bytes([self._direction(outgoing)]))

    def _root_at(self, round_number: int) -> bytes:
        root = self._root
        for _ in range(round_number - self._round):
            root = expand(root, "seal/ratchet")
        return root

    def _advance(self, round_number: int, root: bytes) -> None:
        if round_number > self._round:
            self._root, self._round = root, round_number
            self._sequence, self._window = 0, ReplayWindow()

    def _check(
        self, view: memoryview, kind: int, round_number: int | None, max_bytes: int
    ) -> _Header:
        """The header, if every field is what this end expects; before any key or buffer is made."""
        if len(view) < HEADER_BYTES:
            raise UnauthenticatedError
        magic, suite, *fields = _HEADER.unpack(view[:HEADER_BYTES])
        direction, found, run_id, at, sequence, sender, receiver, key_id, length = fields
        expected = (_MAGIC, _SUITE, self._direction(outgoing=False), kind, self._run_id)
        if (magic, suite, direction, found, run_id) != expected:
            raise UnauthenticatedError
        if (sender, receiver) != (self._peer, self._me):
            raise UnauthenticatedError
        if round_number is not None and at != round_number:
            raise UnauthenticatedError
        if not 0 <= at - self._round <= _MAX_ROUND_JUMP or sequence >= _LAST_SEQUENCE:
            raise UnauthenticatedError
        if length > max_bytes or len(view) != sealed_size(length):
            raise UnauthenticatedError
        return _Header(
            direction=direction,
            kind=found,
            run_id=run_id,
            round=at,
            sequence=sequence,
            sender=sender,
            receiver=receiver,
            key_id=key_id,
            length=length,
        )


def _encrypt(key: bytes, header: bytes, data: memoryview) -> memoryview:
    # np.empty: the buffer is written once, so its pages are touched once.
    out = np.empty(sealed_size(len(data)), np.uint8).data
    out[:HEADER_BYTES] = header
    encryptor, at = Cobblestone256Encryptor(key, header), HEADER_BYTES
    for start in range(0, len(data), _STEP):
        at += encryptor.update_into(data[start : start + _STEP], out[at:])
    out[at:] = encryptor.finalize()
    return out


def _decrypt(key: bytes, view: memoryview, length: int) -> memoryview:
    """The whole plaintext, after the final tag was checked; no part of it otherwise."""
    out, at = np.empty(length, np.uint8).data, 0
    try:
        decryptor = Cobblestone256Decryptor(key, view[:HEADER_BYTES])
        for start in range(HEADER_BYTES, len(view), _STEP):
            at += decryptor.update_into(view[start : start + _STEP], out[at:])
        out[at:] = decryptor.finalize()
    except (InvalidTag, ValueError):
        raise UnauthenticatedError from None
    return out
