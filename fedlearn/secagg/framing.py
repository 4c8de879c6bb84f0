"""How every message of secure aggregation is framed, and the tables inside.

Every message but the first starts with magic, version, kind and the context hash
of the round (from the shares on with the roll in it), so that a message of another
round, run, model, setting or roll is refused before it is read. Tables are sorted by
name and hold a name once; trailing bytes are refused. Decoding gives a message or a
`ValueError`, never half of one.

A message is a dataclass that derives from `Fields`: the annotation of a field says its form, in
the order in which the fields stand, and reading and writing both follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Final, Protocol, Self, TypeVar, get_type_hints

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


# --- Fields that say their form ------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """How values of one form are written, and read."""

    write: Callable[[Writer, Any], object]
    read: Callable[[Reader], Any]


def raw(size: int) -> Wire:
    """Bytes whose length both sides know."""
    return Wire(Writer.raw, lambda reader: reader.raw(size))


def uint(width: int) -> Wire:
    """An unsigned integer of so many bytes."""
    return Wire(lambda writer, value: writer.uint(value, width), lambda reader: reader.uint(width))


def table(width: int) -> Wire:
    """Values of so many bytes by name."""

    def read(reader: Reader) -> dict[str, bytes]:
        return read_table(reader, width)

    return Wire(write_table, read)


class Record(Protocol):
    """What is written as `SIZE` bytes."""

    SIZE: ClassVar[int]

    def to_bytes(self) -> bytes:
        """As bytes."""
        ...

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse."""
        ...


def record(kind: type[Record]) -> Wire:
    """One record."""

    def read(reader: Reader) -> Record:
        return kind.from_bytes(reader.raw(kind.SIZE))

    return Wire(lambda writer, one: writer.raw(one.to_bytes()), read)


def records(kind: type[Record]) -> Wire:
    """Records by name."""

    def write(writer: Writer, table: Mapping[str, Record]) -> None:
        write_table(writer, {name: one.to_bytes() for name, one in table.items()})

    def read(reader: Reader) -> dict[str, Record]:
        table = read_table(reader, kind.SIZE)
        return {name: kind.from_bytes(data) for name, data in table.items()}

    return Wire(write, read)


Names = Annotated[tuple[str, ...], Wire(write_names, read_names)]
"""A list of names."""

Blob = Annotated[memoryview, Wire(Writer.blob, lambda reader: reader.view(reader.uint(8)))]
"""Bytes behind their length; reading copies none of them."""

Hash = Annotated[bytes, raw(HASH_BYTES)]


class Fields:
    """What a dataclass derives from whose annotations say how its fields are written.

    Guarantees: what was written is read, field by field; a field without a form is a TypeError.
    """

    def write(self, writer: Writer) -> None:
        """Append the fields."""
        for name, wire in _wires_of(type(self)):
            wire.write(writer, getattr(self, name))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take the fields."""
        return cls(**{name: wire.read(reader) for name, wire in _wires_of(cls)})


_WIRES: Final[dict[type, tuple[tuple[str, Wire], ...]]] = {}


def _wires_of(kind: type[Any]) -> tuple[tuple[str, Wire], ...]:
    if kind not in _WIRES:
        hints = get_type_hints(kind, include_extras=True)
        _WIRES[kind] = tuple((one.name, _wire(hints[one.name])) for one in fields(kind))
    return _WIRES[kind]


def _wire(hint: Any) -> Wire:
    for form in getattr(hint, "__metadata__", ()):
        if isinstance(form, Wire):
            return form
    raise TypeError(f"{hint}: says no form, and would be left out of the bytes")
