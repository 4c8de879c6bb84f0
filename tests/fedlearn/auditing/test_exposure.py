"""Ranks, chance and what a promise allows, against enumeration, closed forms and simulation."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from fedlearn.auditing.exposure import (
    DELTAS,
    Allowed,
    by_chance,
    edge_of_chance,
    exposure,
    mean_by_chance,
    p_value,
    ranked,
)
from fedlearn.auditing.gaussian import epsilon_of
from fedlearn.auditing.promise import Promise, promise_of
from fedlearn.mechanisms import ClientPrivacy, RecordPrivacy, derive
from fedlearn.mechanisms.base import Population
from fedlearn.privacy.events import Unit
from tests.effort import examples

NORMAL = NormalDist()
WIDE = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7)


def gaussian(mu: float) -> Promise:
    """The promise of a Gaussian mechanism, at many deltas."""
    points = tuple((epsilon_of(mu, delta), delta) for delta in (*DELTAS, *WIDE))
    return Promise(epsilon=epsilon_of(mu, 1e-5), delta=1e-5, points=points)


def pure(epsilon: float) -> Promise:
    return Promise(epsilon=epsilon, delta=0.0, points=((epsilon, 0.0),))


def shifted(rate: float, mu: float) -> float:
    """What a Gaussian mechanism makes of a rate."""
    return NORMAL.cdf(NORMAL.inv_cdf(rate) + mu)


# --- ranks ------------------------------------------------------------------------------


def test_rank__is_the_place_in_the_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        nats = rng.normal(size=20)
        assert ranked(nats, rng) == 1 + sorted(nats).index(nats[0])


def test_rank__among_equals_is_a_coin() -> None:
    rng = np.random.default_rng(1)
    found = [ranked(np.array([1.0, 1.0, 0.0, 1.0, 2.0]), rng) for _ in range(3000)]
    counts = np.bincount(found, minlength=6)
    assert counts[[0, 1, 5]].sum() == 0
    assert np.abs(counts[2:5] / 3000 - 1 / 3).max() < 0.05


def test_rank__of_a_model_that_has_diverged_is_chance() -> None:
    rng = np.random.default_rng(2)
    found = [ranked(np.full(10, np.nan), rng) for _ in range(2000)]
    assert np.abs(np.bincount(found, minlength=11)[1:] / 2000 - 0.1).max() < 0.04
    assert ranked(np.array([np.nan, 1.0, 2.0]), rng) == 3


def test_exposure__is_that_of_carlini_and_others() -> None:
    assert exposure(np.array([1, 2, 512, 1024]), 1024).tolist() == [10.0, 9.0, 1.0, 0.0]
    assert mean_by_chance(10_000) == pytest.approx(1 / math.log(2), abs=2e-3)


# --- by chance --------------------------------------------------------------------------


@pytest.mark.parametrize(("candidates", "canaries"), [(2, 3), (4, 3), (10, 2), (1000, 1)])
def test_chance__is_never_smaller_than_enumeration_gives(candidates: int, canaries: int) -> None:
    ranks = itertools.product(range(1, candidates + 1), repeat=canaries)
    found = np.sort([by_chance(np.array(one), candidates) for one in ranks])
    shares = np.arange(1, len(found) + 1) / len(found)
    last = np.append(np.diff(found) > 0, True)  # of equal ones the last has the share of all
    assert (found[last] >= shares[last] - 1e-9).all()


def test_chance__is_exact_where_candidates_are_many() -> None:
    rng = np.random.default_rng(3)
    ranks = rng.integers(1, 10**6 + 1, size=(4000, 5))
    found = np.array([by_chance(one, 10**6) for one in ranks])
    for level in (0.05, 0.3, 0.7):
        assert abs(float(np.mean(found <= level)) - level) < 0.03


def test_chance__of_no_canary_is_one() -> None:
    assert by_chance(np.array([], np.int64), 10) == 1.0


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=12))
def test_edge__parts_what_chance_explains_from_what_it_does_not(ranks: list[int]) -> None:
    found = np.array(ranks)
    above = float(exposure(found, 5000).mean()) > edge_of_chance(len(ranks), 5000)
    assert above == (by_chance(found, 5000) < 0.05 - 1e-12)


# --- what is allowed --------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize("mu", [0.2, 1.0])
def test_allowed__of_copies_is_the_curve_of_a_gaussian_that_is_as_much_further(
    mu: float, copies: int
) -> None:
    allowed = Allowed(promise=gaussian(mu), copies=copies)
    for rate in (1e-4, 1e-2, 0.2):
        exact = shifted(rate, copies * mu)
        assert exact <= allowed.chance(rate) * (1 + 1e-9) <= 1.35 * exact


def test_allowed__of_one_pair_is_that_of_group_privacy() -> None:
    allowed = Allowed(promise=pure(0.5), copies=3)
    assert allowed.chance(1e-3) == pytest.approx(1e-3 * math.exp(1.5))
    whole = Allowed(promise=pure(0.5), copies=3, one_unit=True)
    assert whole.chance(1e-3) == pytest.approx(1e-3 * math.exp(0.5))


def test_allowed__curve_is_far_below_one_pair() -> None:
    pair = Promise(epsilon=8.0, delta=1e-5, points=((8.0, 1e-5),))
    mu = 1.6  # epsilon 7.9 at the same delta
    by_pair, by_curve = (
        Allowed(promise=one, copies=1).chance(1e-4) for one in (pair, gaussian(mu))
    )
    assert by_pair > 0.29
    assert by_curve < 0.02


def test_allowed__is_no_less_than_the_exact_loss_of_copies_that_are_sampled_apart() -> None:
    """Each of k copies joins a step by a coin of its own: a mixture of Gaussians (Ganesh 2024)."""
    copies, rate, noise, steps = 3, 0.2, 2.0, 5
    config = RecordPrivacy(noise_multiplier=noise, delta=1e-5, clip_norm=1.0)
    plan = derive(config, sample_rate=rate, steps_per_round=steps, rounds=1)
    promise = promise_of(plan, (1e-4, 1e-3)) if plan else None
    assert promise is not None
    chances = [math.comb(copies, i) * rate**i * (1 - rate) ** (copies - i) for i in range(4)]
    exact = oracle.from_mixture_gaussian_mechanism(
        noise, list(range(copies + 1)), chances, value_discretization_interval=0.02
    ).self_compose(steps)
    allowed = Allowed(promise=promise, copies=copies)
    for at in (1e-3, 1e-2, 0.1):
        tight = min(
            math.exp(epsilon) * at + exact.get_delta_for_epsilon(epsilon)
            for epsilon in np.linspace(0, 6, 40)
        )
        assert tight <= allowed.chance(at) * 1.01


def test_mean_exposure__is_that_of_the_largest_chances_of_all_ranks() -> None:
    mu, candidates = 0.7, 200
    allowed = Allowed(promise=gaussian(mu), copies=1)
    up_to = allowed.chances(np.arange(candidates + 1) / candidates)
    up_to[0], up_to[-1] = 0.0, 1.0
    by_ranks = float(np.diff(up_to) @ exposure(np.arange(1, candidates + 1), candidates))
    assert allowed.mean_exposure(candidates) == pytest.approx(by_ranks, rel=1e-6)


def test_mean_exposure__of_nothing_learned_is_chance_and_of_everything_all_bits() -> None:
    nothing = Allowed(promise=pure(0.0), copies=5)
    assert nothing.mean_exposure(1000) == pytest.approx(mean_by_chance(1000))
    everything = Allowed(promise=pure(50.0), copies=1)
    assert everything.mean_exposure(1000) == pytest.approx(math.log2(1000))


@pytest.mark.parametrize("count", [1, 2, 6])
def test_together__is_no_less_than_independent_noise_on_each_canary(count: int) -> None:
    mu = 1.0
    allowed = Allowed(promise=gaussian(mu), copies=1)
    assert allowed.together(count, 1e-3) >= shifted(1e-3, mu) ** count
    one = Allowed(promise=pure(0.5), copies=2)
    assert one.together(count, 1e-3) == pytest.approx((1e-3 * math.exp(1.0)) ** count)


def test_together__of_one_unit_is_the_curve_at_the_chance_of_all() -> None:
    whole = Allowed(promise=pure(1.0), copies=4, one_unit=True)
    assert whole.together(3, 0.01) == pytest.approx(1e-6 * math.e)


def test_allowed__counts_repetitions_as_the_unit_of_the_promise_does() -> None:
    units: tuple[Unit, ...] = ("record", "person", "client")
    chances = {unit: Allowed.of(pure(0.5), unit, 6).together(2, 1e-3) for unit in units}
    assert chances["record"] == pytest.approx((1e-3 * math.exp(3.0)) ** 2)
    assert chances["person"] == pytest.approx((1e-3 * math.exp(0.5)) ** 2)
    assert chances["client"] == pytest.approx(1e-6 * math.exp(0.5))


# --- the verdict ------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.3, 1.6])
def test_p_value__accuses_no_gaussian_mechanism_more_often_than_it_says(mu: float) -> None:
    """Each canary moves a coordinate of its own by a whole deviation: the best that is allowed."""
    rng, candidates, canaries = np.random.default_rng(4), 1000, 6
    allowed = Allowed(promise=gaussian(mu), copies=1)
    rates = ndtr(rng.normal(size=(200, canaries)) - mu)
    ranks = np.maximum(1, np.ceil(rates * candidates)).astype(np.int64)
    found = np.array([p_value(one, candidates, allowed) for one in ranks])
    for level in (0.05, 0.2):
        assert float(np.mean(found <= level)) <= level + 3 * math.sqrt(level / 200)


def test_p_value__holds_where_one_coin_decides_of_all_canaries() -> None:
    """With chance delta everything is said at once: (0, delta), and no two ranks independent."""
    delta, candidates = 0.2, 1000
    promise = Promise(epsilon=0.0, delta=delta, points=((0.0, delta),))
    allowed = Allowed(promise=promise, copies=1)
    assert p_value(np.ones(8, np.int64), candidates, allowed) >= delta


def test_p_value__sees_that_everything_is_said() -> None:
    ranks = np.ones(8, np.int64)
    assert p_value(ranks, 10_000, Allowed(promise=gaussian(1.6), copies=1)) < 1e-4
    assert p_value(ranks, 10_000, Allowed(promise=gaussian(1.6), copies=20)) == 1.0
    assert p_value(ranks[:0], 10_000, Allowed(promise=gaussian(1.6), copies=1)) == 1.0


def test_promise__to_clients_is_theirs_and_no_promise_to_records() -> None:
    config = ClientPrivacy(noise_multiplier=4.0, delta=1e-5, clip_norm=1.0)
    everybody = Population(num_clients=4, dimension=10, records_per_step=10.0)
    plan = derive(config, sample_rate=1.0, steps_per_round=1, rounds=4, population=everybody)
    assert plan is not None
    client, record = promise_of(plan, unit="client"), promise_of(plan)
    assert client is not None
    assert record is not None
    assert client.epsilon < record.epsilon
