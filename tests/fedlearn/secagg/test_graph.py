from dataclasses import replace
from hashlib import sha256
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from fedlearn.core.errors import ConfigError
from fedlearn.secagg.graph import (
    Degree,
    choose_degree,
    degree_of,
    most_missing,
    neighbours_of,
    withstood,
)
from fedlearn.secagg.settings import SecAggMasked
from tests.effort import examples

FRACTIONS = [(0.05, 0.1), (0.1, 0.1), (0.1, 0.2), (0.2, 0.2), (0.33, 0.2)]
TABLE = {
    100: [(26, 16), (32, 22), (52, 32), (62, 42), (74, 54)],
    256: [(48, 31), (64, 45), (102, 64), (144, 98), (188, 137)],
    1000: [(152, 102), (202, 152)],
}


@pytest.mark.parametrize("total", TABLE)
def test_degree__equals_the_table(total: int) -> None:
    for fractions, expected in zip(FRACTIONS, TABLE[total], strict=False):
        degree = _degree(total, *fractions)
        assert degree is not None
        assert (degree.neighbours, degree.threshold) == expected


@settings(max_examples=examples(25), deadline=None)
@given(
    total=st.integers(65, 700),
    corrupt=st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.33]),
    dropped=st.sampled_from([0.0, 0.1, 0.2]),
)
def test_degree__above_64_is_the_smallest_by_another_implementation(
    total: int, corrupt: float, dropped: float
) -> None:
    bad, gone = round(corrupt * 100) * total // 100, round(dropped * 10) * total // 10
    assert _degree(total, corrupt, dropped) == by_scipy(total, bad, gone)


def _degree(total: int, corrupt: float, dropped: float) -> Degree | None:
    try:
        return degree_of(SecAggMasked(corrupt_fraction=corrupt, dropout_fraction=dropped), total)
    except ConfigError:
        return None


def by_scipy(total: int, corrupt: int, dropped: int) -> Degree | None:
    """The rule in other words, with floating-point tails."""
    for half in range(1, min(total - 2, 254) // 2 + 1):
        alive = hypergeom(total - 1, total - 1 - dropped, 2 * half)
        fit = [t for t in range(2, 2 * half + 1) if 2 * t > 2 * half + corrupt]
        connected = 2 * half > corrupt + dropped
        if fit and connected and total * alive.cdf(fit[0] - 1) <= 2**-20:
            return Degree(neighbours=2 * half, threshold=fit[0], corrupt=corrupt, dropped=dropped)
    return None


# --- The attack that the threshold is for --------------------------------------------


def opened(graph: dict[str, tuple[str, ...]], corrupt: set[str], threshold: int) -> set[str]:
    """Honest clients of which a server opens seed and mask key, by every way to split the rest.

    One list has the victim, the other has not; corrupt clients sign both and give both
    shares, an honest one sees one list, and answers if so many of its neighbours signed it.
    """
    honest = [name for name in graph if name not in corrupt]
    found = set[str]()
    for lists in product((0, 1), repeat=len(honest)):
        seen = dict(zip(honest, lists, strict=True))
        for victim in honest:
            if seen[victim] or victim in found:
                continue
            shares = [len(corrupt & set(graph[victim]))] * 2
            for holder in set(graph[victim]) - corrupt:
                mine = seen[holder]
                signed = [peer for peer in graph[holder] if peer in corrupt or seen[peer] == mine]
                shares[mine] += len(signed) >= threshold
            if min(shares) >= threshold:
                found.add(victim)
    return found


@pytest.mark.parametrize(("total", "neighbours"), [(7, 4), (8, 6), (9, 6), (6, 5), (7, 6)])
@pytest.mark.parametrize("corrupt", [0, 1, 2])
def test_two_lists__open_nobody_wherever_the_corrupt_stand(
    total: int, neighbours: int, corrupt: int
) -> None:
    names = [f"n{index}" for index in range(total)]
    graph = neighbours_of(names, neighbours, b"seed")
    threshold = (neighbours + corrupt) // 2 + 1
    for chosen in combinations(names, corrupt):
        assert opened(graph, set(chosen), threshold) == set()


def test_two_lists__open_somebody_where_the_threshold_counts_on_the_mean() -> None:
    """The oracle finds what it is for: one less than the rule says, or corrupt ones beyond it."""
    names = [f"n{index}" for index in range(8)]
    graph = neighbours_of(names, 6, b"seed")
    assert any(opened(graph, set(chosen), 4) for chosen in combinations(names, 2))
    assert not any(opened(graph, set(chosen), 5) for chosen in combinations(names, 2))


@given(
    total=st.integers(65, 1200),
    corrupt=st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3]),
    dropped=st.sampled_from([0.0, 0.1, 0.2]),
)
def test_degree__holds_in_the_worst_case_in_every_graph(
    total: int, corrupt: float, dropped: float
) -> None:
    degree = _degree(total, corrupt, dropped)
    if degree is None:
        assert total > 256  # up to there the complete graph would do
        return
    k, t, bad = degree.neighbours, degree.threshold, round(corrupt * 100) * total // 100
    for among in range(min(bad, k) + 1):  # corrupt neighbours of a client, however many
        assert k - among < 2 * (t - among)  # honest ones are too few for both secrets
    assert t > bad


@given(data=st.data())
def test_graph__stays_connected_when_as_many_are_missing_as_may_be(data: st.DataObject) -> None:
    """The missing and the corrupt are where they hurt most: side by side, in two runs."""
    total = data.draw(st.integers(8, 40))
    neighbours = 2 * data.draw(st.integers(2, (total - 2) // 2))
    names = [f"n{index}" for index in range(total)]
    graph = neighbours_of(names, neighbours, b"seed")
    ring = sorted(names, key=lambda name: sha256(b"seed" + name.encode()).digest())
    degree = Degree(neighbours=neighbours, threshold=2, corrupt=0, dropped=0)
    most = min(most_missing(total, degree), total - 1)
    first, start = data.draw(st.integers(0, most)), data.draw(st.integers(0, total - 1))
    gone = set(ring[:first]) | {ring[(start + step) % total] for step in range(most - first)}
    assert _connected(graph, set(names) - gone)


def test_graph__falls_apart_when_one_more_is_missing() -> None:
    names = [f"n{index}" for index in range(20)]
    graph = neighbours_of(names, 6, b"seed")
    between = set(graph["n0"])  # all neighbours of one client
    degree = Degree(neighbours=6, threshold=4, corrupt=0, dropped=0)
    assert len(between) == most_missing(20, degree) + 1
    assert not _connected(graph, set(names) - between)
    assert most_missing(20, replace(degree, corrupt=2)) == 3
    assert most_missing(20, replace(degree, neighbours=19, corrupt=4)) == 20  # nothing cuts it


def _connected(graph: dict[str, tuple[str, ...]], left: set[str]) -> bool:
    reached, frontier = set[str](), {min(left)}
    while frontier:
        reached |= frontier
        frontier = {peer for name in frontier for peer in graph[name] if peer in left} - reached
    return reached == left


# --- What is refused, and the graph itself ---------------------------------------------


@pytest.mark.parametrize(
    ("total", "corrupt", "least", "expected"),
    [
        (3, 0, 3, (2, 2, 1, 0)),
        (4, 0, 3, (3, 2, 1, 1)),
        (5, 1, 3, (4, 3, 2, 1)),
        (10, 2, 3, (9, 6, 3, 3)),
        (64, 12, 3, (63, 38, 13, 25)),
        (64, 12, 60, (63, 38, 13, 4)),
        (64, 12, 70, (63, 38, 13, 0)),
    ],
)
def test_degree__of_a_complete_graph_by_hand(
    total: int, corrupt: int, least: int, expected: tuple[int, int, int, int]
) -> None:
    """Two quorums of threshold and one meet in more than the corrupt: 2 t >= k + corrupt."""
    found = choose_degree(total, corrupt, None, least)
    assert found is not None
    assert (found.neighbours, found.threshold, found.corrupt, found.dropped) == expected
    assert found.corrupt <= 2 * found.threshold - found.neighbours


@pytest.mark.parametrize("total", [0, 1, 2])
def test_degree__refuses_one_or_two_clients(total: int) -> None:
    with pytest.raises(ConfigError, match="at least 3"):
        degree_of(SecAggMasked(), total)


def test_degree__refuses_what_cannot_be_safe_and_says_why() -> None:
    fixed = SecAggMasked(corrupt_fraction=0.5, dropout_fraction=0.4)
    with pytest.raises(ConfigError, match=r"10 sites withstand 5 .* without 4 .*dropout_fraction"):
        degree_of(fixed, 10)
    with pytest.raises(ConfigError, match="255 neighbours"):
        # 400 may be gone; a byte addresses 255 shares
        degree_of(replace(fixed, corrupt_fraction=0.2, dropout_fraction=0.2), 1000)
    with pytest.raises(ConfigError, match="1,300 sites withstand 260"):
        degree_of(SecAggMasked(), 1300)


@settings(max_examples=examples(40), deadline=None)
@given(total=st.integers(65, 800), corrupt=st.sampled_from([0.0, 0.1, 0.2, 0.3]))
def test_degree__of_a_large_cohort_gives_up_dropouts_before_safety(
    total: int, corrupt: float
) -> None:
    found = degree_of(SecAggMasked(corrupt_fraction=corrupt), total)
    asked = SecAggMasked(corrupt_fraction=corrupt, dropout_fraction=0.2)
    if (fixed := _degree(total, corrupt, 0.2)) is not None:
        assert found == fixed
        return
    assert found.corrupt == round(corrupt * 10) * total // 10
    with pytest.raises(ConfigError, match="dropout_fraction"):
        degree_of(asked, total)


@settings(max_examples=examples(40), deadline=None)
@given(total=st.integers(65, 300), least=st.integers(3, 300))
def test_degree__has_no_part_of_a_graph_smaller_than_the_smallest_sum(
    total: int, least: int
) -> None:
    degree = choose_degree(total, total // 5, None, least)
    if degree is None:
        assert total > 256
        return
    assert degree.neighbours == total - 1 or degree.smallest_part >= least


@pytest.mark.parametrize("total", [66, 67])
def test_degree__has_no_more_neighbours_than_there_are_others(total: int) -> None:
    """However many are corrupt: where no regular graph is safe the complete one is."""
    for corrupt in range(total - 1):
        found = choose_degree(total, corrupt, 0)
        assert found is not None
        assert found.neighbours <= total - 1
        if found.neighbours == total - 1:
            assert found.threshold == max((total + corrupt) // 2, 2)
    assert choose_degree(total, total - 1, 0) is None


def test_degree__of_as_many_shares_as_there_are_points_lets_nobody_drop_out() -> None:
    assert choose_degree(300, 253, None) == Degree(
        neighbours=254, threshold=254, corrupt=253, dropped=0
    )
    assert choose_degree(300, 254, None) is None


@pytest.mark.parametrize(("cohort", "corrupt"), [(2, 0), (64, 13), (100, 20), (1300, 0)])
def test_withstood__is_that_of_the_degree_and_nobody_where_there_is_none(
    cohort: int, corrupt: int
) -> None:
    assert withstood(SecAggMasked(), cohort) == corrupt


@pytest.mark.parametrize("neighbours", [2, 4, 6])
def test_part__is_a_client_and_who_must_be_in_any_two_sets_of_its_neighbours(
    neighbours: int,
) -> None:
    """Those who say so and those whose masks are taken away, counted out."""
    for threshold in range(neighbours // 2 + 1, neighbours + 1):
        sets = [set(each) for each in combinations(range(neighbours), threshold)]
        fewest = min(len(one & other) for one in sets for other in sets)
        degree = Degree(neighbours=neighbours, threshold=threshold, corrupt=0, dropped=0)
        assert degree.smallest_part == 1 + fewest


@pytest.mark.parametrize(("total", "degree"), [(10, 9), (10, 4), (70, 38), (9, 8), (101, 20)])
def test_graph__is_symmetric_regular_and_connected(total: int, degree: int) -> None:
    names = [f"n{index}" for index in range(total)]
    graph = neighbours_of(names, degree, b"seed")
    reached, frontier = set[str](), {"n0"}
    while frontier:
        reached |= frontier
        frontier = {peer for name in frontier for peer in graph[name]} - reached
    assert reached == set(names)
    for name, peers in graph.items():
        assert len(peers) == degree
        assert name not in peers
        assert all(name in graph[peer] for peer in peers)
        assert list(peers) == sorted(peers, key=str.encode)


def test_graph__follows_the_seed_and_not_the_order_of_names() -> None:
    names = [f"n{index}" for index in range(70)]
    graph = neighbours_of(names, 20, b"one")
    assert neighbours_of(names[::-1], 20, b"one") == graph
    assert neighbours_of(names, 20, b"two") != graph
