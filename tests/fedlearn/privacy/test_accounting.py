"""The reported epsilon against values that were computed in other ways."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from fedlearn.privacy.accounting import epsilon, epsilon_rdp
from fedlearn.privacy.events import GaussianEvent
from tests.effort import examples
from tests.fedlearn.privacy.oracle import (
    gaussian_delta,
    least_delta,
    sampled_gaussian_delta,
    true_delta,
)


def gaussian(noise: float, rate: float = 1.0, steps: int = 1) -> GaussianEvent:
    return GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)


def random_mechanism(rng: np.random.Generator) -> tuple[list[GaussianEvent], float]:
    """One to three mechanisms in sequence, and a delta: what runs on one data set look like."""
    history = []
    for _ in range(rng.integers(1, 4)):
        rate = math.exp(rng.uniform(math.log(0.003), math.log(0.9)))
        steps = int(math.exp(rng.uniform(math.log(max(30, 5 / rate)), math.log(2e4))))
        scale = rate * math.sqrt(steps)
        noise = max(0.6, scale / math.exp(rng.uniform(math.log(0.05), math.log(6))))
        history.append(gaussian(noise, rate, steps))
    return history, 10 ** rng.uniform(-8, -4)


def assert_tight(history: Sequence[GaussianEvent], delta: float) -> None:
    """Reported >= true and reported <= 1.02 * true, both by delta at the epsilon in question."""
    reported = epsilon(history, delta)
    assert true_delta(history, reported) <= delta, f"under-reported: {history} {delta}"
    assert true_delta(history, reported / 1.02) >= delta, f"loose: {history} {delta}"


@pytest.mark.parametrize("seed", range(examples(12, few=2)))
def test_epsilon__is_at_least_the_true_one_and_at_most_2_percent_above(seed: int) -> None:
    assert_tight(*random_mechanism(np.random.default_rng(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_epsilon__is_tight_for_200_random_histories(seed: int) -> None:
    history, delta = random_mechanism(np.random.default_rng(seed))
    assert_tight(history, delta)
    reported = epsilon(history, delta)
    coarse, fine = (true_delta(history, reported, refine) for refine in (1, 2))
    assert coarse == pytest.approx(fine, rel=1e-4), "the oracle itself has not converged"


@pytest.mark.parametrize("noise", [0.8, 1.0, 3.7, 20.0])
@pytest.mark.parametrize("steps", [1, 10, 5000])
def test_epsilon__without_sampling_matches_the_closed_form(noise: float, steps: int) -> None:
    delta = 1e-6
    single = noise / math.sqrt(steps)
    exact = brentq(lambda e: gaussian_delta(single, e) - delta, 0, 1e6, xtol=1e-13)
    assert exact <= epsilon([gaussian(noise, 1.0, steps)], delta) <= 1.02 * exact


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("rate", [1e-3, 0.02, 0.5, 0.99])
def test_epsilon__of_one_step_matches_the_closed_form(noise: float, rate: float) -> None:
    delta = min(1e-6, 0.1 * sampled_gaussian_delta(noise, rate, 0.0))
    exact = brentq(lambda e: sampled_gaussian_delta(noise, rate, e) - delta, 0, 100, xtol=1e-13)
    assert exact <= epsilon([gaussian(noise, rate)], delta) <= 1.02 * exact


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "delta", "looseness"),
    [
        (gaussian(0.05, 0.1, 3), 1e-5, 1.02),
        pytest.param(gaussian(0.3, 1e-4, 1000), 1e-6, 1.02, marks=pytest.mark.slow),
        pytest.param(gaussian(0.5, 1e-4, 1000), 1e-6, 1.02, marks=pytest.mark.slow),
        # The oracle rounds down in each of many steps, so here it is the loose one.
        pytest.param(gaussian(0.5, 1e-6, 1000), 1e-8, 2.0, marks=pytest.mark.slow),
        pytest.param(gaussian(1.0, 1e-4, 10_000), 1e-6, 1.3, marks=pytest.mark.slow),
    ],
)
def test_epsilon__holds_where_a_record_takes_part_hardly_ever(
    event: GaussianEvent, delta: float, looseness: float
) -> None:
    reported = epsilon([event], delta)
    assert least_delta(event, reported) <= delta
    assert least_delta(event, reported / looseness) >= delta


@pytest.mark.parametrize("delta", [0.2, 0.05, 1e-2, 1e-4])
def test_epsilon__covers_adding_and_removing_at_large_deltas(delta: float) -> None:
    """Both directions are in the closed form; for these Gaussians removing was always the worse."""
    reported = epsilon([gaussian(0.7, 0.3)], delta)
    assert sampled_gaussian_delta(0.7, 0.3, reported) <= delta


@pytest.mark.parametrize("seed", range(500, 500 + examples(12, few=4)))
def test_epsilon__is_below_renyi(seed: int) -> None:
    history, delta = random_mechanism(np.random.default_rng(seed))
    assert epsilon(history, delta) <= epsilon_rdp(history, delta)


@pytest.mark.parametrize(
    "seed", [500, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(501, 506))]
)
def test_epsilon__agrees_with_the_prv_accountant_of_opacus(seed: int) -> None:
    history, delta = random_mechanism(np.random.default_rng(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns at import and about its own orders
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [(e.noise_multiplier, e.sample_rate, e.steps) for e in history]
        theirs = accountant.get_epsilon(delta)
    # Theirs is an upper bound within 0.01 of the truth by construction.
    assert epsilon(history, delta) == pytest.approx(theirs, rel=0.02, abs=0.02)


def test_epsilon__of_the_published_anchor_agrees_with_abadi_et_al() -> None:
    """Abadi et al. (2016), section 3: q=0.01, sigma=4, T=10000, delta=1e-5 costs at most 1.26."""
    assert epsilon([gaussian(4.0, 0.01, 10_000)], 1e-5) < 1.26


def test_epsilon__of_rounds_in_a_ledger_equals_that_of_the_run() -> None:
    rounds = [gaussian(1.3, 0.1, 10)] * 5
    assert epsilon(rounds, 1e-5) == epsilon([gaussian(1.3, 0.1, 50)], 1e-5)
    assert epsilon(rounds, 1e-5) > 1.5 * epsilon(rounds[:1], 1e-5)


def test_epsilon__does_not_depend_on_order() -> None:
    history = [gaussian(2.0, 0.1, 7), gaussian(1.5), gaussian(3.0, 0.2, 5)]
    assert epsilon(history, 1e-5) == epsilon(history[::-1], 1e-5)


def test_epsilon__of_nothing_is_zero() -> None:
    assert epsilon([], 1e-5) == epsilon_rdp([], 1e-5) == 0


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize("noise", [0.0, 1e-290, 1e-170, 1e-9, 0.005])
def test_epsilon__without_noise_is_infinite(noise: float, rate: float) -> None:
    history = [gaussian(100.0, 0.01), gaussian(100.0), gaussian(noise, rate)]
    assert epsilon(history, 1e-5) == math.inf
    if noise < 1e-9:
        assert epsilon_rdp(history, 1e-5) == math.inf


@pytest.mark.parametrize("delta", [0.0, 1e-13, -1e-5, 1.0, math.nan, math.inf])
def test_epsilon__refuses_a_delta_that_it_cannot_honour(delta: float) -> None:
    with pytest.raises(ValueError, match="delta="):
        epsilon([gaussian(1.0)], delta)


@settings(max_examples=examples(10, few=4), deadline=None, derandomize=True)
@given(
    noise=st.floats(0.01, 1e5),
    rate=st.one_of(st.floats(1e-9, 1), st.floats(0.999999, 1)),
    steps=st.integers(1, 10**6),
    delta=st.floats(1e-12, 0.5),
)
def test_epsilon__answers_everywhere_and_more_steps_never_cost_less(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    reported = epsilon([gaussian(noise, rate, steps)], delta)
    assert reported >= 0
    doubled = epsilon([gaussian(noise, rate, 2 * steps)], delta)
    # Both are upper bounds on different grids: equal up to the tightness that is promised.
    assert doubled >= reported / 1.02 - 1e-3
    unsampled = noise / math.sqrt(steps)
    bound = 0.5 / unsampled**2 + math.sqrt(-2 * math.log(delta)) / unsampled
    assert reported <= 1.02 * bound + 1e-3, "sampling must not cost more than no sampling"


@pytest.mark.slow
def test_epsilon__takes_less_than_a_fifth_of_a_second() -> None:
    history = [gaussian(1.01, 0.01, 1000), gaussian(2.01, 0.1, 5000)]
    epsilon(history[:1], 1e-5)
    start = time.process_time()
    epsilon(history, 1e-5)
    assert time.process_time() - start < 0.2
