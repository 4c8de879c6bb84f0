"""Sums over test records by person: how far all records of one can move them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.units import pieces_of
from fedlearn.core.errors import FedlearnError
from fedlearn.data import Records
from fedlearn.mechanisms.evaluation import EvaluationPlan, by_persons, whole_numbers
from fedlearn.privacy import Unit
from tests.effort import examples

SIZES, BOUNDS = (3, 1, 4), (1.0, 2.0, 0.5)
GROUPS = 3


def plan(unit: Unit) -> EvaluationPlan:
    """Of sums of all records and of those of every group, as private evaluation has them."""
    steps = (40, 25, 70) * 2
    return EvaluationPlan(
        unit=unit, law="discrete_gaussian", rounds=1, every=1, steps=steps, stddev=0,
        last_stddev=100, shares=1, dimension=sum(SIZES) * (1 + GROUPS),
    )  # fmt: skip


def sums(
    added: np.ndarray, groups: np.ndarray, owners: np.ndarray, unit: Unit, size: int = 7
) -> np.ndarray:
    """All that a site would give, without noise: of everybody, then of every group."""
    records = Records(features=added, labels=np.zeros(len(added), np.int64), persons=owners)
    total = np.zeros((1 + GROUPS, added.shape[1]), np.int64)
    for piece in pieces_of(records, unit, size):
        whole = whole_numbers(added[piece.rows], SIZES, BOUNDS, plan(unit))
        total[0] += piece.added(whole, np.ones(len(piece.rows), np.bool_))
        for group in range(GROUPS):
            total[1 + group] += piece.added(whole, groups[piece.rows] == group)
    return total.reshape(-1)


@settings(max_examples=examples(200, few=10), deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    scale=st.sampled_from([1e-3, 1.0, 1e3, 1e300]),
    size=st.sampled_from([1, 5, 1000]),
    seed=st.integers(0, 2**20),
)
def test_sums__of_neighbours_that_lack_a_person_are_within_what_is_paid_for(
    sizes: list[int], scale: float, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    owners = rng.permutation(np.repeat([f"p{i}" for i in range(len(sizes))], sizes))
    added = rng.normal(size=(len(owners), sum(SIZES))) * scale
    added[rng.random(len(owners)) < 0.1] = np.nan
    groups = rng.integers(0, GROUPS, len(owners))
    rest = owners != owners[0]
    whole = sums(added, groups, owners, "person", size)
    less = sums(added[rest], groups[rest], owners[rest], "person", size)
    assert np.linalg.norm(whole - less) <= plan("person").l2_sensitivity
    # However they are cut into pieces.
    assert np.array_equal(whole, sums(added, groups, owners, "person", 3))


def test_sums__by_record_would_go_beyond_it() -> None:
    added = np.tile(np.linspace(1, 2, sum(SIZES)), (9, 1))
    owners, groups = np.repeat("one", 9), np.zeros(9, np.int64)
    paid = plan("person").l2_sensitivity
    assert np.linalg.norm(sums(added, groups, owners, "record")) > 8 * paid
    assert 0.9 * paid < np.linalg.norm(sums(added, groups, owners, "person")) <= paid


def test_by_persons__is_the_mean_of_each_rounded_towards_zero() -> None:
    rows = np.array([[5, -5], [2, -2], [-9, 9]])
    found = by_persons(rows, np.array([0, 0, 1]), np.array([2, 2]))
    assert found.tolist() == [[3, -3], [-4, 4]]  # of the second person one record is elsewhere


def test_pieces__hold_every_record_once_and_whole_persons() -> None:
    owners = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c", "d"], [1, 9, 2, 5]))
    records = Records(features=np.zeros((17, 1)), labels=np.zeros(17), persons=owners)
    pieces = [*pieces_of(records, "person", 6)]
    assert np.array_equal(np.sort(np.concatenate([p.rows for p in pieces])), np.arange(17))
    whose = [{*owners[piece.rows].tolist()} for piece in pieces]
    assert sum(map(len, whose)) == 4
    for piece in pieces:
        assert piece.owners is not None
        assert piece.records is not None
        assert np.array_equal(np.bincount(piece.owners), piece.records)


def test_pieces__of_records_that_are_nobodys_are_refused_where_persons_are_protected() -> None:
    nobodys = Records(features=np.zeros((2, 1)), labels=np.zeros(2))
    with pytest.raises(FedlearnError, match="nothing says whose the records are"):
        [*pieces_of(nobodys, "person", 6)]
    assert len([*pieces_of(nobodys, "record", 6)]) == 1
