"""What a promise leaves to an attacker, against closed forms of the Gaussian mechanism."""

from __future__ import annotations

from statistics import NormalDist

import pytest

from fedlearn.auditing.gaussian import mu_of
from fedlearn.auditing.promise import Promise, promise_of
from fedlearn.mechanisms import RecordPrivacy, derive

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
