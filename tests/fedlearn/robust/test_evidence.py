"""Who is named from sums alone: liars are, and honest sites are not, however different."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlearn.robust.draw import Draw, Sizes
from fedlearn.robust.evidence import (
    Evidence,
    Finding,
    recurring,
    set_aside,
    surely,
    window,
)
from tests.effort import examples

LENGTH = 28
NOISE = 5.0


def gifts(rng: np.random.Generator, sites: int, agree: float = 0.5) -> NDArray[np.float64]:
    """What honest sites give: of very different lengths, and as far apart as `agree` says."""
    common = rng.normal(size=LENGTH)
    own = rng.normal(size=(sites, LENGTH))
    made = agree * common + (1 - agree) * own
    lengths = rng.uniform(5, 60, size=(sites, 1))
    return np.asarray(lengths * made / np.linalg.norm(made, axis=1, keepdims=True))


def evidence(
    rng: np.random.Generator, give: NDArray[np.float64], rounds: int, size: int = 3
) -> Evidence:
    """Sums of so many rounds, with the noise of every site in them."""
    sites = len(give)
    names = tuple(f"s{i:02d}" for i in range(sites))
    draw, members, sums = Draw(rng.bytes(32), names, size), [], []
    for number in range(1, rounds + 1):
        for group in draw.groups(number):
            row = np.array([name in group for name in names])
            noise = NOISE * np.sqrt(row.sum()) * rng.normal(size=LENGTH)
            members.append(row)
            sums.append((give[row].sum(axis=0) + noise) / row.sum())
    vectors = np.array(sums)
    return Evidence(np.array(members), vectors @ vectors.T, LENGTH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sites", "rounds"), [(9, 12), pytest.param(12, 12, marks=pytest.mark.slow)]
)
def test_pull__is_the_inner_product_with_what_the_others_give(sites: int, rounds: int) -> None:
    """Its mean over many draws of noise, by hand from what the sites give."""
    rng = np.random.default_rng(0)
    give = gifts(rng, sites)
    found = np.array(
        [
            [evidence(rng, give, rounds).pull(site, range(sites))[0] for site in range(sites)]
            for _ in range(30)
        ]
    )
    exact = [float(give[i] @ (give.sum(axis=0) - give[i])) for i in range(sites)]
    error = found.std(axis=0) / np.sqrt(30)
    assert np.all(np.abs(found.mean(axis=0) - exact) < 5 * error)


@pytest.mark.slow
def test_deviations__are_those_of_the_noise() -> None:
    """A site that gives nothing is within one deviation as often as chance says."""
    rng = np.random.default_rng(1)
    give = gifts(rng, 9)
    give[2] = 0
    found = [evidence(rng, give, 20).pull(2, range(9))[1] for _ in range(200)]
    assert 0.5 < np.std(found) < 1.3
    assert abs(np.mean(found)) < 0.3


def test_honest_sites__are_named_no_more_often_than_it_says() -> None:
    """Very different sites, none of which pulls against the others, in three looks a run."""
    rng, alarm, named, runs = np.random.default_rng(2), 0.05, 0, 0
    while runs < examples(400):
        sites = int(rng.integers(9, 13))
        give = gifts(rng, sites)
        total = give.sum(axis=0)
        if min(float(one @ (total - one)) for one in give) < 0:
            continue
        runs += 1
        looks = [evidence(rng, give, rounds) for rounds in (8, 14, 20)]
        named += any(each.against(alarm, 3, 1) for each in looks)
    assert named <= alarm * runs


def test_honest_sites__are_named_never_where_no_two_of_them_agree() -> None:
    """As where each has records of one class: then nobody is told apart from a liar, or named."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        own = np.linalg.qr(rng.normal(size=(LENGTH, 9)))[0].T * 40
        give = own - own.mean(axis=0)
        assert evidence(rng, give, 20).against(1e-3, 20, 1) == []


@pytest.mark.parametrize("liar", range(0, 9, 2))
def test_liar__that_turns_its_own_update_round_is_named(liar: int) -> None:
    right, rng = 0, np.random.default_rng(liar)
    for _ in range(20):
        give = gifts(rng, 9, agree=0.7)
        give *= 40 / np.linalg.norm(give, axis=1, keepdims=True)
        give[liar] *= -1
        right += evidence(rng, give, 16).against(1e-3, 20, 1) == [liar]
    assert right >= 18


def test_liars__that_are_two_are_named_one_after_the_other() -> None:
    rng = np.random.default_rng(5)
    give = gifts(rng, 12, agree=0.7)
    give *= 40 / np.linalg.norm(give, axis=1, keepdims=True)
    give[[2, 9]] = -3 * give[0]
    first = evidence(rng, give, 20).against(1e-3, 20, 3)[0]
    assert first in (2, 9)
    rest = np.flatnonzero(np.arange(12) != first)
    second = evidence(rng, give[rest], 20).against(1e-3, 20, 2)[0]
    assert {first, rest[second]} == {2, 9}


def test_site__that_gives_more_than_honest_sites_can_is_named_whatever_its_direction() -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        give = gifts(rng, 9)
        give[1] = np.zeros(LENGTH)
        give[1, -1] = 150
        assert evidence(rng, give, 16).beyond(60.0) == [1]


def test_honest_sites__that_give_all_they_can_are_not_beyond_it() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        give = gifts(rng, 9)
        give *= 60 / np.linalg.norm(give, axis=1, keepdims=True)
        assert evidence(rng, give, 16).beyond(60.0) == []


def test_evidence__of_too_few_sums_names_nobody() -> None:
    rng = np.random.default_rng(8)
    give = gifts(rng, 9)
    give[0] *= -5
    few = evidence(rng, give, 5)
    assert not few.enough
    assert few.against(1e-3, 20) == []
    assert few.beyond(1.0) == []


# --- liars that look at who is in their sum -------------------------------------------


def framed(
    rng: np.random.Generator, sites: int, liars: int, lie: Callable[[bool], float]
) -> Evidence:
    """Honest sites that give alike, and the first `liars`, whose last honest site is the victim."""
    names, ahead = tuple(f"s{i:02d}" for i in range(sites)), np.eye(LENGTH)[0]
    draw, members, sums = Draw(rng.bytes(32), names, 3), [], []
    for number in range(1, 31):
        for group in draw.groups(number):
            row = np.array([name in group for name in names])
            noise = 0.3 * np.sqrt(row.sum()) * rng.normal(size=LENGTH) / np.sqrt(LENGTH)
            give = row[liars:].sum() * 0.5 + row[:liars].sum() * lie(bool(row[-1]))
            members.append(row)
            sums.append((give * ahead + noise) / row.sum())
    vectors = np.array(sums)
    return Evidence(np.array(members), vectors @ vectors.T, LENGTH)


LIES: dict[str, Callable[[bool], float]] = {
    "helps-others": lambda with_victim: -4.0 if with_victim else 2.0,
    "else-silent": lambda with_victim: -3.0 if with_victim else 0.0,
    "within-a-norm": lambda with_victim: -1.0 if with_victim else 1.0,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(
    ("sites", "liars"),
    [
        *[(9, 1), (9, 2)],
        *[pytest.param(12, liars, marks=pytest.mark.slow) for liars in (2, 3)],
    ],
)
def test_honest_site__is_not_named_for_what_liars_do_in_its_company(
    sites: int, liars: int, lie: str
) -> None:
    """In no draw."""
    rng, most = np.random.default_rng([sites, liars]), Sizes(sites, 3).most_left_out
    for _ in range(examples(20)):
        found = framed(rng, sites, liars, LIES[lie])
        named = surely(found, lambda them: them.against(1e-3, 30, most), most)
        assert named is None or named < liars


@pytest.mark.parametrize(("sites", "liars"), [(9, 2), (12, 3)])
def test_honest_site__is_blamed_for_them_by_all_sums_together(sites: int, liars: int) -> None:
    """So that something is withstood above."""
    rng, most = np.random.default_rng([sites, liars]), Sizes(sites, 3).most_left_out
    found = [framed(rng, sites, liars, LIES["helps-others"]) for _ in range(10)]
    assert any(sites - 1 in one.against(1e-3, 30, most) for one in found)


@pytest.mark.parametrize(("sites", "liars"), [(9, 1), (12, 2)])
def test_liar__that_is_the_same_in_every_company_is_named(sites: int, liars: int) -> None:
    rng, most = np.random.default_rng(9), Sizes(sites, 3).most_left_out
    found = framed(rng, sites, liars, lambda _: -1.0)
    named = surely(found, lambda them: them.against(1e-3, 30, most), most)
    assert named is not None
    assert named < liars


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2), st.floats(-1e6, 1e6))
def test_whatever_liars_send__an_honest_site_is_named_only_by_sums_without_them(
    seed: int, liars: int, size: float
) -> None:
    """The sums that liars are in are anything: what the others show decides."""
    rng = np.random.default_rng(seed)
    honest = framed(rng, 9, 0, lambda _: 0.0)
    vectors = rng.normal(size=(len(honest.members), LENGTH)) * size
    theirs = honest.members[:, :liars].any(axis=1)
    both = honest.products.copy()
    both[np.ix_(theirs, theirs)] = (vectors @ vectors.T)[np.ix_(theirs, theirs)]
    both[np.ix_(theirs, ~theirs)] = both[np.ix_(~theirs, theirs)] = 0

    def against(them: Evidence) -> list[int]:
        return them.against(1e-3, 30, 2)

    named = surely(Evidence(honest.members, both, LENGTH), against, liars)
    alone = [one + liars for one in against(honest.apart(range(liars)))]
    assert named is None or named < liars or named in alone


def test_set_aside__is_as_many_as_can_be_gone_through() -> None:
    assert [set_aside(n, n // 4) for n in (9, 12, 16, 20, 60, 200)] == [2, 3, 4, 3, 2, 1]
    assert set_aside(9, 0) == 0


def test_recurring__is_what_three_of_four_rounds_have_found_and_none_denied() -> None:
    one, other = Finding("alder", "x"), Finding("birch", "x")
    assert recurring([one, one]) is None
    assert recurring([one, None, one, one]) == one
    assert recurring([one, one, one]) == one
    assert recurring([one, other, one, one]) is None
    assert recurring([one, one, None, None]) is None


@pytest.mark.parametrize("sites", [9, 12])
def test_window__is_enough_to_tell_all_sites(sites: int) -> None:
    assert window(sites) >= sites + 2
    assert Sizes(sites, 3).largest <= sites
