"""What sites weigh in a sum: their records, scaled together where one has more than fits."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from fedlearn.secagg.weights import scaled_to, scaling_notes, weight_in_sum

RECORDS = st.lists(st.integers(0, 10**7), min_size=1, max_size=8)
MOST = st.integers(1, 5000)


@given(RECORDS, MOST)
def test_weights__are_the_records_or_as_near_to_their_shares_as_a_step_allows(
    records: list[int], most: int
) -> None:
    largest = scaled_to(records, most)
    weights = [weight_in_sum(one, most=most, largest=largest) for one in records]
    if max(records) <= most:
        assert weights == records
        assert largest == 0
        return
    for one, weight in zip(records, weights, strict=True):
        due = Fraction(one * most, max(records))
        assert abs(weight - due) <= (Fraction(1, 2) if due >= Fraction(1, 2) else 1)
        assert (weight == 0) == (one == 0)
    assert max(weights) == most


@given(st.integers(0, 10**9), MOST, st.integers(-(10**9), 10**12))
def test_weights__fit_the_ring_whatever_a_coordinator_says(
    records: int, most: int, largest: int
) -> None:
    assert 0 <= weight_in_sum(records, most=most, largest=largest) <= most


@given(RECORDS, MOST)
def test_weights__are_in_the_order_of_the_records(records: list[int], most: int) -> None:
    largest = scaled_to(records, most)
    weights = [weight_in_sum(one, most=most, largest=largest) for one in sorted(records)]
    assert weights == sorted(weights)


def test_weights__that_are_scaled_are_said_with_their_step() -> None:
    assert list(scaling_notes([30_000, 1500, 10, None], 1024)) == [
        "the largest site has 30,000 training records and secagg.max_weight=1024: all sites are "
        "weighed in steps of 29.3 records; sites with fewer than half of that count as "
        "29.3. A larger secagg.max_weight weighs them more finely, and may take more secagg.bits"
    ]
    assert list(scaling_notes([1024, None, 0], 1024)) == []
