"""Fields of messages: what is written is read, and nothing else is."""

from __future__ import annotations

import pytest

from fedlearn.crypto.codec import MAX_NAME, Reader, Writer, name_bytes, sorted_names


def test_fields__are_read_as_they_were_written() -> None:
    data = Writer().uint(258, 3).blob(b"xyz").name("Zoë").raw(b"!").done()
    assert data == b"\0\1\2" + bytes(7) + b"\3xyz" + b"\4Zo\xc3\xab" + b"!"
    reader = Reader(data)
    found = reader.uint(3), reader.blob(), reader.name(), reader.left, reader.raw(1), reader.left
    assert found == (258, b"xyz", "Zoë", 1, b"!", 0)
    reader.end()


@pytest.mark.parametrize("data", [b"\0", b"\2a", b"\1\xff", b""])
def test_name__that_is_empty_cut_or_no_text_is_not_read(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"empty|shorter|decode"):
        Reader(data).name()


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME + 1), "é" * (MAX_NAME // 2 + 1), "\ud800"])
def test_name__that_is_empty_long_or_no_text_is_not_written(name: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: 1 to 255|encode"):
        name_bytes(name)
    with pytest.raises(ValueError, match=r"allowed: 1 to 255|encode"):
        Writer().name(name)
    assert len(name_bytes("x" * MAX_NAME)) == MAX_NAME == 255


def test_reader__takes_no_more_than_is_left() -> None:
    reader = Reader(b"abc")
    assert reader.raw(2) == b"ab"
    with pytest.raises(ValueError, match="shorter"):
        reader.raw(2)
    with pytest.raises(ValueError, match="trailing"):
        reader.end()


def test_names__are_sorted_by_their_bytes() -> None:
    assert sorted_names(["é", "z", "Z", "\uffff", "\U00010000"]) == (
        "Z", "z", "é", "\uffff", "\U00010000",
    )  # fmt: skip
