"""What screening costs: one epsilon with training and evaluation, by an accountant of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant

from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import (
    Besides,
    DistributedPrivacy,
    Evaluations,
    Population,
    Privacy,
    PrivacyPlan,
    RecordPrivacy,
    derive,
)
from fedlearn.mechanisms.evaluation import noisy
from fedlearn.privacy import SystemNoise
from tests.effort import slow_but

SCREENING = Evaluations(
    rounds=1, every=1, share=0.1, weights=(1 / 14,) * 14, dimension=28, hidden=False
)
EVALUATION = Evaluations(rounds=5, every=2, share=0.1, weights=(0.5, 0.5), dimension=6, hidden=True)
POPULATION = Population(num_clients=5, dimension=40, records_per_step=50.0)


def plan_of(privacy: Privacy, besides: Besides) -> PrivacyPlan:
    plan = derive(
        privacy, sample_rate=0.2, steps_per_round=1, rounds=5, population=POPULATION,
        besides=besides,
    )  # fmt: skip
    assert plan is not None
    return plan


@pytest.mark.parametrize("epsilon", slow_but(lambda one: one == 4, [0.5, 4.0, 8.0]))
@pytest.mark.parametrize("evaluation", slow_but(bool, [None, EVALUATION]))
def test_run_with_screening__has_one_epsilon_by_another_accountant_too(
    epsilon: float, evaluation: Evaluations | None
) -> None:
    besides = Besides(evaluation=evaluation, screening=SCREENING)
    plan = plan_of(RecordPrivacy(epsilon=epsilon), besides)
    assert plan.screening is not None
    noise = plan.screening.last_stddev / plan.screening.l2_sensitivity
    accountant = pld_privacy_accountant.PLDAccountant()
    step = dp_event.GaussianDpEvent(plan.noise_multiplier)
    accountant.compose(dp_event.PoissonSampledDpEvent(0.2, step), 5)
    accountant.compose(dp_event.GaussianDpEvent(noise))
    for number in (2, 4, 5) if evaluation else ():
        assert plan.evaluation is not None
        deviation = plan.evaluation.stddev_at(number) * math.sqrt(plan.evaluation.shares)
        accountant.compose(dp_event.GaussianDpEvent(deviation / plan.evaluation.l2_sensitivity))
    found = accountant.get_epsilon(plan.delta)
    assert found <= epsilon * 1.01
    assert found >= 0.97 * epsilon
    assert plan.epsilon <= epsilon


@pytest.mark.slow
def test_screening__gets_its_share_and_training_what_is_left() -> None:
    alone = plan_of(RecordPrivacy(epsilon=4.0), Besides())
    small, large = (
        plan_of(RecordPrivacy(epsilon=4.0), Besides(screening=replace(SCREENING, share=share)))
        for share in (0.05, 0.3)
    )
    assert alone.screening is None
    assert alone.noise_multiplier < small.noise_multiplier < large.noise_multiplier
    assert small.screening is not None
    assert large.screening is not None

    def noise(plan: PrivacyPlan) -> float:
        assert plan.screening is not None
        return plan.screening.last_stddev / plan.screening.l2_sensitivity

    assert noise(small) / noise(large) == pytest.approx(math.sqrt(6), rel=0.01)


def test_screening__has_all_of_its_noise_at_every_site_even_where_training_has_a_share() -> None:
    privacy = DistributedPrivacy(epsilon=4.0, unit="record", bits=20)
    plan = plan_of(privacy, Besides(evaluation=EVALUATION, screening=SCREENING))
    assert plan.evaluation is not None
    assert plan.screening is not None
    assert plan.evaluation.shares > 1
    assert plan.screening.shares == 1
    assert plan.epsilon <= 4.0


def test_noise_multiplier_that_is_given__stays_and_epsilon_grows() -> None:
    privacy = RecordPrivacy(noise_multiplier=2.0)
    alone, beside = plan_of(privacy, Besides()), plan_of(privacy, Besides(screening=SCREENING))
    assert beside.noise_multiplier == alone.noise_multiplier == 2.0
    assert beside.epsilon > alone.epsilon


@pytest.mark.parametrize("shares", [(0.1, 0.95), (0.5, 0.5)])
def test_shares__that_leave_training_nothing_are_refused(shares: tuple[float, float]) -> None:
    figures, sums = replace(EVALUATION, share=shares[0]), replace(SCREENING, share=shares[1])
    for privacy in (RecordPrivacy(epsilon=4.0), RecordPrivacy(noise_multiplier=1.0)):
        with pytest.raises(ConfigError, match=r"screening\.share"):
            plan_of(privacy, Besides(evaluation=figures, screening=sums))


def test_noise__has_the_deviation_that_was_paid_for() -> None:
    plan = plan_of(RecordPrivacy(epsilon=4.0), Besides(screening=SCREENING)).screening
    assert plan is not None
    stream = SystemNoise().stream()
    drawn = np.concatenate([noisy(np.zeros(28, np.int64), plan, 1, stream) for _ in range(200)])
    assert np.std(drawn) == pytest.approx(plan.last_stddev, rel=0.05)
