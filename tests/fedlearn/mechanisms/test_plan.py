"""The plan: one object from which noise, cost and statement follow."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import config
from fedlearn.mechanisms import (
    NoPrivacy,
    PrivacyPlan,
    RecordPlan,
    RecordPrivacy,
    derive,
    problems,
)
from fedlearn.privacy.accounting import epsilon
from fedlearn.report.statement import statement


def plan_for(config: RecordPrivacy, rate: float = 0.1) -> PrivacyPlan:
    plan = derive(config, sample_rate=rate, steps_per_round=10, rounds=5)
    assert plan is not None
    return plan


def test_derive__meets_the_epsilon_of_the_config_over_the_whole_run() -> None:
    plan = plan_for(RecordPrivacy(epsilon=3.0))
    assert 2.98 < plan.epsilon <= 3.0
    assert plan.epsilon == epsilon([plan.total_event], plan.delta)
    assert plan.epsilon == epsilon([plan.round_event] * 5, plan.delta)
    assert plan.epsilon > 1.5 * epsilon([plan.round_event], plan.delta)


def test_derive__refuses_a_mechanism_that_breaks_its_own_promise() -> None:
    @config
    class Cheap(RecordPrivacy):
        """Calibrated for a round, and not for the run."""

        def plan(self, *, rounds: int, **numbers: Any) -> RecordPlan:
            return replace(super().plan(rounds=1, **numbers), rounds=rounds)

    @config
    class Empty(RecordPrivacy):
        """Without a plan."""

        def plan(self, **numbers: Any) -> None:  # type: ignore[override]
            return None

    @config
    class Other(RecordPrivacy):
        """Of another delta than is promised."""

        def plan(self, **numbers: Any) -> RecordPlan:
            return replace(super().plan(**numbers), delta=1e-3)

    @config
    class Lonely(RecordPrivacy):
        """Of a promise that masks are not sized for."""

        colluders = 2

    with pytest.raises(ConfigError, match="holds against 0 colluding sites, and promised are 2"):
        plan_for(Lonely(epsilon=3.0))
    with pytest.raises(ConfigError, match=r"at delta 0.001, and promised is one for a record at"):
        plan_for(Other(epsilon=3.0))
    with pytest.raises(ConfigError, match=r"privacy.epsilon=3: the plan of privacy=record costs"):
        plan_for(Cheap(epsilon=3.0))
    with pytest.raises(ConfigError, match="promises privacy for a record, and has no plan"):
        plan_for(Empty(epsilon=3.0))


def test_derive__takes_the_noise_that_is_given() -> None:
    plan = plan_for(RecordPrivacy(noise_multiplier=1.25, clip_norm=0.4))
    assert plan.noise_multiplier == plan.round_event.noise_multiplier == 1.25
    assert plan.noise_stddev == pytest.approx(0.5)


def test_derive__scales_the_noise_with_the_clip_norm_and_not_the_cost() -> None:
    small, large = (plan_for(RecordPrivacy(epsilon=2.0, clip_norm=c)) for c in (0.1, 10.0))
    assert large.noise_stddev == pytest.approx(100 * small.noise_stddev)
    assert large.total_event == small.total_event


def test_derive__without_privacy_makes_no_plan() -> None:
    assert derive(NoPrivacy(), sample_rate=0.1, steps_per_round=1, rounds=1) is None


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (RecordPrivacy(), "privacy.epsilon: give either"),
        (RecordPrivacy(epsilon=1.0, noise_multiplier=1.0), "privacy.noise_multiplier=1.0"),
        (RecordPrivacy(epsilon=1.0, noise_multiplier=0.0), "privacy.noise_multiplier=0.0: without"),
        (RecordPrivacy(epsilon=1.0, delta=1e-13), "privacy.delta=1e-13"),
    ],
)
def test_problems__names_the_field_and_derive_refuses_it(config: RecordPrivacy, path: str) -> None:
    (problem,) = problems(config)
    assert problem.startswith(path)
    with pytest.raises(ConfigError) as caught:
        derive(config, sample_rate=0.1, steps_per_round=10, rounds=5)
    assert caught.value.problems == (problem,)


def test_problems__asks_for_a_delta_below_one_over_the_records() -> None:
    config = RecordPrivacy(epsilon=1.0, delta=1e-2)
    assert problems(config) == problems(config, records=100) == []
    (problem,) = problems(config, records=101)
    assert problem.startswith("privacy.delta=0.01: must be at most 1/101")


def test_problems__lists_all_of_them() -> None:
    assert len(problems(RecordPrivacy(delta=1e-13))) == 2


def test_problems__finds_none_without_privacy() -> None:
    assert problems(NoPrivacy(), records=3) == []


def said(plan: PrivacyPlan | None, *, epsilon: float, private: bool = True) -> str:
    return statement(
        plan, epsilon=epsilon, noise_is_private=private, sum_only=False, record="a row"
    )


@pytest.mark.parametrize(
    ("rate", "words"), [(0.1, "Poisson sampling"), (1.0, "nothing is gained from sampling")]
)
def test_statement__says_who_is_protected_by_how_much_and_from_whom(
    rate: float, words: str
) -> None:
    plan = plan_for(RecordPrivacy(epsilon=3.0, delta=1e-6), rate)
    text = said(plan, epsilon=plan.epsilon)
    for needed in (
        "one record",
        "added or removed",
        "epsilon 3 and delta 1e-06",
        "coordinator",
        "does not hold against the site itself",
        "PLD",
        "Not covered: Metrics",
        words,
    ):
        assert needed in text


@pytest.mark.parametrize("spent", [0.004561, 0.9996, 1.001, 2.9953, 12.34, 99.96, 1234.5])
def test_statement__never_rounds_epsilon_down(spent: float) -> None:
    plan = plan_for(RecordPrivacy(noise_multiplier=1.0))
    text = said(plan, epsilon=spent)
    written = float(text.split("with epsilon ")[1].split()[0])
    assert spent <= written <= 1.011 * spent


def test_statement__claims_nothing_where_nothing_holds() -> None:
    plan = plan_for(RecordPrivacy(epsilon=3.0))
    assert "No differential privacy" in said(None, epsilon=math.inf)
    assert "No privacy is claimed" in said(plan, epsilon=3.0, private=False)
    clear = plan_for(RecordPrivacy(noise_multiplier=0.0))
    assert clear.epsilon == math.inf
    assert "No privacy holds" in said(clear, epsilon=clear.epsilon)


def test_derive__refuses_more_steps_than_can_be_accounted_for() -> None:
    for settings in ({"epsilon": 3.0}, {"noise_multiplier": 1.0}):
        with pytest.raises(ConfigError, match=r"^rounds: 5000000000 private steps"):
            derive(RecordPrivacy(**settings), sample_rate=0.1, steps_per_round=10, rounds=5 * 10**8)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("noise_multiplier", 2e5), ("clip_norm", 1e-9), ("clip_norm", 1e31)],
)
def test_derive__refuses_noise_that_no_grid_holds(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"privacy\.{setting}="):
        plan_for(RecordPrivacy(**{"noise_multiplier": 1.0, setting: value}))
