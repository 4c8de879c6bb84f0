"""A parcel is its parts and nothing else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.parcel import Parcel


@given(st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=4))
def test_parcel__comes_back_as_it_was(head: bytes, objects: list[bytes]) -> None:
    parcel = Parcel(head, tuple(objects))
    assert Parcel.decode(parcel.encode()) == parcel


@given(st.binary(max_size=20), st.integers(1, 7))
def test_parcel__that_was_cut_off_is_refused(head: bytes, cut: int) -> None:
    body = Parcel(head, (b"one", b"two")).encode()
    with pytest.raises(ValueError, match="shorter than its fields"):
        Parcel.decode(body[:-cut])
    with pytest.raises(ValueError, match="shorter than its fields"):
        Parcel.decode(b"")


def test_parcel__names_its_objects_as_flower_does() -> None:
    from flwr.supercore.inflatable.inflatable_object import get_object_id

    parcel = Parcel(b"", (b"a", b"b"))
    assert parcel.by_id() == {get_object_id(one): one for one in (b"a", b"b")}
    assert hashlib.sha256(b"a").hexdigest() in parcel.by_id()
