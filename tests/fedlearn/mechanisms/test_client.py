from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import derive, problems
from fedlearn.mechanisms.client import (
    ClientPlan,
    ClientPrivacy,
    ClientSum,
    clip_own,
    poisson_cohort,
    room_to_round,
    smallest_clip_norm,
)
from fedlearn.privacy.noise import SeededNoise


def planned(config: ClientPrivacy, rounds: int) -> ClientPlan:
    return config.plan(sample_rate=1.0, steps_per_round=1, rounds=rounds, population=None)


def flat(noise: float = 1.0) -> ClientPlan:
    return planned(ClientPrivacy(noise_multiplier=noise), rounds=10)


def adaptive(noise: float = 1.0, quantile: float = 0.5) -> ClientPlan:
    config = ClientPrivacy(
        noise_multiplier=noise, clipping="adaptive", target_quantile=quantile, clip_norm=0.1
    )
    return planned(config, rounds=100)


def test_client_sum__is_the_mean_of_clipped_updates() -> None:
    total = ClientSum(flat(0.0), 2, 1.0)
    for update in ([0.3, 0.4], [30.0, 40.0], [0.0, 0.0]):
        total.add(np.array(update))
    released = total.release(expected_clients=4.0, noise=SeededNoise(b""))
    assert np.allclose(released.mean, np.array([0.9, 1.2]) / 4, rtol=1e-6)
    assert released.mean.dtype == np.float32
    assert released.next_clip_norm == 1.0


@pytest.mark.parametrize("size", [2, 3, 40])
def test_client_sum__moves_by_at_most_the_norm_in_exact_numbers(size: int) -> None:
    """Squares of fractions, which do not round: of 210 updates none is a last bit too long."""
    rng = np.random.default_rng(size)
    for norm in (1.0, 0.3, 1e-3):
        for _ in range(70):
            total = ClientSum(flat(), size, norm)
            total.add(rng.normal(size=size) * 10 ** rng.uniform(2, 6))
            length = sum(Fraction(float(value)) ** 2 for value in total.total)
            assert Fraction(norm) ** 2 * (1 - Fraction(1, 10**6)) < length <= Fraction(norm) ** 2


def test_adaptive_clip__splits_the_noise_as_theorem_1_says() -> None:
    """1/z^2 = 1/z_update^2 + 1/(2 stddev_of_count)^2: one event pays for both."""
    plan = adaptive(noise=3.0)
    parts = plan.update_noise_multiplier**-2 + (2 * plan.count_noise_stddev) ** -2
    assert parts == pytest.approx(3.0**-2)
    assert plan.round_event.noise_multiplier == 3.0
    assert flat(3.0).update_noise_multiplier == 3.0


def test_adaptive_clip__moves_each_count_by_a_half() -> None:
    total = ClientSum(adaptive(), 3, 1.0)
    for norm, count in ((0.9, 0.5), (1.1, 0.0), (50.0, -0.5)):
        total.add(np.array([norm, 0, 0]))
        assert total.centred_count == count


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_adaptive_clip__finds_the_quantile_of_the_norms(quantile: float) -> None:
    """From 30 times too small, with noise, within 15 percent of the true quantile."""
    plan, norms = adaptive(1.0, quantile), np.linspace(1.0, 5.0, 200)
    clip_norm, seen = plan.clip_norm, []
    for number in range(160):
        total = ClientSum(plan, 2, clip_norm)
        for norm in norms:
            total.add(np.array([norm, 0.0]))
        noise = SeededNoise(bytes([number]))
        clip_norm = total.release(expected_clients=200.0, noise=noise).next_clip_norm
        seen.append(clip_norm)
    assert np.mean(seen[-20:]) == pytest.approx(np.quantile(norms, quantile), rel=0.15)


def test_adaptive_clip__is_not_driven_by_noise_alone() -> None:
    """With one client the noisy share leaves [0, 1]; the norm still moves by a bounded step."""
    plan = adaptive(noise=1000.0)
    for number in range(30):
        total = ClientSum(plan, 1, 1.0)
        total.add(np.array([0.5]))
        after = total.release(expected_clients=1.0, noise=SeededNoise(bytes([number])))
        assert math.exp(-0.1) <= after.next_clip_norm * (1 + 1e-12) <= math.exp(0.1) * (1 + 1e-9)


@pytest.mark.parametrize("size", [1, 23, 10_000])
def test_smallest_clip_norm__leaves_half_of_itself_after_rounding(size: int) -> None:
    norm = smallest_clip_norm(size=size, resolution=2.0**-12)
    room = room_to_round(norm, size=size, resolution=2.0**-12)
    assert room == pytest.approx(norm / 2, rel=1e-5)


@pytest.mark.parametrize("bad", [np.zeros(3), np.array([1.0, math.nan]), np.array([math.inf, 0.0])])
def test_client_sum__refuses_an_update_and_is_not_moved_by_it(bad: np.ndarray) -> None:
    total = ClientSum(flat(), 2, 1.0)
    with pytest.raises(ValueError, match=r"shape|NaN"):
        total.add(bad)
    assert np.array_equal(total.total, np.zeros(2))
    assert total.centred_count == 0.0


def test_client_sum__refuses_norms_and_counts_that_are_none() -> None:
    for norm in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="clip_norm"):
            ClientSum(flat(), 2, norm)
    with pytest.raises(ValueError, match="expected_clients"):
        ClientSum(flat(), 2, 1.0).release(expected_clients=0.0, noise=SeededNoise(b""))


def test_plan__of_an_outsider_needs_less_noise() -> None:
    config = ClientPrivacy(epsilon=2.0, client_sample_rate=0.05)
    inside = derive(config, sample_rate=0.5, steps_per_round=3, rounds=100)
    sampled = ClientPrivacy(epsilon=2.0, client_sample_rate=0.05, adversary="outsider")
    outside = derive(sampled, sample_rate=0.5, steps_per_round=3, rounds=100)
    assert inside is not None
    assert outside is not None
    assert outside.noise_multiplier < 0.3 * inside.noise_multiplier
    assert inside.epsilon <= 2.0
    assert outside.epsilon <= 2.0
    assert inside.sample_rate == 0.05


def test_problems__refuse_an_outsider_without_sampling() -> None:
    config = ClientPrivacy(epsilon=2.0, adversary="outsider")
    assert "privacy.adversary=outsider" in problems(config)[0]
    with pytest.raises(ConfigError):
        derive(config, sample_rate=1.0, steps_per_round=1, rounds=1)


def test_problems__ask_for_one_of_epsilon_and_noise() -> None:
    assert "give either" in problems(ClientPrivacy())[0]
    assert "Leave out" in problems(ClientPrivacy(epsilon=1.0, noise_multiplier=1.0))[0]


def test_poisson_cohort__flips_a_coin_per_client() -> None:
    """Sizes of 400 cohorts of 100 at rate 0.3: mean and variance within 6 deviations."""
    clients = [str(number) for number in range(100)]
    noise = SeededNoise(b"cohorts")
    sizes = [len(poisson_cohort(clients, 0.3, noise)) for _ in range(400)]
    assert np.mean(sizes) == pytest.approx(30, abs=6 * math.sqrt(21 / 400))
    assert np.var(sizes) == pytest.approx(21, abs=6 * 21 * math.sqrt(2 / 400))
    assert poisson_cohort(clients, 1.0, noise) == clients


@pytest.mark.parametrize("size", [1, 28, 10_000])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 1e6])
@pytest.mark.parametrize("resolution", [2.0**-12, 2.0**-30])
def test_clip_own__stays_within_the_norm_after_rounding_up_or_down(
    size: int, scale: float, resolution: float
) -> None:
    norm = 0.1  # whose nearest float32 is above it
    update = scale * np.random.default_rng(size).normal(size=size).astype(np.float32)
    own = clip_own(update, norm, resolution=resolution)
    steps = np.abs(own.update.astype(np.float64)) / resolution
    assert np.linalg.norm(np.ceil(steps)) * resolution <= norm
    assert own.within == (np.linalg.norm(update.astype(np.float64)) <= norm)


def test_clip_own__refuses_steps_that_are_longer_than_the_norm() -> None:
    with pytest.raises(ConfigError, match=r"Lower secagg\.resolution"):
        clip_own(np.zeros(100, np.float32), 1.0, resolution=0.1)


def test_sum__of_own_clips_is_the_sum_of_those_clipped_here() -> None:
    updates = [np.array([3.0, 4.0]), np.array([0.1, 0.2])]
    here = ClientSum(flat(), 2, 1.0)
    unseen = ClientSum(flat(), 2, 1.0)
    own = [clip_own(update, 1.0, resolution=1e-9) for update in updates]
    for update in updates:
        here.add(update)
    total = np.sum([one.update for one in own], axis=0, dtype=np.float64)
    unseen.add_sum(total, clients=2, within=sum(one.within for one in own))
    np.testing.assert_allclose(unseen.total, here.total, atol=1e-5)
    assert unseen.centred_count == here.centred_count == 0.0
