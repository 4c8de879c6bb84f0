"""Groups of every round: who is in one, how many are, and that chance alone says which."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.robust.draw import Draw, Sizes, exposure
from tests.effort import examples

SEED = bytes(range(32))


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"site-{i:03d}" for i in range(count))


@settings(max_examples=examples(200), deadline=None)
@given(
    st.integers(3, 60), st.integers(3, 9), st.integers(1, 500), st.binary(min_size=32, max_size=32),
    st.integers(0, 10**6),
)  # fmt: skip
def test_groups__are_parts_of_all_sites_of_at_least_the_size(
    count: int, size: int, number: int, seed: bytes, pick: int
) -> None:
    if count < size:
        return
    sizes, names = Sizes(count, size), names_of(count)
    rng = np.random.default_rng(pick)
    left = int(rng.integers(0, sizes.most_left_out + 1))
    without = tuple(names[i] for i in rng.permutation(count)[:left])
    groups = Draw(seed, names, size).groups(number, without)
    members = [name for group in groups for name in group]
    assert len(members) == len(set(members))
    assert not set(members) & set(without)
    assert all(sizes.smallest <= len(group) <= sizes.largest for group in groups)
    assert sizes.smallest >= size
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    alone = size < count - left < 2 * size
    assert len(members) == count - left - (1 if alone else 0)


def test_groups__of_less_than_two_leave_everybody_out_once_in_so_many_rounds() -> None:
    names = names_of(4)
    draw = Draw(SEED, names, 3)
    for cycle in range(50):
        groups = [draw.groups(4 * cycle + place + 1) for place in range(4)]
        left = [set(names) - set(one) for (one,) in groups]
        assert set.union(*left) == set(names)
        assert all(len(each) == 1 for each in left)


@pytest.mark.slow
def test_groups__put_any_two_sites_together_equally_often() -> None:
    """By a test of chance that a fair draw fails once in a million."""
    names, rounds = names_of(12), 4000
    draw, together = Draw(SEED, names, 3), Counter[tuple[str, ...]]()
    for number in range(1, rounds + 1):
        for group in draw.groups(number):
            together.update(combinations(group, 2))
    expected = rounds * 4 * comb(3, 2) / comb(12, 2)
    assert len(together) == comb(12, 2)
    assert max(abs(n - expected) for n in together.values()) < 5.6 * np.sqrt(expected)


def test_groups__are_others_for_another_seed_and_the_same_for_the_same() -> None:
    names = names_of(12)
    rounds = range(1, 20)
    one, same = (Draw(SEED, names, 3) for _ in range(2))
    other = Draw(bytes(32), names, 3)
    assert [one.groups(n) for n in rounds] == [same.groups(n) for n in rounds]
    assert [one.groups(n) for n in rounds] != [other.groups(n) for n in rounds]
    assert len({one.groups(n) for n in rounds}) == len(rounds)


def test_group_of__is_that_of_the_site_and_none_where_it_sits_out() -> None:
    draw = Draw(SEED, names_of(4), 3)
    (group,) = draw.groups(1)
    out = next(name for name in names_of(4) if name not in group)
    assert draw.group_of(group[0], 1) == group
    assert draw.group_of(out, 1) == ()


@pytest.mark.parametrize(("sites", "size", "most"), [(4, 3, 1), (3, 3, 0), (12, 3, 3), (31, 10, 7)])
def test_sizes__leave_out_a_quarter_and_never_less_than_one_group(
    sites: int, size: int, most: int
) -> None:
    assert Sizes(sites, size).most_left_out == most


def test_exposure__is_no_less_than_what_is_counted() -> None:
    """Of 12 sites in threes, two that collude: how often both are with one honest site."""
    sizes, rounds = Sizes(12, 3), 20
    hit = 0
    for trial in range(300):
        draw = Draw(trial.to_bytes(32, "big"), names_of(12), 3)
        groups = [set(g) for n in range(1, rounds + 1) for g in draw.groups(n)]
        hit += any({"site-000", "site-001"} <= one for one in groups)
    found = hit / 300
    assert found <= exposure(sizes, 2, 1, rounds) + 0.05
    assert exposure(sizes, 1, 1, rounds) == 0.0
    # By hand, of groups of up to four: 45 of 495 hold both, times four groups.
    assert exposure(Sizes(12, 3), 2, 1, 1) == pytest.approx(4 * 45 / 495)
