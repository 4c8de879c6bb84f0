"""Rules that choose among single updates: Flower's arithmetic, and what each asks of a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError
from fedlearn.flower.aggregation import AGGREGATION
from fedlearn.privacy import SystemNoise
from fedlearn.robust import ROBUST, InClear
from fedlearn.robust.bulyan import Bulyan
from fedlearn.robust.krum import Krum
from fedlearn.robust.median import Median
from fedlearn.robust.trimmed_mean import TrimmedMean
from fedlearn.stages import Mean, Route, ServerRound, Trained, Update
from server.average import Gathered, RunningSum, arriving
from tests.effort import examples

HEART = "experiment=medical_heart"
RULES = [kind for kind in ROBUST.kinds if ROBUST.known[kind].in_clear]
MADE: dict[str, InClear] = {
    "krum": Krum(),
    "bulyan": Bulyan(),
    "trimmed_mean": TrimmedMean(),
    "median": Median(),
}


def updates_of(seed: int, count: int, size: int = 3) -> list[NDArray[np.float64]]:
    return [*np.random.default_rng(seed).normal(size=(count, size))]


def test_rules_in_clear__are_these() -> None:
    assert sorted(RULES) == sorted(MADE)


# --- the arithmetic, each beside one of its own -----------------------------------


def scores(updates: list[NDArray[np.float64]], liars: int) -> list[float]:
    """Blanchard et al. 2017, section 4: squared distances to the n - f - 2 nearest others."""
    found = []
    for i, one in enumerate(updates):
        apart = sorted(
            float(((one - other) ** 2).sum()) for j, other in enumerate(updates) if j != i
        )
        found.append(sum(apart[: len(updates) - liars - 2]))
    return found


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2), st.integers(1, 3), st.integers(0, 3))
def test_krum__takes_the_updates_that_are_nearest_to_their_neighbours(
    seed: int, liars: int, keep: int, more: int
) -> None:
    rule = Krum(liars=liars, selected=keep)
    updates = updates_of(seed, rule.fewest + more)
    best = np.argsort(scores(updates, liars), kind="stable")[:keep]
    wanted = np.mean([updates[i] for i in best], axis=0)
    assert np.allclose(rule.chosen(updates, AGGREGATION), wanted, atol=1e-12)


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2), st.integers(0, 4))
def test_trimmed_mean__leaves_out_so_many_at_each_end(seed: int, liars: int, more: int) -> None:
    rule = TrimmedMean(liars=liars)
    updates = updates_of(seed, rule.fewest + more)
    kept = np.sort(np.array(updates), axis=0)[liars : len(updates) - liars]
    assert np.allclose(rule.chosen(updates, AGGREGATION), kept.mean(0), atol=1e-12)


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 9))
def test_median__is_in_the_middle_of_each_value(seed: int, count: int) -> None:
    updates = updates_of(seed, count)
    ordered = np.sort(np.array(updates), axis=0)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    assert np.allclose(Median().chosen(updates, AGGREGATION), middle, atol=1e-12)


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_bulyan__is_the_middle_of_what_krum_chooses_again_and_again(seed: int, more: int) -> None:
    """El Mhamdi et al. 2018, section 4; every value is a mean of those nearest to the median."""
    rule = Bulyan()
    updates = updates_of(seed, rule.fewest + more)
    left, chosen = list(updates), []
    for _ in range(len(updates) - 2):
        # As few as one neighbour counts where few are left.
        nearest = max(1, len(left) - 3)
        apart = [sorted(float(((a - b) ** 2).sum()) for b in left)[1 : 1 + nearest] for a in left]
        chosen.append(left.pop(int(np.argmin([sum(one) for one in apart]))))
    stacked = np.array(chosen)
    order = np.argsort(np.abs(stacked - np.median(stacked, axis=0)), axis=0)
    wanted = np.take_along_axis(stacked, order, axis=0)[: len(updates) - 4].mean(0)
    assert np.allclose(rule.chosen(updates, AGGREGATION), wanted, atol=1e-12)


@pytest.mark.parametrize("kind", RULES)
def test_rule__stays_among_the_honest_whatever_one_update_says(kind: str) -> None:
    """No value is beyond those of honest sites: what each promises, for as many as it asks for."""
    rule = MADE[kind]
    honest = updates_of(1, rule.fewest)[1:]
    low, high = np.min(honest, axis=0), np.max(honest, axis=0)
    for lie in (1e30, -1e30, 1e3, 0.0):
        found = rule.chosen([*honest, np.full(3, lie)], AGGREGATION)
        assert np.all(low <= found), (lie, found)
        assert np.all(found <= high), (lie, found)


@pytest.mark.parametrize("kind", RULES)
def test_rule__does_not_depend_on_where_changes_are_counted_from(kind: str) -> None:
    """Sites may send models or changes: the same comes of both."""
    rule, base = MADE[kind], np.array([3.0, -2.0, 100.0])
    changes = updates_of(2, rule.fewest)
    moved = rule.chosen([base + one for one in changes], AGGREGATION)
    assert np.allclose(moved - base, rule.chosen(changes, AGGREGATION), atol=1e-9)


# --- in a round -------------------------------------------------------------------


@pytest.mark.parametrize("kind", RULES)
def test_round__ends_with_what_the_rule_has_chosen_and_no_weight_counts(kind: str) -> None:
    route = Route(Trained(weighted=True), (Mean(),))
    at = ServerRound(np.zeros(3, np.float32), 0.0, b"", SystemNoise(), 0)
    rule = MADE[kind]
    updates = updates_of(3, rule.fewest)
    arrived = arriving(rule, route, at, 3)
    assert isinstance(arrived, Gathered)
    for weight, one in enumerate(updates, 1):
        arrived._add(Update(values=one, weight=10**weight))
    found = route.backward(arrived.total(), at)
    assert np.allclose(found, rule.chosen(updates, AGGREGATION), atol=1e-6)


def test_round__without_such_a_rule_adds_up_and_keeps_nothing() -> None:
    route = Route(Trained(), (Mean(),))
    at = ServerRound(np.zeros(3, np.float32), 0.0, b"", SystemNoise(), 0)
    assert type(arriving(ROBUST.known["bounded"](), route, at, 3)) is RunningSum


# --- what each asks of a run ------------------------------------------------------


@pytest.mark.parametrize("kind", RULES)
def test_masks__are_refused_with_the_way_out(kind: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"robust={kind}: .*secagg=masked.*Choose a rule for sums"
    ):
        compose([HEART, f"robust={kind}"])
    assert compose([HEART, f"robust={kind}", "secagg=off"]).robust.kind == kind


@pytest.mark.parametrize("kind", RULES)
def test_noise_for_a_sum__is_refused_with_the_way_out(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"robust={kind}: the noise of privacy=client"):
        compose([HEART, f"robust={kind}", "secagg=off", "privacy=client"])
    with pytest.raises(ConfigError, match=rf"robust={kind}: the noise of privacy=distributed"):
        compose([HEART, f"robust={kind}", "privacy=distributed"])
    for privacy in ("none", "record"):
        compose([HEART, f"robust={kind}", "secagg=off", f"privacy={privacy}"])


@pytest.mark.parametrize(
    ("rule", "fewest"),
    [
        (Krum(), 5), (Krum(liars=2), 7), (Krum(selected=4), 7), (Bulyan(), 7),
        (Bulyan(liars=2), 11), (TrimmedMean(), 3), (TrimmedMean(liars=2), 5), (Median(), 3),
    ],
)  # fmt: skip
def test_too_few_sites__are_refused_with_what_is_assumed(rule: InClear, fewest: int) -> None:
    rule.check(fewest)
    with pytest.raises(ConfigError, match=rf"robust={rule.kind}: assumes .* takes {fewest} sites"):
        rule.check(fewest - 1)
