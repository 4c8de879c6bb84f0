"""Groups of every round: who is in one, how many are, and that chance alone says which."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from fedlearn.robust.draw import Draw, Sizes, exposure
from tests.effort import examples

SEED = bytes(range(32))


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"site-{i:03d}" for i in range(count))


@st.composite
def runs(draw: st.DrawFn) -> tuple[Draw, int, tuple[str, ...]]:
    """A draw of three groups or more, a round, and who is left out."""
    size = draw(st.integers(3, 9))
    names = names_of(draw(st.integers(3 * size, 60)))
    most = Sizes(len(names), size).most_left_out
    without = draw(st.lists(st.sampled_from(names), unique=True, max_size=most))
    seed = draw(st.binary(min_size=32, max_size=32))
    return Draw(seed, names, size), draw(st.integers(1, 500)), tuple(without)


@settings(max_examples=examples(200), deadline=None)
@given(runs())
def test_groups__are_of_at_least_the_size_and_there_is_one_whoever_is_left_out(
    run: tuple[Draw, int, tuple[str, ...]],
) -> None:
    draw, number, without = run
    sizes, groups = Sizes(len(draw.names), draw.size), draw.groups(number, without)
    members = [name for group in groups for name in group]
    assert groups
    assert len(members) == len(set(members))
    assert not set(members) & set(without)
    assert all(sizes.smallest <= len(group) <= sizes.largest for group in groups)
    assert sizes.smallest >= draw.size
    assert sorted(n for one in draw.groups(number) for n in one) == sorted(draw.names)


@settings(max_examples=examples(200), deadline=None)
@given(runs(), st.lists(st.integers(0, 10**6), max_size=60))
def test_sites__are_together_only_where_the_seed_has_brought_them_together(
    run: tuple[Draw, int, tuple[str, ...]], more: list[int]
) -> None:
    """Whatever a coordinator says of who is left out, and even of more than may be."""
    draw, number, without = run
    said = {*without, *(draw.names[one % len(draw.names)] for one in more)}
    drawn = draw.groups(number)
    for group in draw.groups(number, said):
        (own,) = [one for one in drawn if set(group) <= set(one)]
        assert set(own) - set(group) <= said
        assert all(draw.group_of(name, number) == own for name in group)


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


def test_group_of__is_none_for_a_stranger() -> None:
    assert Draw(SEED, names_of(9), 3).group_of("stranger", 1) == ()


@pytest.mark.parametrize(
    ("sites", "size", "most"), [(9, 3, 2), (12, 3, 3), (31, 10, 3), (60, 3, 15), (30, 10, 2)]
)
def test_sizes__leave_out_a_quarter_and_leave_a_group_whole(
    sites: int, size: int, most: int
) -> None:
    assert Sizes(sites, size).most_left_out == most


def test_sizes__of_one_sum_leave_out_nobody() -> None:
    one = Sizes(4, 4)
    assert (one.most_left_out, one.smallest, one.largest) == (0, 4, 4)


@pytest.mark.parametrize(("sites", "size", "smallest"), [(19, 10, 15), (7, 3, 3), (15, 8, 12)])
def test_smallest_group__has_lost_all_that_may_be_left_out(
    sites: int, size: int, smallest: int
) -> None:
    """Tried with every one of them in the smallest group of a round."""
    sizes, draw = Sizes(sites, size), Draw(SEED, names_of(sites), size)
    assert sizes.smallest == smallest
    group = min(draw.groups(1), key=len)
    left = draw.groups(1, group[: sizes.most_left_out])
    assert min(map(len, left)) >= smallest
    if sizes.groups == 1:
        assert len(left[0]) == smallest


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
    # By hand: 10 of 220 groups of three hold both, times four groups.
    assert exposure(Sizes(12, 3), 2, 1, 1) == pytest.approx(4 * 10 / 220)


@pytest.mark.parametrize("size", [1, 3, 4, 7, 12])
@pytest.mark.parametrize("sites", [3, 8, 13, 31, 60])
def test_exposure__is_the_hypergeometric_tail_of_every_group_of_every_round(
    sites: int, size: int
) -> None:
    """By another program; also where a group has no room for all of them, or for few honest."""
    sizes = Sizes(sites, size)
    if sites < size:
        assert exposure(sizes, 2, 1, 9) == 0.0
        assert (sizes.groups, sizes.largest, sizes.smallest) == (0, 0, 0)
        return
    groups = sites // size
    largest = max(map(len, np.array_split(range(sites), groups)))
    for colluders, withstood in product(range(sites + 1), range(9)):
        tail = float(hypergeom.sf(withstood, sites, colluders, largest))
        found = exposure(sizes, colluders, withstood, 9)
        assert found == pytest.approx(min(1.0, 9 * groups * tail), rel=1e-9, abs=0)


def test_draw__has_several_groups_from_twice_the_size_on_and_none_below_it() -> None:
    assert [Draw(SEED, names_of(n), 4).several for n in (4, 7, 8, 9)] == [False, False, True, True]
    assert [len(Draw(SEED, names_of(n), 4).groups(1)) for n in (3, 4, 7, 8)] == [0, 1, 1, 2]
    group = Draw(SEED, names_of(4), 4).groups(1)[0]
    assert Draw(SEED, names_of(4), 4).groups(1, group[:1]) == ()
