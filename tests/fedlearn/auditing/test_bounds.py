"""Bounds against published values, slow oracles, and games whose truth is known."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from fedlearn.auditing.bounds import (
    bounds_of,
    f_dp_bound,
    largest_rate,
    moments,
    one_run_bound,
    p_value,
    refutes,
)
from fedlearn.auditing.game import Game
from fedlearn.auditing.gaussian import delta_of, epsilon_of, mu_of
from tests.fedlearn.auditing.games import DELTA, gaussian_game

# (canaries, guesses, right) -> bounds at delta 1e-5, alpha .05, equal to those of jax_privacy 2.0.
GOLDEN = [
    ((1000, 100, 100), 3.4654, 5.5490),
    ((1000, 500, 450), 1.9460, 3.3877),
    ((1000, 1000, 900), 2.0206, 3.7793),
    ((400, 200, 190), 2.3962, 4.4581),
    ((2000, 300, 299), 4.1053, 6.7139),
]


@pytest.mark.parametrize(("counts", "one", "curve"), GOLDEN)
def test_bounds__reproduce_published_values_to_four_digits(
    counts: tuple[int, int, int], one: float, curve: float
) -> None:
    assert one_run_bound(*counts, 1e-5, 0.05) == pytest.approx(one, abs=5e-5)
    assert f_dp_bound(*counts, 1e-5, 0.05) == pytest.approx(curve, abs=5e-5)


@pytest.mark.parametrize(
    ("canaries", "ceiling"),
    [(50, 2.78), (100, 3.49), (200, 4.19), (500, 5.10), (1000, 5.78), (2000, 6.45), (5000, 7.28)],
)
def test_one_run__has_the_known_ceiling(canaries: int, ceiling: float) -> None:
    found = one_run_bound(canaries, canaries, canaries, 1e-5, 0.05)
    assert found == pytest.approx(ceiling, abs=0.005)
    log_chance = math.log(0.05) / canaries  # of guessing all rightly, at delta = 0
    closed = log_chance - math.log(-math.expm1(log_chance))
    assert one_run_bound(canaries, canaries, canaries, 0.0, 0.05) == pytest.approx(closed)
    assert found <= closed


def exact_tail(guesses: int, at_least: int, chance: Fraction) -> Fraction:
    return sum(
        (
            math.comb(guesses, k) * chance**k * (1 - chance) ** (guesses - k)
            for k in range(max(0, at_least), guesses + 1)
        ),
        start=Fraction(0),
    )


@pytest.mark.parametrize("counts", [(12, 12, 11), (30, 20, 15), (30, 20, 20), (40, 9, 1)])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.5])
@pytest.mark.parametrize("delta", [0.0, 1e-3])
def test_one_run__p_value_is_that_of_a_loop_in_exact_fractions(
    counts: tuple[int, int, int], epsilon: float, delta: float
) -> None:
    canaries, guesses, correct = counts
    chance = Fraction(1 / (1 + math.exp(-epsilon)))
    tail = exact_tail(guesses, correct, chance)
    slack = max(
        (exact_tail(guesses, correct - i, chance) - tail) / i for i in range(1, correct + 1)
    )
    expected = min(1.0, float(tail) + 2 * canaries * delta * float(slack))
    assert p_value(*counts, epsilon, delta) == pytest.approx(expected, rel=1e-9)


def refutes_slowly(canaries: int, guesses: int, correct: int, mu: float, alpha: float) -> bool:
    normal = NormalDist()
    r, h = alpha * correct / canaries, alpha * (guesses - correct) / canaries
    for i in reversed(range(correct)):
        grown = max(h, normal.cdf(normal.inv_cdf(r) - mu)) if r < 1 else 1.0
        r, h = min(1.0, r + i / (guesses - i) * (grown - h)), grown
    return r + h > guesses / canaries


@pytest.mark.parametrize("counts", [(100, 60, 45), (300, 300, 200), (50, 50, 50)])
def test_f_dp__refutes_what_a_plain_loop_refutes(counts: tuple[int, int, int]) -> None:
    answers = [
        (refutes(*counts, mu, 0.05), refutes_slowly(*counts, mu, 0.05))
        for mu in np.linspace(0.05, 3, 40)
    ]
    assert all(fast == slow for fast, slow in answers)
    assert {True, False} == {fast for fast, _ in answers}


@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_gaussian__delta_is_the_integral_of_the_hockey_stick(mu: float, epsilon: float) -> None:
    one, other = NormalDist(mu), NormalDist()
    start = epsilon / mu + mu / 2  # where the densities are in the ratio e^epsilon
    area, _ = quad(
        lambda x: one.pdf(x) - math.exp(epsilon) * other.pdf(x), start, start + 30, limit=200
    )
    assert delta_of(epsilon, mu) == pytest.approx(area, rel=1e-6, abs=1e-12)


def test_gaussian__epsilon_and_mu_are_inverse_of_each_other() -> None:
    for epsilon in (0.1, 1.0, 8.0, 50.0, 1000.0):
        assert epsilon_of(mu_of(epsilon, DELTA), DELTA) == pytest.approx(epsilon, rel=1e-6)
    assert epsilon_of(0.0, DELTA) == epsilon_of(-1.0, DELTA) == 0.0
    assert epsilon_of(1e5, DELTA) == math.inf


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 50), (499, 500)])
def test_largest_rate__is_where_so_few_hits_become_unlikely(hits: int, trials: int) -> None:
    rate = largest_rate(hits, trials, 0.01)
    assert binom.cdf(hits, trials, rate) == pytest.approx(0.01, rel=1e-9)
    assert largest_rate(trials, trials, 0.01) == largest_rate(0, 0, 0.01) == 1.0


def test_bounds__of_pure_noise_are_zero_for_every_estimator() -> None:
    """The Gaussian bound is above zero in one of twenty games of noise; not in these."""
    for seed in (1, 2, 3):
        game = gaussian_game(0.0, 1000, seed)
        bounds = bounds_of(game, delta=DELTA, alpha=0.05, independent=True, normal=True)
        assert {b.estimator: b.lower_bound for b in bounds} == dict.fromkeys(
            ("one_run", "f_dp", "clopper_pearson", "gaussian"), 0.0
        )


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 8.0])
def test_bounds__stay_below_the_truth_and_come_near_it(epsilon: float) -> None:
    """Bounds at confidence .95 and below; the seeds are fixed, so the outcome is too."""
    games = [gaussian_game(epsilon, 1000, seed) for seed in range(12)]
    found = [bounds_of(g, delta=DELTA, alpha=0.05, independent=True, normal=True) for g in games]
    for free in range(3):
        assert all(b[free].lower_bound <= epsilon for b in found)
    gaussian = [b[3] for b in found]
    over = sum(b.lower_bound > epsilon for b in gaussian if b.lower_bound is not None)
    assert over <= 4  # more with chance below 3e-4 at a rate of .05
    estimates = [b.estimate for b in gaussian if b.estimate is not None]
    assert np.mean(estimates) == pytest.approx(epsilon, rel=0.15)


def test_bounds__of_separated_canaries_are_their_ceilings() -> None:
    inside = np.arange(500) % 2 == 0
    game = Game(scores=inside + np.linspace(0, 1e-3, 500), inside=inside, threshold=0.5)
    bounds = bounds_of(game, delta=DELTA, alpha=0.05, independent=True, normal=True)
    for bound in bounds[:3]:
        assert bound.lower_bound == bound.ceiling
        assert bound.ceiling is not None
        assert bound.ceiling > 4
    assert bounds[3].ceiling is None
    still = Game(scores=inside.astype(float), inside=inside, threshold=0.5)
    assert moments(still, DELTA, 0.05).lower_bound == math.inf


def test_moments__are_zero_without_two_sides_or_in_the_wrong_order() -> None:
    scores = np.array([3.0, 2.0, 1.0, 0.0])
    for inside in ([True] * 4, [False] * 4, [False, False, True, True]):
        game = Game(scores=scores, inside=np.array(inside), threshold=1.5)
        assert moments(game, DELTA, 0.05).estimate == 0.0


def test_bounds__for_dependent_canaries_leave_out_what_needs_independence() -> None:
    bounds = bounds_of(
        gaussian_game(8.0, 200, 0), delta=DELTA, alpha=0.05, independent=False, normal=True
    )
    assert [bound.estimator for bound in bounds] == ["one_run", "f_dp"]


def test_bounds__without_noise_take_nothing_for_normal() -> None:
    bounds = bounds_of(
        gaussian_game(8.0, 200, 0), delta=DELTA, alpha=0.05, independent=True, normal=False
    )
    assert [bound.estimator for bound in bounds] == ["one_run", "f_dp", "clopper_pearson"]
