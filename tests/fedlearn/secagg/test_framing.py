"""Messages whose fields say their form: read as they were written, and none of them forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.crypto.codec import Reader, Writer
from fedlearn.secagg import messages, proven_messages, states, two_server_messages
from fedlearn.secagg.framing import (
    Blob,
    Fields,
    Hash,
    Names,
    _wires_of,
    raw,
    record,
    records,
    table,
    uint,
)
from fedlearn.secagg.messages import RoundKeys

KINDS = [
    one
    for module in (messages, states, two_server_messages, proven_messages)
    for one in vars(module).values()
    if isinstance(one, type) and issubclass(one, Fields) and one.__module__ == module.__name__
]


@dataclass(frozen=True, kw_only=True)
class OfAllForms(Fields):
    number: Annotated[int, uint(3)]
    fixed: Annotated[bytes, raw(5)]
    digest: Hash
    keys: Annotated[RoundKeys, record(RoundKeys)]
    names: Names
    by_name: Annotated[Mapping[str, bytes], table(2)]
    keys_by_name: Annotated[Mapping[str, RoundKeys], records(RoundKeys)]
    blob: Blob
    KIND: ClassVar[int] = 99


def _keys(data: bytes) -> RoundKeys:
    return RoundKeys.from_bytes(data)


names = st.text(min_size=1, max_size=9).filter(lambda name: name.isprintable())
keys = st.binary(min_size=RoundKeys.SIZE, max_size=RoundKeys.SIZE).map(_keys)


@given(
    number=st.integers(0, 2**24 - 1),
    fixed=st.binary(min_size=5, max_size=5),
    digest=st.binary(min_size=32, max_size=32),
    keys=keys,
    listed=st.sets(names).map(lambda found: tuple(sorted(found, key=str.encode))),
    by_name=st.dictionaries(names, st.binary(min_size=2, max_size=2), max_size=4),
    keys_by_name=st.dictionaries(names, keys, max_size=3),
    blob=st.binary(max_size=20),
)
def test_fields__are_read_as_they_were_written(
    listed: tuple[str, ...], blob: bytes, **given_: object
) -> None:
    message = OfAllForms(names=listed, blob=memoryview(blob), **given_)  # type: ignore[arg-type]
    writer = Writer()
    message.write(writer)
    reader = Reader(writer.done())
    assert OfAllForms.read(reader) == message
    reader.end()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_message__says_the_form_of_every_field(kind: type[Fields]) -> None:
    assert [name for name, _ in _wires_of(kind)] == [one.name for one in fields(kind)]  # type: ignore[arg-type]


def test_field__without_a_form_is_an_error_and_not_left_out() -> None:
    with pytest.raises(TypeError, match="says no form"):
        _Forgetful(kept=b"a" * 32).write(Writer())


@dataclass(frozen=True, kw_only=True)
class _Forgetful(Fields):
    kept: Hash
    lost: bytes = b""
