"""Calibration: the least noise that keeps the promise, or a refusal that says what to do."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError
from fedlearn.privacy import calibration
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.events import GaussianEvent
from tests.effort import examples, thinned
from tests.fedlearn.privacy.oracle import gaussian_delta


def cost(noise: float, delta: float, rate: float, steps: int) -> float:
    event = GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)
    return epsilon([event], delta)


@pytest.mark.slow
@settings(max_examples=examples(6), deadline=None, derandomize=True)
@given(
    target=st.floats(0.1, 20),
    delta=st.sampled_from([1e-5, 1e-7]),
    rate=st.one_of(st.just(1.0), st.floats(0.005, 1)),
    steps=st.integers(1, 5000),
)
def test_noise_multiplier__is_the_least_in_four_digits_that_keeps_the_target(
    target: float, delta: float, rate: float, steps: int
) -> None:
    noise = noise_multiplier(target, delta, rate, steps)
    assert float(f"{noise:.4g}") == noise
    assert cost(noise, delta, rate, steps) <= target
    unit = 10.0 ** (math.floor(math.log10(noise)) - 3)
    assert cost(noise - unit, delta, rate, steps) > target


@pytest.mark.parametrize("near", [1.2, 1.2341, 1.234501, 1.2349, 1.3])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_smallest_in_digits__is_found_from_either_side(near: float, scale: float) -> None:
    """Where 1.2345 is too little by a hair; the root is looked for to fewer digits than that."""

    def excess(noise: float) -> float:
        return math.log(1.2345001 * scale / noise)

    found = calibration._smallest_in_digits(excess, near * scale)
    assert found == pytest.approx(1.235 * scale, rel=1e-12)


def test_root__is_near_the_least_noise_wherever_it_is() -> None:
    for least in (0.0101, 0.9, 1.0, 3.0, 99_000.0):
        near = calibration._root(lambda noise, least=least: math.log(least / noise))  # type: ignore[misc]
        assert near == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize(
    ("target", "rate", "steps", "published"),
    # Sigma by the PLD accountant at interval 1e-4, rounded to three digits.
    thinned(
        [(1.0, 0.01, 1000, 1.417), (8.0, 0.05, 1000, 1.192), (3.0, 0.2, 1000, 8.86)], several=True
    ),
)
def test_noise_multiplier__agrees_with_other_calibrations(
    target: float, rate: float, steps: int, published: float
) -> None:
    assert noise_multiplier(target, 1e-5, rate, steps) == pytest.approx(published, rel=0.002)


def test_noise_multiplier__without_sampling_follows_the_closed_form() -> None:
    noise = noise_multiplier(1.0, 1e-5, 1.0, 100)
    assert gaussian_delta(noise / 10, 1.0) <= 1e-5
    assert gaussian_delta(noise / 10 * 0.995, 1.0) > 1e-5


def test_noise_multiplier__is_for_all_steps_and_not_for_one_round() -> None:
    run, one_round = (noise_multiplier(3.0, 1e-5, 0.1, steps) for steps in (50, 10))
    assert run > 1.3 * one_round
    assert cost(one_round, 1e-5, 0.1, 50) > 3.0


def test_noise_multiplier__refuses_what_no_noise_can_give() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.epsilon=1e-06: cannot be met.*fewer rounds"):
        noise_multiplier(1e-6, 1e-12, 1.0, 1000)


def test_noise_multiplier__refuses_a_target_that_protects_nobody() -> None:
    with pytest.raises(ConfigError, match="is no protection"):
        noise_multiplier(1e6, 1e-5, 1.0, 1)


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_noise_multiplier__refuses_a_target_that_is_none(target: float) -> None:
    with pytest.raises(ValueError, match="epsilon="):
        noise_multiplier(target, 1e-5, 1.0, 1)


@pytest.mark.slow
def test_noise_multiplier__takes_less_than_two_seconds() -> None:
    start = time.process_time()
    noise_multiplier(2.9, 1e-5, 0.011, 4321)
    assert time.process_time() - start < 2
