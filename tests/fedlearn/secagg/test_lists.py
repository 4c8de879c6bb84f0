"""What a lying server with corrupt clients opens, by every way to lie.

An honest client `v` is given an inbox `I` (whose shares it holds; it masks with these alone)
and a list of survivors `L` that holds it, and nobody whose shares were held back. It answers
if `t` others, corrupt ones included, have signed the same list. Corrupt clients sign all lists
and give all shares that they hold. From what is opened follows, by the masks that are known
then, for which sets of clients the sum is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError
from fedlearn.secagg.graph import Degree, choose_degree, degree_of, neighbours_of
from fedlearn.secagg.settings import SecAggMasked
from tests.effort import examples

Names = frozenset[int]
Lie = tuple[Names, Names]
"""Inbox and list of one honest client, without the corrupt, who are in both."""
NONE: Names = frozenset({-1})
"""The list of a client that refused."""


def subsets(of: Names) -> Iterator[Names]:
    for size in range(len(of) + 1):
        yield from map(frozenset, combinations(sorted(of), size))


def lies(one: int, honest: Names, corrupt: int, threshold: int) -> list[Lie]:
    """What `one` can be shown without refusing at once."""
    pairs = ((inbox, others) for inbox in subsets(honest - {one}) for others in subsets(inbox))
    return [
        (inbox, others | {one}) for inbox, others in pairs if len(others) + corrupt >= threshold
    ]


@dataclass(frozen=True)
class Graph:
    """Of every honest client the honest neighbours, and how many corrupt ones."""

    near: list[Names]
    bad: list[int]

    @classmethod
    def complete(cls, honest: int, corrupt: int) -> Graph:
        everybody = frozenset(range(honest))
        return cls([everybody - {one} for one in everybody], [corrupt] * honest)


def known_sums(told: list[Lie], graph: Graph, threshold: int) -> list[Names]:
    """The sets of honest clients whose sum a server knows in the end."""
    honest, bad = range(len(told)), graph.bad
    answers = [
        v
        for v in honest
        if told[v][1] != NONE
        and bad[v] + sum(told[u][1] == told[v][1] for u in graph.near[v]) >= threshold
    ]
    seeds, keys = set[int](), set[int]()
    for v in honest:
        holders = [u for u in answers if v in told[u][0]]
        shown = sum(v in told[u][1] for u in holders)
        if bad[v] + shown >= threshold:
            seeds.add(v)
        if bad[v] + len(holders) - shown >= threshold:
            keys.add(v)
    unknown = [(u, v) for u, v in combinations(honest, 2) if not {u, v} & keys]

    def cancels(chosen: Names) -> bool:
        return all(
            (u in chosen and v in told[u][0]) == (v in chosen and u in told[v][0])
            for u, v in unknown
        )

    return [one for one in subsets(frozenset(seeds)) if one and cancels(one)]


def telling(told: list[Lie], corrupt: int, threshold: int) -> bool:
    """Whether the server knows more than one sum, or the update of one client."""
    known = known_sums(told, Graph.complete(len(told), corrupt), threshold)
    return len(known) > 1 or any(len(one) == 1 for one in known)


@pytest.mark.parametrize(
    ("total", "corrupt"), [(3, 0), (3, 1), (4, 1), (4, 2), (5, 2), (5, 3), (6, 3), (7, 4)]
)
def test_lies__open_one_sum_of_two_clients_or_more(total: int, corrupt: int) -> None:
    degree = choose_degree(total, corrupt, 0)
    assert degree is not None
    honest = frozenset(range(total - corrupt))
    each = [lies(one, honest, corrupt, degree.threshold) for one in honest]
    for told in product(*each):
        assert not telling(list(told), corrupt, degree.threshold)


@pytest.mark.parametrize(("total", "corrupt", "threshold"), [(4, 2, 2), (5, 3, 3), (5, 2, 2)])
def test_lies__open_more_below_the_threshold(total: int, corrupt: int, threshold: int) -> None:
    """The oracle finds what it is for. (5, 3, 3) were the masks of `max_colluders=3` once."""
    honest = frozenset(range(total - corrupt))
    each = [lies(one, honest, corrupt, threshold) for one in honest]
    assert any(telling(list(told), corrupt, threshold) for told in product(*each))


@given(data=st.data())
def test_lies__open_one_sum_of_any_cohort(data: st.DataObject) -> None:
    total = data.draw(st.integers(4, 14))
    corrupt = data.draw(st.integers(0, total - 2))
    degree = choose_degree(total, corrupt, 0)
    assert degree is not None
    corrupt = degree.corrupt  # what it says that it withstands, which may be more
    honest, told = frozenset(range(total - corrupt)), list[Lie]()
    # A few lists for all: clients that are shown others answer nothing.
    lists = data.draw(st.lists(st.frozensets(st.sampled_from(sorted(honest))), max_size=3))
    for one in honest:
        at = data.draw(st.sampled_from([honest, *(each for each in lists if one in each)]))
        held = data.draw(st.frozensets(st.sampled_from(sorted(honest))))
        refuses = len(at) - 1 + corrupt < degree.threshold
        told.append(((at | held if not refuses else honest) - {one}, NONE if refuses else at))
    assert not telling(told, corrupt, degree.threshold)


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_lies__open_no_small_part_of_a_regular_graph(data: st.DataObject) -> None:
    total, corrupt = data.draw(st.integers(7, 11)), data.draw(st.integers(0, 2))
    neighbours = 2 * data.draw(st.integers(2, (total - 2) // 2))
    threshold = (neighbours + corrupt) // 2 + 1
    names = [f"{index:02}" for index in range(total)]
    drawn = neighbours_of(names, neighbours, b"seed")
    chosen = data.draw(st.permutations(names))
    bad, good = set(chosen[:corrupt]), chosen[corrupt:]
    near = [frozenset(good.index(peer) for peer in drawn[v] if peer not in bad) for v in good]
    graph = Graph(near, [len(bad & set(drawn[v])) for v in good])
    honest, told = frozenset(range(len(good))), list[Lie]()
    # Whole lists, and such that leave out a part as it lies in the graph.
    parts = st.frozensets(st.sampled_from(sorted(honest)), max_size=len(good) - 2)
    lists = [honest, *(honest - part for part in data.draw(st.lists(parts, max_size=3)))]
    for one in honest:
        at = data.draw(st.sampled_from([each for each in lists if one in each]))
        held = data.draw(st.sampled_from([near[one], at & near[one]]))
        refuses = min(len(held), len(at & near[one])) + graph.bad[one] < threshold
        told.append((near[one] if refuses else held | at & near[one], NONE if refuses else at))
    degree = Degree(neighbours=neighbours, threshold=threshold, corrupt=corrupt, dropped=0)
    for part in known_sums(told, graph, threshold):
        assert len(part) + corrupt >= max(degree.smallest_part, corrupt + 2)


@given(
    total=st.integers(3, 64),
    fraction=st.sampled_from([0.0, 0.1, 0.2, 0.33, 0.5]),
    sites=st.integers(0, 8),
    dropped=st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.2, 0.4])),
)
def test_masks__withstand_what_is_asked_of_them_or_are_refused(
    total: int, fraction: float, sites: int, dropped: float | None
) -> None:
    masks = SecAggMasked(corrupt_fraction=fraction, dropout_fraction=dropped).against(sites)
    corrupt = max(int(fraction * total + 1e-9), sites)
    gone = int((dropped or 0) * total + 1e-9)
    # Two of this size meet in an honest client, and hold one more than the corrupt and another.
    if max((total + corrupt) // 2 + 1, corrupt + 2, 3) > total - gone:
        ways_out = "privacy.max_colluders" + (".*secagg.dropout_fraction" if gone else ".*invite")
        with pytest.raises(ConfigError, match=ways_out):
            degree_of(masks, total)
        return
    degree = degree_of(masks, total)
    quorum = degree.threshold + 1
    assert degree.corrupt >= corrupt
    assert 2 * quorum - total > degree.corrupt  # any two have an honest client in common
    assert degree.threshold > degree.corrupt
    assert total - degree.dropped >= max(quorum, masks.min_cohort)
    assert degree.dropped >= min(gone, total - masks.min_cohort)
    tighter = degree.threshold - 1  # and no threshold below would do
    assert tighter < 2 or 2 * tighter < total - 1 + corrupt or tighter <= corrupt


@pytest.mark.parametrize(("total", "most"), [(4, 1), (7, 2), (10, 3), (31, 10)])
def test_masks__of_3f_and_one_withstand_f_corrupt_and_f_silent(total: int, most: int) -> None:
    degree = degree_of(SecAggMasked(corrupt_fraction=0).against(most), total)
    assert (degree.corrupt, degree.dropped) == (most, most)


def test_masks__yield_dropouts_to_safety_where_nobody_has_set_any() -> None:
    room = [degree_of(SecAggMasked().against(sites), 10).dropped for sites in range(9)]
    assert room == [3, 3, 3, 3, 2, 2, 1, 1, 0]
    with pytest.raises(ConfigError, match="too few are left to hide among"):
        degree_of(SecAggMasked().against(9), 10)
