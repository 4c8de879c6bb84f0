"""Histories of unlike mechanisms, other units, and adversaries who know more."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import rdp_privacy_accountant

from fedlearn.core.errors import DataError
from fedlearn.privacy.accounting import (
    ORDERS,
    epsilon,
    epsilon_rdp,
    renyi_curve,
    renyi_epsilon,
)
from fedlearn.privacy.discrete import draw_error
from fedlearn.privacy.events import (
    ClientGaussianEvent,
    DiscreteSumEvent,
    Event,
    GaussianEvent,
    from_json,
    merged,
    to_json,
)
from fedlearn.privacy.integer_bounds import gaussian_gap
from tests.fedlearn.privacy import tight

DELTA = 1e-5
GAUSSIAN = GaussianEvent(noise_multiplier=6.0, sample_rate=1.0, steps=5)
SAMPLED = GaussianEvent(noise_multiplier=1.1, sample_rate=0.02, steps=100)
DISCRETE = DiscreteSumEvent(
    law="discrete_gaussian", unit="record", l2_sensitivity=1000.0, share_stddev=2000, shares=9,
    dimension=10_000, rounding_failure=2.0**-60, sample_rate=1.0, steps=5,
)  # fmt: skip
SKELLAM = replace(DISCRETE, law="skellam")
CLIENT = ClientGaussianEvent(noise_multiplier=8.0, sample_rate=0.1, steps=10)


def as_gaussian(event: GaussianEvent | DiscreteSumEvent) -> GaussianEvent:
    return GaussianEvent(
        noise_multiplier=event.noise_multiplier, sample_rate=event.sample_rate, steps=event.steps
    )


@pytest.mark.parametrize(
    "history",
    [
        (GAUSSIAN, DISCRETE),
        (SKELLAM, DISCRETE),
        (GAUSSIAN, SKELLAM),
        (GAUSSIAN, SAMPLED, DISCRETE, SKELLAM),
    ],
)
def test_epsilon__of_unlike_mechanisms_is_never_too_low(
    history: tuple[GaussianEvent | DiscreteSumEvent, ...],
) -> None:
    """Fine integer noise is Gaussian to many digits, so the Gaussian history bounds from below."""
    found = epsilon(history, DELTA)
    assert found >= epsilon(map(as_gaussian, history), DELTA) * (1 - 1e-4)
    assert found <= epsilon_rdp(history, DELTA)
    whole = [event for event in history if event.sample_rate == 1]
    noise = 1 / math.sqrt(sum(event.steps / event.noise_multiplier**2 for event in whole))
    assert tight.gaussian_delta(noise, found) <= DELTA


@pytest.mark.slow
def test_epsilon__takes_the_better_of_two_bounds_for_a_mixed_history() -> None:
    """A long sampled run beside one small Skellam sum: splitting delta beats Renyi for all."""
    long = GaussianEvent(noise_multiplier=0.6, sample_rate=0.002, steps=2000)
    little = replace(SKELLAM, steps=1, share_stddev=60_000)
    found = epsilon([long, little], DELTA)
    assert found < 0.9 * epsilon_rdp([long, little], DELTA)
    assert found > epsilon([long], DELTA)


def test_epsilon__never_falls_when_something_is_added() -> None:
    history: list[Event] = []
    before = 0.0
    for event in (SAMPLED, SKELLAM, GAUSSIAN, DISCRETE, CLIENT, SKELLAM):
        history.append(event)
        now = epsilon(history, DELTA)
        assert now > before
        assert now == epsilon(history[::-1], DELTA)
        before = now


def test_epsilon__of_few_bits_counts_the_distance_to_a_gaussian() -> None:
    coarse = replace(DISCRETE, share_stddev=8, l2_sensitivity=4.0, dimension=10**6)
    assert epsilon([coarse], DELTA) > 1.02 * epsilon([as_gaussian(coarse)], DELTA)
    assert epsilon([coarse], DELTA) <= epsilon_rdp([coarse], DELTA)


@pytest.mark.parametrize("stddev", [100, 200, 400])
def test_epsilon__counts_the_distance_to_a_gaussian_in_both_directions(stddev: int) -> None:
    """Once from the real noise to the Gaussian, and once back (`gaussian_gap`): not half of it."""
    coarse = replace(
        DISCRETE, share_stddev=stddev, l2_sensitivity=3.0 * stddev, dimension=100_000,
        sample_rate=0.02, steps=200,
    )  # fmt: skip
    gap = gaussian_gap(stddev, coarse.shares, coarse.dimension * coarse.steps)
    plain, found = epsilon([as_gaussian(coarse)], DELTA), epsilon([coarse], DELTA)
    assert found < epsilon_rdp([coarse], DELTA), "Renyi divergences are closer: this shows nothing"
    assert plain + 2 * gap <= found <= plain + 2.5 * gap


def test_epsilon__of_tabled_noise_spends_delta_once_and_all_of_it() -> None:
    """What Renyi divergences take and what the tables may be off are together at most delta.

    The most steps for which there is an answer, where the two are nearest to delta.
    """
    one = replace(SKELLAM, rounding_failure=0.0, shares=2, steps=1)

    def answer(steps: int) -> float:
        return epsilon([replace(one, steps=steps)], DELTA)

    low, high = 1, 1000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if answer(middle) < math.inf else (low, middle)
    found = answer(low)
    # Canonne, Kamath, Steinke 2020, proposition 12, solved for delta.
    logs = np.log1p(-1 / ORDERS) + low * renyi_curve(one) - found
    divergences = np.exp(np.min((ORDERS - 1) * logs - np.log(ORDERS)))
    draws = low * one.dimension * one.shares
    tables = draws * draw_error(one.share_stddev) * (1 + math.exp(found))
    assert 0.9999 * DELTA < divergences + tables <= DELTA * (1 + 1e-9)


@pytest.mark.parametrize(("stddev", "dimension"), [(40, 10**5), (20, 10**4), (20, 10**3)])
def test_epsilon__of_few_bits_spends_delta_once(stddev: int, dimension: int) -> None:
    """Its Gaussian history has e^gap less of delta (`gaussian_gap`), by the closed form."""
    coarse = replace(
        DISCRETE, share_stddev=stddev, l2_sensitivity=2.0 * stddev, dimension=dimension, steps=20
    )
    found, gap = epsilon([coarse], DELTA), gaussian_gap(stddev, 9, 20 * dimension)
    assert found < epsilon_rdp([coarse], DELTA), "Renyi divergences are closer: this shows nothing"
    # Beside it a ten-thousandth for the chance that tables or the bound fail.
    inner = DELTA * (1 - 1e-4) * math.exp(-gap)
    assert found - 2 * gap == pytest.approx(epsilon([as_gaussian(coarse)], inner), rel=1e-8)
    noise = coarse.noise_multiplier / math.sqrt(20)
    assert 0.98 * DELTA < math.exp(gap) * tight.gaussian_delta(noise, found - 2 * gap) <= DELTA


@pytest.mark.parametrize("much", [GAUSSIAN, SAMPLED, SKELLAM, replace(SKELLAM, sample_rate=0.1)])
def test_epsilon__of_a_history_is_not_below_that_of_its_parts(much: Event) -> None:
    """Nor much above, where the other part is next to nothing: delta is shared, not counted twice.

    Half of it, or a tenth, would be too dear for one of the two.
    """
    little = GaussianEvent(noise_multiplier=1e4, sample_rate=1.0, steps=1)
    if isinstance(much, GaussianEvent):
        little = replace(
            SKELLAM, rounding_failure=0.0, share_stddev=60_000, l2_sensitivity=1.0, dimension=1
        )  # type: ignore[assignment]
    alone, found = epsilon([much], DELTA), epsilon([much, little], DELTA)
    assert alone < found < 1.01 * alone
    shares = (0.005, 0.01, 0.1, 0.5, 0.9, 0.99, 0.995)
    best = min(
        epsilon([much], share * DELTA) + epsilon([little], (1 - share) * DELTA) for share in shares
    )
    assert found >= min(best, epsilon_rdp([much, little], DELTA)) * (1 - 1e-9)


@pytest.mark.parametrize("delta", [1e-12, 1.9e-12, 3e-12])
def test_epsilon__of_a_mixed_history_answers_at_the_smallest_deltas(delta: float) -> None:
    """Where no part of delta is large enough for a loss distribution."""
    history = [GAUSSIAN, replace(SKELLAM, rounding_failure=0.0)]
    assert epsilon(history[:1], delta) < epsilon(history, delta) <= epsilon_rdp(history, delta)


@pytest.mark.parametrize("event", [GAUSSIAN, SAMPLED])
def test_epsilon_rdp__is_that_of_dp_accounting(event: GaussianEvent) -> None:
    """But for a ten-thousandth of delta, which is kept for what tables may be off."""
    theirs = rdp_privacy_accountant.RdpAccountant(ORDERS.astype(int).tolist())
    step = dp_event.GaussianDpEvent(event.noise_multiplier)
    theirs.compose(dp_event.PoissonSampledDpEvent(event.sample_rate, step), event.steps)
    assert theirs.get_epsilon(DELTA) <= epsilon_rdp([event], DELTA)
    assert epsilon_rdp([event], DELTA) <= theirs.get_epsilon(DELTA * 0.9998)


@pytest.mark.parametrize("delta", [-1e-5, 0.0, 1.0, math.nan])
def test_epsilon_rdp__refuses_a_delta_that_is_none(delta: float) -> None:
    with pytest.raises(ValueError, match="delta="):
        epsilon_rdp([GAUSSIAN], delta)


def test_epsilon__adds_the_chance_that_rounding_fails() -> None:
    assert epsilon([replace(DISCRETE, rounding_failure=1e-6)], DELTA) > epsilon([DISCRETE], DELTA)
    for law in (DISCRETE, SKELLAM):
        assert epsilon([replace(law, rounding_failure=3e-6)], DELTA) == math.inf
        assert epsilon([replace(law, rounding_failure=DELTA, steps=1)], DELTA) == math.inf


def test_epsilon__counts_client_sampling_only_for_outsiders() -> None:
    inside = epsilon([CLIENT], DELTA, unit="client")
    outside = epsilon([CLIENT], DELTA, unit="client", cohort_known=False)
    assert inside == epsilon([replace(CLIENT, sample_rate=1.0)], DELTA, unit="client")
    plain = GaussianEvent(noise_multiplier=8.0, sample_rate=0.1, steps=10)
    assert outside == epsilon([plain], DELTA)
    assert outside < 0.3 * inside


def test_epsilon__of_a_record_under_client_level_noise_has_twice_the_sensitivity() -> None:
    half = GaussianEvent(noise_multiplier=4.0, sample_rate=1.0, steps=10)
    assert epsilon([CLIENT], DELTA) == epsilon([half], DELTA)
    assert epsilon([CLIENT], DELTA, cohort_known=False) == epsilon([half], DELTA)
    shared = replace(DISCRETE, unit="client")
    doubled = replace(DISCRETE, l2_sensitivity=2000.0)
    assert epsilon([shared], DELTA) == epsilon([doubled], DELTA)
    for law in ("discrete_gaussian", "skellam"):
        sampled = replace(shared, law=law, sample_rate=0.1)
        assert epsilon([sampled], DELTA) == epsilon([replace(doubled, law=law)], DELTA)


def test_epsilon__promises_nothing_to_clients_after_a_record_level_release() -> None:
    for event in (GAUSSIAN, DISCRETE):
        assert epsilon([CLIENT, event], DELTA, unit="client") == math.inf
        assert epsilon_rdp([CLIENT, event], DELTA, unit="client") == math.inf
    assert epsilon([], DELTA, unit="client") == 0.0


def test_epsilon__is_infinite_in_clear() -> None:
    clear = ClientGaussianEvent(noise_multiplier=0.0, sample_rate=1.0, steps=1)
    assert epsilon([clear], DELTA, unit="client") == math.inf
    assert epsilon([clear, SKELLAM], DELTA) == math.inf


def test_merged__counts_equal_mechanisms_and_keeps_unlike_ones() -> None:
    history = (DISCRETE, CLIENT, GAUSSIAN, replace(DISCRETE, steps=2), SKELLAM)
    assert merged(history) == merged(history[::-1])
    assert sorted(event.steps for event in merged(history)) == [5, 5, 7, 10]


@pytest.mark.parametrize("event", [DISCRETE, SKELLAM, CLIENT])
def test_event__refuses_json_that_it_would_not_have_written(event: Event) -> None:
    good = to_json(event)
    assert from_json(good) == event
    for change in (
        {"kind": "os.system"}, {"steps": 0}, {"steps": True}, {"steps": 1.5}, {"extra": 1},
        {"sample_rate": 0}, {"sample_rate": "1"}, {"sample_rate": math.nan},
    ):  # fmt: skip
        with pytest.raises(DataError, match="event"):
            from_json(good | change)
    if isinstance(event, DiscreteSumEvent):
        for key in ("law", "unit"):
            with pytest.raises(DataError, match="is not a name"):
                from_json(good | {key: 3})
    with pytest.raises(DataError, match="needs exactly"):
        from_json({key: value for key, value in good.items() if key != "steps"})


@pytest.mark.parametrize(
    "change",
    [
        {"law": "laplace"}, {"unit": "household"}, {"share_stddev": 3}, {"shares": 0},
        {"dimension": 0}, {"l2_sensitivity": 0.0}, {"l2_sensitivity": math.inf},
        {"rounding_failure": 1.0}, {"steps": 0},
    ],
)  # fmt: skip
def test_discrete_sum_event__refuses_values_that_no_sum_has(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(DISCRETE, **change)


@pytest.mark.parametrize("noise", [0.3, 1.0, 8.0, 500.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_renyi_epsilon__is_that_of_dp_accounting(noise: float, delta: float) -> None:
    curve = renyi_curve(GaussianEvent(noise_multiplier=noise, sample_rate=1.0, steps=3))
    theirs, _ = rdp_privacy_accountant.compute_epsilon(ORDERS, curve, delta)
    assert renyi_epsilon([curve], delta) == pytest.approx(theirs, rel=1e-9)


def test_renyi_epsilon__adds_curves() -> None:
    curves = [renyi_curve(GAUSSIAN), renyi_curve(SKELLAM)]
    assert renyi_epsilon(curves, DELTA) == renyi_epsilon([np.sum(curves, axis=0)], DELTA)
