"""Integers with their own noise in the ring: sums come back, and nothing but sums goes in."""

from __future__ import annotations

import dataclasses
import struct
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.secagg.packing import Packing
from fedlearn.secagg.whole import WholePayload


@st.composite
def sums(draw: st.DrawFn) -> tuple[Packing, np.ndarray]:
    """Parties' integers whose sums fit their lanes, though no single one need to."""
    bits, count = draw(st.integers(8, 32)), draw(st.integers(1, 5))
    size, half = draw(st.integers(0, 40)), 2 ** (bits - 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    wild = rng.integers(-(2**40), 2**40, (count - 1, size))
    wanted = rng.integers(-half, half, size)
    last = wanted - wild.sum(axis=0)
    return Packing(bits=bits, count=64 // bits), np.vstack([wild, last])


@given(sums())
def test_lanes__split_gives_back_the_sums_of_what_was_joined(
    case: tuple[Packing, np.ndarray],
) -> None:
    packing, parties = case
    found = packing.split(total_of(packing, parties), parties.shape[1])
    np.testing.assert_array_equal(found, parties.sum(axis=0))


@given(sums(), st.integers(0, 2**32))
def test_lanes__total_depends_on_the_sum_alone_also_where_it_wraps(
    case: tuple[Packing, np.ndarray], seed: int
) -> None:
    """Moving any amount from one party to another changes no word: the sum is all that shows."""
    packing, parties = case
    moved = np.random.default_rng(seed).integers(-(2**50), 2**50, parties.shape[1])
    other = np.vstack([parties, moved, -moved + 3, np.full_like(moved, -3)])
    np.testing.assert_array_equal(total_of(packing, parties), total_of(packing, other))


def total_of(packing: Packing, parties: np.ndarray) -> np.ndarray:
    total = packing.ring.zeros(packing.length(parties.shape[1]))
    for values in parties:
        total += packing.join(values)
    return packing.ring.reduce(total)


def test_whole__counts_the_contributions() -> None:
    payload = WholePayload(bits=20, max_clients=7, num_values=5)
    total = payload.ring.zeros(payload.length)
    for party in range(7):
        total += payload.encode(np.arange(5, dtype=np.int64) - 2 * party)
    decoded = payload.decode(payload.ring.reduce(total))
    assert (decoded.weight, type(decoded.weight), decoded.counters.size) == (7, int, 0)
    np.testing.assert_array_equal(decoded.values, 7 * np.arange(5) - 42)


@pytest.mark.parametrize("size", [0, 4, 6])
def test_whole__refuses_another_length(size: int) -> None:
    payload = WholePayload(bits=20, max_clients=7, num_values=5)
    with pytest.raises(ValueError, match="the payload has 5"):
        payload.encode(np.zeros(size, np.int64))
    with pytest.raises(ValueError, match="elements"):
        payload.decode(payload.ring.zeros(payload.length + 1))


def test_whole__hash_tells_every_field_apart() -> None:
    base = WholePayload(bits=20, max_clients=7, num_values=5)
    others = [dataclasses.replace(base, **{f.name: 8}) for f in dataclasses.fields(base)]
    assert len({base.hash(), *(other.hash() for other in others)}) == 4


def test_whole__hash_is_that_of_its_fields_in_order() -> None:
    label = b"fedlearn/secagg/v1/whole-payload"
    said = struct.pack(">Q", len(label)) + label + struct.pack(">QQQ", 20, 7, 5)
    payload = WholePayload(bits=20, max_clients=7, num_values=5)
    assert payload.hash() == sha256(said).digest()
