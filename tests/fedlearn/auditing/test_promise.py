"""What a promise leaves to an attacker, against closed forms of the Gaussian mechanism.

The verdict: exact where canaries are independent, silent where a promise is kept.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from fedlearn.auditing.game import Game
from fedlearn.auditing.gaussian import mu_of
from fedlearn.auditing.promise import FALSE_ALARMS, Promise, judge, promise_of
from fedlearn.mechanisms import RecordPrivacy, derive
from tests.fedlearn.auditing.games import DELTA, gaussian_game

NORMAL = NormalDist()


def whole(epsilon: float) -> Promise:
    """Every record in every step: one Gaussian mechanism, whose curve is known."""
    config = RecordPrivacy(epsilon=epsilon, delta=1e-5, clip_norm=1.0)
    plan = derive(config, sample_rate=1.0, steps_per_round=1, rounds=20)
    assert plan is not None
    promise = promise_of(plan)
    assert promise is not None
    return promise


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 8.0])
def test_promise__is_never_below_the_gaussian_curve_and_near_it(epsilon: float) -> None:
    promise = whole(epsilon)
    mu = mu_of(promise.epsilon, promise.delta)
    distance = 2 * NORMAL.cdf(mu / 2) - 1
    assert distance - 1e-3 <= promise.advantage <= 1.01 * distance
    for rate in (0.001, 0.01, 0.1, 0.5):
        exact = 1 - NORMAL.cdf(NORMAL.inv_cdf(1 - rate) - mu)
        assert exact - 1e-3 <= promise.found_at(rate) <= 2 * exact
    exact = NORMAL.cdf(mu / 2**0.5)
    assert exact - 1e-3 <= promise.area() <= exact + 0.03


def test_promise__of_one_pair_is_its_two_lines() -> None:
    one = Promise(epsilon=1.0, delta=0.0, points=((1.0, 0.0),))
    e = 2.718281828459045
    assert one.advantage == pytest.approx((e - 1) / (e + 1))
    assert one.found_at(0.01) == pytest.approx(0.01 * e)
    assert one.found_at(0.9) == pytest.approx(1 - 0.1 / e)
    meet = 1 / (1 + e)
    assert one.area() == pytest.approx(meet**2 * e / 2 + (1 - meet) * (1 + e * meet) / 2, abs=2e-4)


def test_promise__is_not_made_without_noise() -> None:
    config = RecordPrivacy(noise_multiplier=0.0, delta=1e-5, clip_norm=1.0)
    plan = derive(config, sample_rate=1.0, steps_per_round=1, rounds=1)
    assert plan is not None
    assert promise_of(plan) is None


# --- the verdict -----------------------------------------------------------------------


def gaussian_promise(epsilon: float) -> Promise:
    """Of a Gaussian mechanism; at the last point, delta is its total variation distance."""
    distance = 2 * NormalDist().cdf(mu_of(epsilon, DELTA) / 2) - 1
    return Promise(epsilon=epsilon, delta=DELTA, points=((epsilon, DELTA), (0.0, distance)))


def double_signal(epsilon: float, seed: int) -> Game:
    """What an attacker sees of a mechanism whose noise was halved."""
    rng = np.random.default_rng(seed)
    inside = rng.random(1000) < 0.5
    mu = 2 * mu_of(epsilon, DELTA)
    scores = rng.normal(size=1000) + mu * inside - mu / 2
    return Game(scores=scores, inside=inside, threshold=0.0)


def test_judge__p_value_is_an_exact_binomial_tail() -> None:
    inside = np.arange(50) % 2 == 0
    right = np.arange(50) < 40
    scores = np.where(inside == right, 1.0, -1.0)
    game = Game(scores=scores, inside=inside, threshold=0.0)
    held = Promise(epsilon=1.0, delta=DELTA, points=((0.0, 0.2),))
    tail = sum(math.comb(50, k) * 0.6**k * 0.4 ** (50 - k) for k in range(40, 51))
    assert judge(game, held, independent=True).p_value == pytest.approx(tail)


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 8.0])
def test_judge__keeps_silent_about_promises_that_are_kept(epsilon: float) -> None:
    """30 runs that spend all of their promise; one is accused with chance 1e-3 each."""
    games = [gaussian_game(epsilon, 1000, seed) for seed in range(30)]
    verdicts = [judge(game, gaussian_promise(epsilon), independent=True) for game in games]
    assert {verdict.text for verdict in verdicts} == {"consistent with the promise"}
    free = judge(games[0], gaussian_promise(epsilon), independent=False)
    assert free.text == "consistent with the promise"


@pytest.mark.parametrize("epsilon", [4.0, 8.0])
def test_judge__finds_halved_noise(epsilon: float) -> None:
    """At 1000 canaries the p-value is below 1e-10 in all but one of a million runs."""
    for seed in range(10):
        verdict = judge(double_signal(epsilon, seed), gaussian_promise(epsilon), independent=True)
        assert verdict.text == "PROMISE BROKEN"
        assert verdict.p_value is not None
        assert verdict.p_value < 1e-8 < FALSE_ALARMS


def test_judge__finds_a_promise_that_is_far_off_without_assuming_anything() -> None:
    game = gaussian_game(20.0, 1000, 0)
    assert judge(game, gaussian_promise(1.0), independent=False).text == "PROMISE BROKEN"


def test_judge__has_nothing_to_say_without_a_promise() -> None:
    verdict = judge(gaussian_game(4.0, 50, 0), None, independent=True)
    assert (verdict.text, verdict.p_value) == ("no promise was made", None)


def test_judge__takes_a_promise_of_nothing_at_its_word() -> None:
    """An advantage of one: whatever is guessed, nothing was promised that could break."""
    everything = replace(gaussian_promise(8.0), points=((1e6, 0.0),))
    inside = np.arange(40) % 2 == 0
    game = Game(scores=inside.astype(float), inside=inside, threshold=0.5)
    assert judge(game, everything, independent=True).p_value == 1.0
