"""What a record adds: never more than is paid for, and exactly what it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.units import Piece
from fedlearn.figures import TableRows
from fedlearn.figures.layout import FIXED
from tests.fedlearn.figures.tables import AGE, DOSE, LAYOUT, SMOKER, people

anything = st.floats(width=32)
STEPS = tuple(37 + 11 * number for number in range(len(LAYOUT.parts)))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Between what is given for two sums."""
    moved = LAYOUT.given(one, STEPS) - LAYOUT.given(other, STEPS)
    return float(np.linalg.norm(moved.astype(np.float64)))


def allowed() -> float:
    return math.sqrt(sum(step**2 for step in STEPS)) + math.sqrt(LAYOUT.size)


@settings(deadline=None)
@given(st.lists(anything, min_size=4, max_size=4), st.integers(-3, 5), st.integers(0, 2**31))
def test_layout__is_moved_by_a_record_no_more_than_is_paid_for(
    features: list[float], label: int, seed: int
) -> None:
    others = LAYOUT.added(people(20, np.random.default_rng(seed))).sum(0)
    row = TableRows(features=np.array([features], np.float32), labels=np.array([label]))
    assert distance(others + LAYOUT.added(row)[0], others) <= allowed() * (1 + 1e-9)


@settings(deadline=None)
@given(st.lists(st.lists(anything, min_size=4, max_size=4), min_size=1, max_size=6))
def test_layout__is_moved_by_all_records_of_a_person_no_more_than_by_one(
    features: list[list[float]],
) -> None:
    many = len(features)
    rows = TableRows(features=np.array(features, np.float32), labels=np.arange(many) % 2)
    piece = Piece(rows=np.arange(many), owners=np.zeros(many, np.int64), records=np.array([many]))
    added = piece.added(LAYOUT.added(rows), np.ones(many, np.bool_))
    others = LAYOUT.added(people(20, np.random.default_rng(0))).sum(0)
    assert distance(others + added, others) <= allowed() * (1 + 1e-9)


def test_layout__gives_back_the_sums_but_for_one_rounding() -> None:
    sums = LAYOUT.added(people(500, np.random.default_rng(1))).sum(0)
    steps = (1 << 20,) * len(LAYOUT.parts)
    assert np.abs(LAYOUT.opened(LAYOUT.given(sums, steps), steps) - sums / FIXED).max() < 1e-3


def test_numbers__keep_their_mean_and_whole_numbers_are_points() -> None:
    rows = people(400, np.random.default_rng(2))
    there = rows.features[:, 1] < 0.5
    ages = (rows.features[there, 0] + 1) * 35 + 20
    counts = AGE.added(rows).sum(0)[:-1]
    whole = np.round(ages).astype(np.float64)
    assert AGE.values @ counts == pytest.approx(whole.sum())
    assert {float(value) for value in AGE.values[counts > 0]} == {*whole.tolist()}
    assert AGE.added(rows)[:, -1].sum() == (~there).sum(), "gaps have a place of their own"
    doses = (rows.features[:, 2].astype(np.float64) + 1) * 4
    # But for what is snapped to a point: a thousandth of a step.
    assert DOSE.values @ DOSE.added(rows).sum(0)[:-1] == pytest.approx(doses.sum(), rel=1e-6)


def test_choice__takes_a_code_that_there_is_not_for_the_nearest() -> None:
    wild = TableRows(
        features=np.full((3, 4), [[np.nan], [-7.0], [99.0]], np.float32), labels=np.zeros(3)
    )
    assert SMOKER.added(wild).argmax(1).tolist() == [0, 0, 2]
