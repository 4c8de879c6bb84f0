"""Rules over the sums of groups, what they ask of a run, and what public records add."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedlearn.config import RunConfig, compose, plan_of, sizes_of
from fedlearn.core.errors import ConfigError
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.noise import SeededNoise
from fedlearn.robust import FlTrust, Groups, explained
from fedlearn.robust.groups import geometric_median, shortened, trimmed_mean
from tests.effort import examples

HEART = ("experiment=medical_heart", "robust=groups")


def changes_of(seed: int, count: int, size: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size))


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 9))
def test_trimmed_mean__is_that_of_every_value_without_its_ends(seed: int, count: int) -> None:
    changes = changes_of(seed, count)
    cut = min(max(1, int(0.25 * count)), (count - 1) // 2)
    by_hand = [np.mean(sorted(column)[cut : count - cut]) for column in changes.T]
    assert trimmed_mean(changes, 0.25) == pytest.approx(by_hand)


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 7))
def test_geometric_median__has_the_least_sum_of_distances(seed: int, count: int) -> None:
    changes = changes_of(seed, count)

    def distances(point: np.ndarray) -> float:
        return float(np.linalg.norm(changes - point, axis=1).sum())

    best = minimize(distances, changes.mean(axis=0), method="Nelder-Mead", tol=1e-10)
    assert distances(geometric_median(changes)) <= best.fun * (1 + 1e-3)


@pytest.mark.parametrize("combine", ["trimmed_mean", "median", "geometric_median"])
@pytest.mark.parametrize("lie", [1e3, -1e6])
def test_one_group_of_four__moves_the_change_no_further_than_the_others_are_apart(
    combine: str, lie: float
) -> None:
    changes = changes_of(1, 4)
    changes[2] = lie
    honest = np.delete(changes, 2, axis=0)
    found = Groups(combine=combine).combined(changes)  # type: ignore[arg-type]
    reach = 2 * np.abs(honest - honest.mean(axis=0)).max() + 1e-3
    assert np.all(np.abs(found - honest.mean(axis=0)) < reach)


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(1, 1e9))
def test_change__that_is_longer_than_half_of_them_is_shortened_to_these(
    seed: int, count: int, times: float
) -> None:
    """Whatever fewer than half of the groups send, an honest length stands above it."""
    changes = changes_of(seed, count)
    liars = (count - 1) // 2
    changes[:liars] *= times
    found, lengths = shortened(changes), np.linalg.norm(changes, axis=1)
    if count < 3:
        assert np.array_equal(found, changes)
        return
    most = sorted(lengths)[(count - 1) // 2]
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.minimum(lengths, most))
    assert most <= lengths[liars:].max()
    # No direction changes, and as many as half of them not at all.
    assert np.einsum("ij,ij->i", found, changes) == pytest.approx(
        np.minimum(lengths, most) * lengths
    )
    assert sum(map(np.array_equal, found, changes)) >= (count + 1) // 2


@pytest.mark.parametrize("liars", [1, 2])
def test_two_groups_of_four__have_no_more_say_than_the_others_however_long_they_are(
    liars: int,
) -> None:
    honest = np.tile([1.0, 0.0], (4 - liars, 1))
    across = np.tile([0.0, 1e6], (liars, 1))
    for combine in ("trimmed_mean", "median", "geometric_median", "mean"):
        found = Groups(combine=combine).combined(np.vstack([honest, across]))
        assert found[1] <= 0.5 + 1e-9


def test_changes__that_are_nothing_stay_so() -> None:
    assert np.array_equal(shortened(np.zeros((4, 3))), np.zeros((4, 3)))


def test_two_groups__have_a_mean_whatever_the_rule() -> None:
    changes = changes_of(2, 2)
    for combine in ("trimmed_mean", "median", "geometric_median", "mean"):
        assert Groups(combine=combine).combined(changes) == pytest.approx(changes.mean(axis=0))


def test_sites_that_must_have_lied__are_those_in_every_account_of_what_was_refused() -> None:
    assert explained([], 1) == []
    assert explained([("a", "b", "c")], 1) == []
    assert explained([("a", "b", "c"), ("c", "d", "e")], 1) == ["c"]
    # Two may have lied: one of each sum, or c alone.
    assert explained([("a", "b", "c"), ("c", "d", "e")], 2) == []
    three = [("a", "b", "c"), ("c", "d", "e"), ("c", "f", "g")]
    assert explained(three, 2) == ["c"]
    # More liars than may be: nobody is sure.
    assert explained([("a", "b"), ("c", "d")], 1) == []


# --- public records ----------------------------------------------------------------


def test_fltrust__hears_no_group_that_goes_against_the_direction() -> None:
    direction = np.array([1.0, 0.0, 0.0])
    changes = np.array([[2.0, 1.0, 0.0], [-9.0, 5.0, 5.0], [1.0, -1.0, 0.0]])
    found = FlTrust(combine="mean").combined(changes, direction)
    assert found == pytest.approx([1.5, 0.0, 0.0])


@pytest.mark.parametrize("count", range(2, 9))
def test_fltrust__never_rests_on_fewer_than_half_of_the_groups_nor_on_one(count: int) -> None:
    """A liar across the direction waits for rounds in which noise turns all honest groups."""
    direction, across = np.array([1.0, 0.0]), 4.0
    for turned in range(count):
        changes = np.tile([0.1, 0.0], (count, 1))
        changes[:turned, 0] = -0.1
        changes[-1] = [1e-3, across]
        moved = FlTrust(combine="mean").combined(changes, direction)[1]
        assert moved <= across / max(2, count / 2) + 1e-12


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 2), st.floats(0, 2))
def test_fltrust__goes_as_far_along_the_direction_as_its_floor(
    seed: int, count: int, floor: float, across: float
) -> None:
    """And no further across it than the public records would go along it; else as it is."""
    changes, direction = shortened(changes_of(seed, count)), changes_of(seed + 1, 1)[0]
    length = np.linalg.norm(direction)
    found = FlTrust(floor=floor, across=across, combine="mean").combined(changes, direction)
    unit = direction / length
    assert found @ unit >= floor * length - 1e-9
    with_it = changes[changes @ unit > 0]
    heard = with_it if len(with_it) >= max(2, count / 2) else changes
    mean = heard.mean(axis=0)
    rest = mean - (mean @ unit) * unit
    rest *= min(1.0, across * length / np.linalg.norm(rest))
    assert found - (found @ unit) * unit == pytest.approx(rest)


def test_fltrust__without_a_direction_is_the_rule_over_groups() -> None:
    changes = changes_of(3, 5)
    for direction in (None, np.zeros(3)):
        assert np.array_equal(FlTrust().combined(changes, direction), Groups().combined(changes))


# --- what is asked of a run --------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["secagg=off"], "robust=groups: sums groups of sites"),
        (["strategy.fraction=0.5"], "strategy.fraction=0.5: robust=groups"),
        (["privacy=none", "strategy=scaffold"], "keeps at the sites cannot follow"),
        (["audit=slots"], "audit=slots: reads the noise of one sum"),
        (
            [
                "privacy=client",
                "privacy.epsilon=4",
                "privacy.client_sample_rate=0.5",
                "secagg=ring",
            ],
            "privacy.client_sample_rate: chooses sites by secret coins",
        ),
        (
            ["robust=fltrust", "partition=files", "sites=/nowhere"],
            "robust.public=0.1: the records of site files are their owners'",
        ),
        (
            ["robust=fltrust", "robust.public=0"],
            "robust.public_file: robust=fltrust needs public records",
        ),
    ],
)
def test_config__that_groups_cannot_be_had_with_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([*HEART, *words])
    assert any(problem in line for line in caught.value.problems)


@pytest.mark.parametrize("rule", ["groups", "fltrust"])
def test_trim__of_half_or_more_at_each_end_leaves_nothing_and_is_refused(rule: str) -> None:
    words = ("experiment=medical_heart", f"robust={rule}", "partition=iid")
    with pytest.raises(ConfigError, match=r"robust\.trim=0\.5: must be < 0\.5"):
        compose([*words, "partition.num_sites=12", "robust.trim=0.5"])


@pytest.mark.parametrize("way", ["bounded", "fltrust", "proofs"])
def test_groups__that_are_not_three_are_refused_with_the_ways_out(way: str) -> None:
    config = compose([*HEART])
    assert sizes_of(config, 9).groups == 3
    with pytest.raises(ConfigError, match=rf"robust\.size=3: .* 9 sites, .* 8\..*robust={way}"):
        sizes_of(config, 8)


def test_fltrust__of_too_few_sites_for_three_groups_sums_all_of_them() -> None:
    config = compose([*HEART, "robust=fltrust"])
    few, many = sizes_of(config, 4), sizes_of(config, 9)
    assert (few.groups, few.smallest, few.largest, few.most_left_out) == (1, 4, 4, 0)
    assert (many.groups, many.smallest) == (3, 3)


def test_noise_in_shares__is_planned_for_a_group_and_costs_what_was_asked() -> None:
    """Each sum has all the noise by itself: a site adds more of it, by the root of the sizes."""
    credit = "experiment=financial_credit"
    one = plan_of(compose([credit]), sites=31, dimension=632)
    groups = plan_of(compose([credit, "robust=groups", "robust.size=10"]), sites=31, dimension=632)
    assert one is not None
    assert groups is not None
    assert groups.min_survivors == 10
    assert groups.epsilon <= 4.0
    assert groups.epsilon == pytest.approx(one.epsilon, rel=0.01)
    share = [plan.share_stddev * plan.granularity for plan in (one, groups)]  # type: ignore[attr-defined]
    # Of 31 and of 10 sites one may know its own.
    assert share[1] / share[0] == pytest.approx(np.sqrt(30 / 9), rel=0.06)


PRIVACIES = {
    "none": ["privacy=none"],
    "record": ["privacy=record"],
    "all-clients": ["privacy=client"],
    "sampled": ["privacy=client", "privacy.client_sample_rate=0.5"],
    "outsider": [
        "privacy=client", "privacy.client_sample_rate=0.5", "privacy.adversary=outsider"
    ],
    "rarely": ["privacy=client", "privacy.client_sample_rate=0.01", "privacy.adversary=outsider"],
    "record-shares": ["privacy=distributed", "training.local_steps=1", "training.optimizer=sgd"],
    "client-shares": ["privacy=distributed", "privacy.unit=client"],
}  # fmt: skip
TAKEN = {"none", "record", "all-clients", "record-shares", "client-shares"}


def composed_or_none(words: list[str]) -> RunConfig | None:
    """The config; None where it is refused."""
    try:
        return compose(words)
    except ConfigError:
        return None


@pytest.mark.parametrize("rule", ["groups", "fltrust"])
@pytest.mark.parametrize("privacy", PRIVACIES)
def test_groups__never_count_on_a_site_that_sits_a_round_out(privacy: str, rule: str) -> None:
    """Whatever the adversary, the sums and the sampling, all sites are in every round; so a run
    that chooses among them is refused, or its epsilon would be too small."""
    words = [] if privacy == "none" else ["privacy.epsilon=4"]
    taken = 0
    for secagg, fraction in product(("off", "ring", "masked", "two_server"), (0.5, 1.0)):
        how = [f"secagg={secagg}", f"strategy.fraction={fraction}", f"robust={rule}"]
        config = composed_or_none(["scenario=heart", *PRIVACIES[privacy], *words, *how])
        if config is None:
            continue
        taken += 1
        assert fraction == 1
        plan = plan_of(config, sites=12, dimension=20)
        if plan is None:
            continue
        assert plan.cohort([f"{at}" for at in range(12)], SeededNoise(b"any")) is None
        if plan.unit == "client" and privacy == "all-clients":
            event = replace(plan.total_event, sample_rate=1.0)
            everybody = epsilon([event], plan.delta, unit="client")
            assert plan.epsilon >= everybody * (1 - 1e-9)
    assert (taken > 0) == (privacy in TAKEN)
