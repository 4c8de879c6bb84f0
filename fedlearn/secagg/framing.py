"""How every message of secure aggregation is framed, and the tables inside.

Every message but the first starts with magic, version, kind and the context hash
of the round (from the shares on with the roll in it), so that a message of another
round, run, model, setting or roll is refused before it is read. Tables are sorted by
name and hold a name once; trailing bytes are refused. Decoding gives a message or a
`ValueError`, never half of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, Self, TypeVar

from fedlearn.crypto.codec import Reader, Writer, name_bytes, sorted_names

MAGIC = b"FLSA"
VERSION = 2
HASH_BYTES = 32


class Body(Protocol):
    """A message without its header."""

    KIND: ClassVar[int]

    def write(self, writer: Writer) -> None:
        """Appends the fields."""
        ...

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Takes the fields."""
        ...


B = TypeVar("B", bound=Body)


def encode(body: Body, context: bytes) -> bytes:
    """The bytes of a message in the round with this context hash."""
    writer = Writer().raw(MAGIC).uint(VERSION, 1).uint(body.KIND, 1).raw(context)
    body.write(writer)
    return writer.done()


def decode(kind: type[B], data: bytes | memoryview, context: bytes) -> B:
    """The message of that kind in these bytes.

    Raises:
        ValueError: another magic, version, kind or context, or not the canonical encoding.
    """
    reader = Reader(data)
    check_header(reader, kind.KIND)
    if reader.raw(HASH_BYTES) != context:
        raise ValueError("message belongs to another round, model or setting")
    body = kind.read(reader)
    reader.end()
    return body


def check_header(reader: Reader, kind: int) -> None:
    """Take magic, version and kind off the front; `ValueError` when they are others."""
    if reader.raw(len(MAGIC)) != MAGIC or reader.uint(1) != VERSION:
        raise ValueError(f"not a secure aggregation message of version {VERSION}")
    found = reader.uint(1)
    if found != kind:
        raise ValueError(f"message of kind {found} where {kind} was expected")


def kind_of(data: bytes | memoryview) -> int:
    """The kind that a message says it is of; -1 for what is too short to be one."""
    at = len(MAGIC) + 1
    return data[at] if len(data) > at else -1


def write_table(writer: Writer, table: Mapping[str, bytes]) -> None:
    """Append a table of values of one width, sorted by name."""
    writer.uint(len(table), 4)
    for name in sorted_names(table):
        writer.name(name).raw(table[name])


def read_table(reader: Reader, width: int) -> dict[str, bytes]:
    """The table of `width`-byte values that `write_table` wrote; `ValueError` if not sorted."""
    table: dict[str, bytes] = {}
    last = b""
    for _ in range(reader.uint(4)):
        name = reader.name()
        if name_bytes(name) <= last:
            raise ValueError("names are not sorted and distinct")
        last, table[name] = name_bytes(name), reader.raw(width)
    return table


def write_names(writer: Writer, names: tuple[str, ...]) -> None:
    """Append a list of names, sorted."""
    write_table(writer, dict.fromkeys(names, b""))


def read_names(reader: Reader) -> tuple[str, ...]:
    """The names that `write_names` wrote; `ValueError` if not sorted or repeated."""
    return tuple(read_table(reader, 0))
