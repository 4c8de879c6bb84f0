"""What the settings of a sum say about its cohort, and how values lie in its words."""

from __future__ import annotations

from itertools import product

import pytest

from fedlearn.secagg.settings import (
    SecAggMasked,
    SecAggOff,
    SecAggRing,
    SecAggTwoServer,
    packing_of,
    ring_of,
    sum_of,
)
from fedlearn.secagg.whole import WholePayload


def test_against__opens_no_sum_without_two_sites_beside_those_that_collude() -> None:
    for mine, own, theirs, least in product((3, 7), (0, 2, 9), (0, 4, 9), (0, 5, 12)):
        asked = SecAggMasked(min_cohort=mine, corrupt_sites=own).against(theirs, least)
        corrupt = sorted((own, theirs))[-1]
        assert asked.corrupt_sites == corrupt
        assert asked.least == asked.min_cohort == sorted((mine, least, corrupt + 2))[-1]


def test_least__is_what_was_set() -> None:
    assert (SecAggMasked(min_cohort=5).least, SecAggTwoServer(min_cohort=6).least) == (5, 6)


def test_sum_of__is_none_where_nothing_is_summed() -> None:
    assert sum_of(SecAggOff()) is None
    masked = SecAggMasked()
    assert sum_of(masked) is masked


@pytest.mark.parametrize("bits", range(8, 33))
def test_word__holds_as_many_values_as_fit_it_and_not_one_more(bits: int) -> None:
    settings, whole = SecAggRing(bits=bits), WholePayload(bits=bits, max_clients=3, num_values=2)
    for count, ring in (
        (packing_of(settings), ring_of(settings)),
        (whole.packing.count, whole.ring),
    ):
        assert count * bits == ring.bits <= 64 < (count + 1) * bits
