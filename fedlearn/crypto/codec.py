"""Canonical binary encoding: one value has one byte string, and every other byte string is refused.

Integers are big-endian and unsigned, byte strings and names carry their length,
and `Reader.end` refuses trailing bytes. Signed and hashed data is encoded here
and nowhere else, so that nobody signs a JSON document.

A reader raises `ValueError`; the caller knows who sent the bytes and turns it
into `ProtocolError` or `UnauthenticatedError`.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_NAME = 255


def name_bytes(name: str) -> bytes:
    """A participant's name as UTF-8, 1 to 255 bytes; the bytes are also its place in every order.

    Raises:
        ValueError: the name is empty, too long, or not text that UTF-8 can carry.
    """
    encoded = name.encode()
    if not 1 <= len(encoded) <= MAX_NAME:
        raise ValueError(f"name {name!r} has {len(encoded)} bytes; allowed: 1 to {MAX_NAME}")
    return encoded


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names in canonical order: by their UTF-8 bytes."""
    return tuple(sorted(names, key=name_bytes))


class Writer:
    """Appends fields; `done` returns the bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []

    def raw(self, data: bytes | memoryview) -> Writer:
        """Bytes whose length both sides know."""
        self._parts.append(data)
        return self

    def uint(self, value: int, width: int) -> Writer:
        """An unsigned integer of `width` bytes; `OverflowError` when it does not fit."""
        return self.raw(value.to_bytes(width, "big"))

    def blob(self, data: bytes | memoryview) -> Writer:
        """Bytes behind a length of 8 bytes."""
        return self.uint(len(data), 8).raw(data)

    def name(self, name: str) -> Writer:
        """A participant's name behind a length of 1 byte."""
        encoded = name_bytes(name)
        return self.uint(len(encoded), 1).raw(encoded)

    def done(self) -> bytes:
        """Everything written so far."""
        return b"".join(self._parts)


class Reader:
    """Takes fields in the order in which they were written; every length is checked before use."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data).toreadonly()
        self._at = 0

    def raw(self, length: int) -> bytes:
        """Exactly `length` bytes."""
        return bytes(self.view(length))

    def uint(self, width: int) -> int:
        """An unsigned integer of `width` bytes."""
        return int.from_bytes(self.raw(width), "big")

    def view(self, length: int) -> memoryview:
        """Exactly `length` bytes, without a copy."""
        if length > len(self._data) - self._at:
            raise ValueError("message is shorter than its fields")
        self._at += length
        return self._data[self._at - length : self._at]

    def blob(self) -> bytes:
        """Bytes behind a length of 8 bytes."""
        return self.raw(self.uint(8))

    def name(self) -> str:
        """A participant's name."""
        encoded = self.raw(self.uint(1))
        if not encoded:
            raise ValueError("a name is empty")
        return encoded.decode()  # UnicodeDecodeError is a ValueError

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._data) - self._at

    def end(self) -> None:
        """Refuses trailing bytes."""
        if self.left:
            raise ValueError("message has trailing bytes")
