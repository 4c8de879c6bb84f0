"""Categories that nobody knows: how likely those of one alone are to be named."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from fedlearn.figures import ChoicePart, TableLayout
from fedlearn.mechanisms import RecordPrivacy
from fedlearn.mechanisms.statistics import StatisticsPlan, statistics_plan
from tests.effort import examples

DELTA = 1e-5
Unit = Literal["record", "person"]
UNITS: st.SearchStrategy[Unit] = st.sampled_from(("record", "person"))


def layout_of(codes: list[int]) -> TableLayout:
    return TableLayout(tuple(ChoicePart(name=f"c{i}", at=i, codes=n) for i, n in enumerate(codes)))


def plan_of(layout: TableLayout, unit: Unit) -> StatisticsPlan:
    found = statistics_plan(
        RecordPrivacy(epsilon=1.0, delta=DELTA, unit=unit),
        layout.weights,
        layout.size,
        sites=0,
        hidden=False,
        guarded=layout.guarded,
    )
    assert found is not None
    return found


def noise_of(plan: StatisticsPlan, number: int) -> float:
    return plan.screening.last_stddev / plan.screening.steps[number]


@settings(max_examples=examples(20), deadline=None)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.sampled_from(["record", "person"])
)
def test_categories__of_one_alone_are_named_with_no_more_than_their_part_of_delta(
    codes: list[int], unit: Unit
) -> None:
    """A record has one in each column; of a person every row may have another one."""
    layout = layout_of(codes)
    plan, chance = plan_of(layout, unit), 0.0
    for number, many in enumerate(codes):
        own = 1 if unit == "record" else many
        noise = noise_of(plan, number)
        least = plan.named_from(noise, layout.most_alone(unit))
        chance += own * float(ndtr(-(least - 1 / own) / noise))
    assert chance * math.exp(plan.epsilon) <= 0.05 * DELTA * (1 + 1e-6)


def test_threshold__of_persons_is_above_that_of_records() -> None:
    layout = layout_of([1000])
    units: tuple[Unit, ...] = ("record", "person")
    thresholds = [plan_of(layout, unit).named_from(10.0, layout.most_alone(unit)) for unit in units]
    assert thresholds[0] < thresholds[1] < 1.5 * thresholds[0]


def test_layout__of_public_categories_needs_no_threshold() -> None:
    layout = TableLayout((ChoicePart(name="sex", at=0, codes=3, names=("f", "m")),))
    assert not layout.guarded
    assert layout.most_alone("person") == 0
    assert plan_of(layout, "person").named_from(1.0, 0) == pytest.approx(math.inf)
