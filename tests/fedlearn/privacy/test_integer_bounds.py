from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive, ndtr

from fedlearn.privacy import integer_bounds
from fedlearn.privacy.accounting import ORDERS, renyi_curve
from fedlearn.privacy.events import DiscreteSumEvent, GaussianEvent
from fedlearn.privacy.integer_bounds import (
    LOG_GAP_FAILURE,
    discrete_gaussian_rho,
    gaussian_gap,
    rounded_sensitivity,
    skellam_rdp,
)
from tests.effort import examples


def discrete_gaussian(stddev: int, reach: int) -> np.ndarray:
    values = np.arange(-reach, reach + 1)
    chances = np.exp(-(values**2) / (2 * stddev**2))
    return np.asarray(chances / chances.sum())


def rounded_gaussian(stddev: float, reach: int) -> np.ndarray:
    # From the lower tail only, where ndtr keeps its relative precision.
    half = ndtr((-np.arange(reach + 1) + 0.5) / stddev) - ndtr(
        (-np.arange(reach + 1) - 0.5) / stddev
    )
    return np.concatenate([half[:0:-1], half])


@pytest.mark.parametrize("stddev", [4, 5, 10, 40])
def test_gaussian_gap__rests_on_moments_that_hold(stddev: int) -> None:
    """The bound (theta + theta^2) / (144 s^4) of the proof, for both laws and up to 3 s^2."""
    p = discrete_gaussian(stddev, 30 * stddev)
    r = rounded_gaussian(stddev, 30 * stddev)
    seen = (p > 1e-290) & (r > 1e-290)
    p, r = p[seen], r[seen]
    y = np.log(r / p)
    for theta in np.geomspace(1e-2, 3 * stddev**2, 60):
        bound = (theta + theta**2) / (144 * stddev**4)
        assert np.log1p(np.sum(r * np.expm1(theta * y))) <= bound
        assert np.log1p(np.sum(p * np.expm1(-theta * y))) <= bound


def test_gaussian_gap__is_not_exceeded_by_real_noise() -> None:
    """Log-likelihood ratios of 2,000 vectors of 5,000 draws: it fails with chance e^-160."""
    rng = np.random.default_rng(1)
    p, r = discrete_gaussian(4, 60), rounded_gaussian(4, 60)
    y = np.log(r / p)
    gap = gaussian_gap(4, 1, 5000)
    for law, sign in ((p, -1), (r, 1)):
        counts = rng.multinomial(5000, law / law.sum(), size=2000)
        assert np.max(sign * counts @ y) < gap
    # And it is not far from what is seen: a bound that never binds would say nothing.
    assert gap < 50 * np.std(counts @ y)


def test_gaussian_gap__covers_sums_of_shares() -> None:
    """Five shares of stddev 4, convolved, against one discrete Gaussian of their variance."""
    single = discrete_gaussian(4, 60)
    whole = np.array([1.0])
    for _ in range(5):
        whole = np.convolve(whole, single)
    values = np.arange(-300, 301)
    other = np.exp(-(values**2) / 160)
    middle = slice(240, 361)
    ratio = np.log(whole[middle] / (other / other.sum())[middle])
    assert np.abs(ratio).max() < 1e-9
    assert gaussian_gap(4, 5, 100) < gaussian_gap(4, 1, 100)


@settings(max_examples=examples(60), deadline=None)
@given(
    dimension=st.sampled_from([1, 2, 16, 300]),
    distance=st.floats(0.001, 100),
    failure=st.sampled_from([1e-12, 2.0**-60]),
    sparse=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_rounded_sensitivity__bounds_neighbours_under_the_same_coins(
    dimension: int, distance: float, failure: float, sparse: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    one = rng.normal(size=dimension) * 50
    step = np.zeros(dimension) if sparse else rng.normal(size=dimension)
    step[0] += 1.0
    other = one + step * distance / np.linalg.norm(step)
    bound = rounded_sensitivity(distance, dimension, failure)
    for _ in range(20):
        coins = rng.random(dimension)
        moved = [np.floor(v) + (coins < v - np.floor(v)) for v in (one, other)]
        assert np.linalg.norm(moved[0] - moved[1]) <= bound + 1e-9


def test_rounded_sensitivity__fails_no_more_often_than_it_says() -> None:
    """At a failure chance of 1/2, of 4,000 roundings: above 2,300 has a chance of 1e-20."""
    rng = np.random.default_rng(0)
    bound = rounded_sensitivity(2.0, 64, 0.5)
    other = np.full(64, 2.0 / 8)
    failed = sum(np.linalg.norm(rng.random(64) < other) > bound for _ in range(4000))
    assert failed < 2300


@pytest.mark.parametrize(
    ("log_failure", "bound"), [(-0.5, math.sqrt(18)), (-2, math.sqrt(23)), (-200, 7)]
)
def test_rounded_sensitivity__of_worked_examples(log_failure: float, bound: float) -> None:
    """Distance 3 in 16 dimensions: 9 + 4 + sqrt(-2 ln failure) * (3 + 2), and at most 3 + 4."""
    assert rounded_sensitivity(3.0, 16, math.exp(log_failure)) == pytest.approx(bound)


TAU = 5.172318620381234e-4  # 10 exp(-pi^2): of two shares of stddev 1, where it still counts
TAU_OF_100 = 5.477886990601484e-4  # the sum of 99 exponentials, with 40 digits


@pytest.mark.parametrize(
    ("stddev", "shares", "draws", "gap"),
    [
        (4, 1, 1, 160 / 48 + 49 / 36_864),  # theta = 3 s^2
        (4, 1, 36_864 * 160, 160 + 2 * 160),  # theta = 1
        (4, 4, 16 * 36_864 * 160, 160 + 2 * 160),
        (1, 2, 576, 160 / 6 + 7 + 576 * TAU),
    ],
)
def test_gaussian_gap__of_worked_examples(stddev: int, shares: int, draws: int, gap: float) -> None:
    assert gaussian_gap(stddev, shares, draws) == pytest.approx(gap, rel=1e-12)


@pytest.mark.parametrize(
    ("sensitivity", "dimension", "shares", "twice"),
    [
        (3.0, 1, 2, 9 / 2 + TAU / 2),
        # One coordinate moves by one: L1 sensitivity 1.
        (1.0, 10_000, 2, 1 / 2 + 2 * TAU / math.sqrt(2) + 10_000 * TAU**2),
        # All sixteen move: L1 sensitivity 20.
        (5.0, 16, 100, 1 / 4 + 4 * TAU_OF_100 + 16 * TAU_OF_100**2),
    ],
)
def test_discrete_gaussian_rho__of_worked_examples(
    sensitivity: float, dimension: int, shares: int, twice: float
) -> None:
    """Theorem 1 of Kairouz et al. by hand, at a stddev of 1, where shares are far from Gaussian."""
    found = discrete_gaussian_rho(sensitivity, dimension, 1, shares)
    assert 2 * found == pytest.approx(twice, rel=1e-9)


@pytest.mark.parametrize(
    ("order", "sensitivity", "dimension", "variance", "divergence"),
    [
        (2, 2.0, 10**6, 10.0, 0.4 + 36 / 400),
        (3, 2.0, 10**6, 0.25, 24 + 24),
        (2, 12.0, 16, 100.0, 1.44 + 720 / 40_000),
    ],
)
def test_skellam_rdp__of_worked_examples(
    order: int, sensitivity: float, dimension: int, variance: float, divergence: float
) -> None:
    """Theorem 3.5 of Agarwal et al. by hand, with L1 sensitivities 4, 4 and 48."""
    found = skellam_rdp(np.array([order], float), sensitivity, dimension, variance)
    assert found == pytest.approx([divergence], rel=1e-12)


def exact_renyi(p: np.ndarray, q: np.ndarray, order: int) -> float:
    seen = p > 0
    return math.log(np.sum(p[seen] * np.exp((order - 1) * np.log(p[seen] / q[seen])))) / (order - 1)


@pytest.mark.parametrize("order", [2, 3, 8, 20])
@pytest.mark.parametrize("shift", [1, 5, 12])
def test_discrete_gaussian_rho__bounds_the_exact_divergence(order: int, shift: int) -> None:
    chances = discrete_gaussian(10, 260)
    exact = exact_renyi(chances[shift:-shift], chances[: -2 * shift], order)
    bound = order * discrete_gaussian_rho(shift, 1, 10, 1)
    assert exact <= bound * (1 + 1e-12)
    assert exact > 0.99 * bound


@pytest.mark.parametrize("order", [2, 3, 8, 20])
@pytest.mark.parametrize("shift", [1, 5, 12])
def test_skellam_rdp__bounds_the_exact_divergence(order: int, shift: int) -> None:
    chances = ive(np.abs(np.arange(-250, 251)), 400.0)
    exact = exact_renyi(chances[shift:-shift], chances[: -2 * shift], order)
    bound = float(skellam_rdp(np.array([order], float), shift, 1, 400.0)[0])
    assert 0.9 * bound - 1e-3 < exact <= bound


@pytest.mark.parametrize(("noise", "rate"), [(0.8, 0.01), (2.0, 0.2), (5.0, 1.0), (1.0, 0.5)])
def test_renyi_curve__equals_that_of_dp_accounting(noise: float, rate: float) -> None:
    event = GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=7)
    other = rdp_privacy_accountant.RdpAccountant(ORDERS.astype(int).tolist())
    step = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
    other.compose(step, 7)
    assert np.allclose(renyi_curve(event), other._rdp, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_renyi_curve__bounds_sampled_integer_noise(rate: float) -> None:
    """Against exact divergences of the mixture, in both directions."""
    chances = discrete_gaussian(10, 300)
    there, here = chances[:-10], chances[10:]
    mixture = (1 - rate) * here + rate * there
    event = DiscreteSumEvent(
        law="discrete_gaussian", unit="record", l2_sensitivity=10.0, share_stddev=10, shares=1,
        dimension=1, rounding_failure=0.0, sample_rate=rate, steps=1,
    )  # fmt: skip
    found = dict(zip(ORDERS, renyi_curve(event), strict=True))
    for order in (2, 3, 8, 16):
        assert exact_renyi(mixture, here, order) <= found[order] * (1 + 1e-9)
        assert exact_renyi(here, mixture, order) <= found[order] * (1 + 1e-9)


@pytest.mark.parametrize("law", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.9])
def test_renyi_curve__of_sampled_integer_noise_is_the_theorem(law: str, rate: float) -> None:
    """Zhu and Wang 2019, theorem 5, written down again in whole numbers and plain sums: from the
    third term on the factor 3, which only Gaussians do without."""
    event = DiscreteSumEvent(
        law=law, unit="record", l2_sensitivity=12.0, share_stddev=10, shares=2,
        dimension=16, rounding_failure=0.0, sample_rate=rate, steps=3,
    )  # fmt: skip
    whole = dict(zip(ORDERS, renyi_curve(replace(event, sample_rate=1.0, steps=1)), strict=True))
    found = dict(zip(ORDERS, renyi_curve(event), strict=True))
    for order in (2, 3, 4, 7, 16, 33):
        terms = [(1 - rate) ** (order - 1) * (order * rate - rate + 1)]
        for k in range(2, order + 1):
            chance = math.comb(order, k) * (1 - rate) ** (order - k) * rate**k
            terms.append((3 if k > 2 else 1) * chance * math.exp((k - 1) * whole[k]))
        wanted = 3 * math.log(math.fsum(terms)) / (order - 1)
        assert found[order] == pytest.approx(wanted, rel=1e-9)


def test_gap_failure__stays_small_beside_any_delta() -> None:
    assert math.log(1e-12 * 1e-4) > LOG_GAP_FAILURE + 100
    assert integer_bounds.gaussian_gap(18_000, 20, 10**7) < 1e-4
