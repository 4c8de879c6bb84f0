from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError
from fedlearn.secagg.graph import choose_degree, neighbours_of

FRACTIONS = [(0.05, 0.1), (0.1, 0.1), (0.1, 0.2), (0.2, 0.2), (0.33, 0.2)]
# Computed independently with scipy's hypergeometric tails.
TABLE = {
    50: [(12, 7), (14, 9), (24, 14), (28, 18), (32, 22)],
    100: [(24, 14), (24, 14), (44, 25), (52, 32), (62, 42)],
    1000: [(40, 22), (46, 26), (102, 57), (144, 87)],
}


@pytest.mark.parametrize("total", TABLE)
def test_degree__equals_the_table_from_another_implementation(total: int) -> None:
    for fractions, expected in zip(FRACTIONS, TABLE[total], strict=False):
        degree = choose_degree(total, *fractions, complete_up_to=0)
        assert (degree.neighbours, degree.threshold) == expected


@given(
    total=st.integers(3, 64),
    corrupt=st.sampled_from([0.0, 0.1, 0.2, 0.33]),
    dropped=st.sampled_from([0.0, 0.1, 0.2, 0.4]),
)
def test_degree__of_a_complete_graph_holds_in_the_worst_case(
    total: int, corrupt: float, dropped: float
) -> None:
    bad, gone = int(corrupt * total + 1e-9), int(dropped * total + 1e-9)
    try:
        degree = choose_degree(total, corrupt, dropped)
    except ConfigError:
        smallest = (total - 1 + bad) // 2 + 1
        assert max(smallest, 2) > total - 1 - gone  # there really is none
        return
    assert degree.neighbours == total - 1
    assert 2 * degree.threshold > total - 1 + bad  # never two survivor lists
    assert degree.threshold > bad  # corrupt clients alone open nothing
    assert degree.threshold <= total - 1 - gone  # survivors finish


def test_degree__privacy_tail_is_below_two_to_the_minus_forty() -> None:
    total, corrupt = 1000, 200
    degree = choose_degree(total, 0.2, 0.2)
    k, t = degree.neighbours, degree.threshold
    exposed = sum(comb(corrupt, i) * comb(total - 1 - corrupt, k - i) for i in range(t, k + 1))
    assert total * exposed / comb(total - 1, k) <= 2**-40


@pytest.mark.parametrize("total", [0, 1, 2])
def test_degree__refuses_one_or_two_clients(total: int) -> None:
    with pytest.raises(ConfigError, match="at least 3"):
        choose_degree(total, 0.0, 0.0)


def test_degree__refuses_what_cannot_be_safe_and_says_why() -> None:
    with pytest.raises(ConfigError, match=r"corrupt_fraction=0.5.*dropout_fraction=0.4"):
        choose_degree(10, 0.5, 0.4)
    with pytest.raises(ConfigError, match="no safe threshold"):
        choose_degree(1000, 0.33, 0.2)  # needs 262 neighbours; a byte addresses 255 shares


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
