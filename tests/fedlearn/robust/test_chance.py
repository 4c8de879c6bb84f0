"""How likely chance puts colluders into one group: a bound, in words that hold."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest

from fedlearn.robust import Draw, Sizes
from fedlearn.robust.chance import chances


@pytest.mark.parametrize("sites", [9, 12, 30, 100])
def test_chances__are_for_the_fewest_that_open_a_group_and_for_those_counted_on(sites: int) -> None:
    found = chances(Sizes(sites, 3), withstood=1, counted_on=sites // 5, rounds=20)
    assert [one.colluders for one in found] == sorted({2, max(2, sites // 5)})
    # The share of pairs in one group, by counting pairs, times the rounds.
    draw = Draw(bytes(32), tuple(f"s{at:03d}" for at in range(sites)), 3)
    inside = sum(len(list(combinations(one, 2))) for one in draw.groups(1))
    assert found[0].bound >= min(1.0, 20 * inside / comb(sites, 2)) - 1e-12
    assert all(one.bound >= found[0].bound for one in found)


def test_chances__say_what_must_be_counted_on() -> None:
    (small,) = chances(Sizes(9, 3), withstood=1, counted_on=1, rounds=20)
    assert str(small) == (
        "of 2 sites that work with the coordinator more than 1 share a group in some of 20 rounds "
        "by chance: must be counted on"
    )
    (large,) = chances(Sizes(3000, 3), withstood=1, counted_on=2, rounds=20)
    # A group may be larger than three, where sites are left out.
    assert 20 * 3 * 1000 / comb(3000, 2) <= large.bound < 0.05
    assert str(large).endswith(f"by chance: at most {large.bound:.2g}")
