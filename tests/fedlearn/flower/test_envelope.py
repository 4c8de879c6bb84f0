"""A parcel is its parts and nothing else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.flower.envelope import MOST_OBJECTS, Capacity, Envelope


@given(st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=4))
def test_parcel__comes_back_as_it_was(head: bytes, objects: list[bytes]) -> None:
    envelope = Envelope(head, tuple(objects))
    assert Envelope.decode(envelope.encode()) == envelope


@given(st.binary(max_size=20), st.integers(1, 7))
def test_parcel__that_was_cut_off_is_refused(head: bytes, cut: int) -> None:
    body = Envelope(head, (b"one", b"two")).encode()
    with pytest.raises(ValueError, match="shorter than its fields"):
        Envelope.decode(body[:-cut])
    with pytest.raises(ValueError, match="shorter than its fields"):
        Envelope.decode(b"")


def test_parcel__names_its_objects_as_flower_does() -> None:
    from flwr.supercore.inflatable.inflatable_object import get_object_id

    envelope = Envelope(b"", (b"a", b"b"))
    assert envelope.by_id() == {get_object_id(one): one for one in (b"a", b"b")}
    assert hashlib.sha256(b"a").hexdigest() in envelope.by_id()


def test_parcel__of_too_many_objects_is_refused_before_they_are_made() -> None:
    most = Envelope(b"", (b"",) * MOST_OBJECTS).encode()
    assert len(Envelope.decode(most).objects) == MOST_OBJECTS
    with pytest.raises(ValueError, match="too many objects"):
        Envelope.decode(most + bytes(8))


@given(st.lists(st.binary(max_size=9)), st.integers(0, 40), st.integers(0, 9))
def test_room__is_taken_by_what_fits(objects: list[bytes], size: int, most: int) -> None:
    room = Capacity(size, most)
    inside = [one for one in objects if room.take(one)]
    assert sum(map(len, inside)) + room.size == size
    assert len(inside) + room.objects == most
    left = [one for one in objects if one not in inside]
    assert room.objects == 0 or all(len(one) > room.size for one in left)
