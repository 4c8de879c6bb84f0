"""The plan of a release of figures: what it costs, what it is moved by, what it is good for."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from scipy.stats import norm

from fedlearn.core.errors import ConfigError
from fedlearn.figures import NumberPart, TableLayout, TableRows, TableSums
from fedlearn.figures.parts import CountPart
from fedlearn.mechanisms import (
    ClientPrivacy,
    DistributedPrivacy,
    NoPrivacy,
    Privacy,
    RecordPrivacy,
    StatisticsPlan,
    statistics_plan,
)
from fedlearn.privacy.discrete import integer_noise
from fedlearn.privacy.noise import noise_of

SITES = 10
WEIGHTS = (0.1, 0.6, 0.3)
RECORD = RecordPrivacy(noise_multiplier=4.0, clip_norm=1.0)


def plan_of(settings: Privacy, *, hidden: bool = True, guarded: int = 0) -> StatisticsPlan:
    plan = statistics_plan(settings, WEIGHTS, 400, sites=SITES, hidden=hidden, guarded=guarded)
    assert plan is not None
    return plan


def test_plan__counts_the_steps_of_all_sums_and_the_rounding_of_each() -> None:
    plan = plan_of(RECORD)
    paid = plan.screening
    assert paid.l2_sensitivity == pytest.approx(math.hypot(*paid.steps) + math.sqrt(400), rel=1e-6)
    assert plan.noise_multiplier >= 4.0
    assert plan.events == (plan.round_event,)
    share = [step**2 for step in paid.steps]
    assert [one / sum(share) for one in share] == pytest.approx(WEIGHTS, rel=2e-3)


def test_plan__takes_noise_in_shares_only_where_single_sums_are_hidden() -> None:
    shared = DistributedPrivacy(noise_multiplier=4.0, max_dropouts=1, max_colluders=2)
    hidden, seen = plan_of(shared), plan_of(shared, hidden=False)
    assert (hidden.screening.shares, hidden.min_survivors, hidden.needs_sum) == (7, 9, True)
    assert (seen.screening.shares, seen.min_survivors, seen.needs_sum) == (1, 0, False)
    assert hidden.noise_multiplier == pytest.approx(seen.noise_multiplier, rel=1e-2)


def test_plan__of_nothing_is_none_and_of_too_few_sites_is_refused() -> None:
    assert statistics_plan(NoPrivacy(), WEIGHTS, 9, sites=3, hidden=True, guarded=0) is None
    few = DistributedPrivacy(epsilon=1.0, max_colluders=3)
    with pytest.raises(ConfigError, match="max_colluders=3"):
        statistics_plan(few, WEIGHTS, 9, sites=3, hidden=True, guarded=0)
    with pytest.raises(ConfigError, match="leaves nothing of a table"):
        plan_of(RecordPrivacy(noise_multiplier=500.0, clip_norm=1.0))


def test_threshold__is_passed_by_the_category_of_one_record_with_its_part_of_delta() -> None:
    plan = plan_of(RECORD, guarded=3)
    least = plan.named_from(25.0, 3)
    chance = 3 * float(norm.sf(least, loc=1.0, scale=25.0)) * math.exp(plan.epsilon)
    assert chance == pytest.approx(plan.round_event.rounding_failure, rel=1e-6)
    assert plan.round_event.rounding_failure == pytest.approx(0.05 * plan.delta)
    assert plan_of(RECORD).named_from(25.0, 3) == math.inf, "nothing was set aside for it"


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [0, 2])
@pytest.mark.parametrize("epsilon", [0.3, 4.0])
def test_plan__costs_the_epsilon_that_is_asked_for(epsilon: float, guarded: int) -> None:
    for settings in (
        RecordPrivacy(epsilon=epsilon, clip_norm=1.0),
        DistributedPrivacy(epsilon=epsilon, mechanism="skellam"),
        ClientPrivacy(epsilon=epsilon, clip_norm=1.0),
    ):
        assert 0.97 * epsilon < plan_of(settings, guarded=guarded).epsilon <= epsilon, settings


@pytest.mark.slow
def test_quantiles__are_within_a_percentile_at_epsilon_one_half() -> None:
    """Of 10,000 records over ten sites, a column by itself, with the noise that is really drawn."""
    part = NumberPart(name="x", weight=4.0, at=0, gap=None, low=0, high=1.5, size=False, points=256)
    layout = TableLayout((CountPart(name="", weight=0.25), part))
    plan = statistics_plan(
        DistributedPrivacy(epsilon=0.5), layout.weights, layout.size,
        sites=SITES, hidden=True, guarded=0,
    )  # fmt: skip
    assert plan is not None
    paid, rng = plan.screening, np.random.default_rng(0)
    law, errors = integer_noise(paid.law, paid.last_stddev), list[float]()
    for time in range(8):
        values = np.sort(rng.gamma(2, 0.15, 10_000).clip(0, 1.5))
        total = np.zeros(layout.size, np.int64)
        for site in range(SITES):
            mine = (values[site::SITES, None] / 0.75 - 1).astype(np.float32)
            own = layout.added(TableRows(features=mine, labels=np.zeros(len(mine)))).sum(0)
            stream = noise_of(os.environ, f"site {site}", time).stream()
            total += layout.given(own, paid.steps) + law.draw(layout.size, stream)
        each = paid.last_stddev * math.sqrt(SITES)
        noise = tuple(each * p.bound / s for p, s in zip(layout.parts, paid.steps, strict=True))
        (found,) = TableSums(
            layout=layout, sums=layout.opened(total, paid.steps), noise=noise, threshold={},
            quantiles=(0.05, 0.25, 0.5, 0.75, 0.95), confidence=0.95, rng=rng,
        ).figures().numbers  # fmt: skip
        errors += [
            abs(float(np.searchsorted(values, one.value)) / 10_000 - float(share))
            for share, one in found.quantiles.items()
        ]
    assert max(errors) <= 0.011
    assert np.mean(np.array(errors) <= 0.01) > 0.95
