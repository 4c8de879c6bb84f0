"""What of a run a mechanism refuses, and what it says of itself to those who ask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fedlearn.config import compose
from fedlearn.config.terms import terms_of
from fedlearn.mechanisms import ClientPrivacy, DistributedPrivacy, NoPrivacy, RecordPrivacy, derive
from fedlearn.mechanisms.base import (
    Mechanism,
    Population,
    choice_problems,
    delta_problems,
    ways_around,
)
from fedlearn.mechanisms.client import ClientPlan
from fedlearn.privacy.noise import SeededNoise

TERMS = replace(
    terms_of(compose(["scenario=heart"])), summed=True, hidden=True, fraction=1.0, local_steps=1,
    optimizer="sgd", precision="fp32", engine="fast", scaling=None, pooled=False,
)  # fmt: skip
OUTSIDER = ClientPrivacy(epsilon=4.0, client_sample_rate=0.5, adversary="outsider")
EVERYBODY = ClientPrivacy(epsilon=4.0)
RECORDS = DistributedPrivacy(unit="record", epsilon=4.0)
CLIENTS = DistributedPrivacy(unit="client", epsilon=4.0)


@pytest.mark.parametrize(
    ("mechanism", "change", "keys"),
    [
        (OUTSIDER, {"hidden": False}, []),
        (OUTSIDER, {}, ["secagg"]),
        (OUTSIDER, {"hidden": False, "fraction": 0.5}, ["strategy.fraction"]),
        (EVERYBODY, {"fraction": 0.5}, []),
        (RECORDS, {}, []),
        (RECORDS, {"summed": False}, ["secagg"]),
        (RECORDS, {"fraction": 0.5}, ["strategy.fraction"]),
        (RECORDS, {"local_steps": 2}, ["training.local_steps"]),
        (RECORDS, {"optimizer": "adam"}, ["training.optimizer"]),
        (CLIENTS, {"local_steps": 2, "optimizer": "adam"}, []),
        (CLIENTS, {"fraction": 0.5, "summed": False}, ["secagg", "strategy.fraction"]),
        (RecordPrivacy(epsilon=4.0), {}, []),
        (RecordPrivacy(epsilon=4.0), {"precision": "bf16"}, []),
        (RecordPrivacy(epsilon=4.0), {"precision": "bf16", "engine": "opacus"},
         ["training.precision"]),
    ],
)  # fmt: skip
def test_conflicts__are_what_the_mechanism_cannot_be_together_with(
    mechanism: Mechanism, change: dict[str, Any], keys: Sequence[str]
) -> None:
    found = mechanism.conflicts(replace(TERMS, **change))
    assert [one.partition("=")[0] for one in found] == list(keys)


def test_ways_around__are_refused_unless_nothing_is_promised() -> None:
    around = replace(TERMS, scaling="standard", pooled=True)
    keys = [one.partition("=")[0] for one in ways_around("record", around)]
    assert keys == ["scenario.scaling.kind", "partition.pooled"]
    assert ways_around("none", around) == ways_around("client", TERMS) == []


def test_choice__is_of_epsilon_or_noise_and_never_of_none_and_both() -> None:
    pairs: list[tuple[float | None, float | None]] = [(1, None), (None, 0), (None, 1)]
    assert all(choice_problems(*pair) == [] for pair in pairs)
    assert "give either" in choice_problems(None, None)[0]
    assert "without noise" in choice_problems(1.0, 0)[0]
    assert "follows from" in choice_problems(1.0, 1.0)[0]


def test_delta__is_at_most_one_over_the_records_where_records_are_protected() -> None:
    assert delta_problems(1e-12, None) == delta_problems(0.1, 10) == delta_problems(0.5, 0) == []
    assert len(delta_problems(9e-13, None)) == len(delta_problems(0.11, 10)) == 1
    assert RecordPrivacy(epsilon=1.0, delta=0.2).problems(records=10)
    assert RECORDS.problems(records=100_001)
    for mechanism in (replace(EVERYBODY, delta=0.2), replace(CLIENTS, delta=0.2)):
        assert mechanism.problems(records=10) == []


def test_clips__single_records_alone() -> None:
    record = RecordPrivacy(epsilon=1.0)
    mechanisms: list[Mechanism] = [NoPrivacy(), EVERYBODY, CLIENTS, RECORDS, record]
    assert [one.clips_with("opacus") for one in mechanisms] == [None, None, None, "fast", "opacus"]


def _client(config: ClientPrivacy) -> ClientPlan:
    config = replace(config, epsilon=None, noise_multiplier=1.5)
    plan = derive(config, sample_rate=1.0, steps_per_round=1, rounds=3)
    assert isinstance(plan, ClientPlan)
    return plan


def test_client_plan__has_a_norm_of_the_round_and_takes_no_other() -> None:
    fixed = _client(replace(EVERYBODY, clip_norm=2.0, clipping="flat"))
    moving = _client(replace(EVERYBODY, clip_norm=2.0, clipping="adaptive"))
    for plan in (fixed, moving):
        assert (plan.round_norm(None), plan.round_norm(3.0)) == (2.0, 3.0)
    assert [fixed.takes_norm(norm) for norm in (2.0, 3.0, 0.0, math.inf)] == [True, *[False] * 3]
    wanted = {2.0: True, 3.0: True, 0.0: False, -1.0: False, math.inf: False, math.nan: False}
    assert {norm: moving.takes_norm(norm) for norm in wanted} == wanted
    assert fixed.noise_stddev == fixed.noise_multiplier * 2.0


def test_client_plan__chooses_by_coins_where_they_are_counted_and_charges_all() -> None:
    sites, noise = [f"s{i}" for i in range(40)], SeededNoise(b"coins")
    drawn, all_of_them = _client(OUTSIDER), _client(EVERYBODY)
    chosen = drawn.cohort(sites, noise)
    assert chosen is not None
    assert 5 < len(chosen) < 35
    assert set(chosen) < set(sites)
    assert all_of_them.cohort(sites, noise) is None
    assert (drawn.quorum(3, 2), drawn.quorum(2, 3), all_of_them.quorum(3, 2)) == (2, 2, 3)
    assert drawn.payers(sites, chosen) == sites
    assert all_of_them.payers(sites, chosen) == chosen
    assert (drawn.sampling, all_of_them.sampling) == (
        "Poisson over clients, unknown to outsiders", "none counted",
    )  # fmt: skip
    assert (drawn.round_event.sample_rate, all_of_them.round_event.sample_rate) == (0.5, 1.0)
    assert {plan.round_event.steps for plan in (drawn, all_of_them)} == {1}
    assert {plan.total_event.steps for plan in (drawn, all_of_them)} == {3}


def test_client_measured__is_one_that_everybody_takes_part_in() -> None:
    measured = OUTSIDER.measured(0.7)
    assert (measured.epsilon, measured.noise_multiplier) == (None, 0.7)
    assert (measured.client_sample_rate, measured.adversary) == (1.0, "knows_cohort")


@pytest.mark.parametrize("mechanism", [RecordPrivacy(epsilon=4.0), RECORDS, CLIENTS, EVERYBODY])
def test_measured__has_the_noise_that_an_attack_is_tried_against_and_no_budget(
    mechanism: Mechanism,
) -> None:
    measured: Any = mechanism.measured(0.7)
    assert (measured.epsilon, measured.noise_multiplier) == (None, 0.7)
    assert replace(measured, epsilon=4.0, noise_multiplier=None) == mechanism


def test_record_plan__needs_no_sum_no_number_of_sites_and_no_norm_of_a_round() -> None:
    mechanism = RecordPrivacy(noise_multiplier=1.0)
    plan = derive(mechanism, sample_rate=1.0, steps_per_round=1, rounds=1)
    assert plan is not None
    assert (plan.needs_sum, plan.trusts_coordinator, plan.protects_alone) == (False, False, True)
    assert (plan.round_norm(None), plan.takes_norm(0.0), plan.takes_norm(1.0)) == (0.0, True, False)
    assert (mechanism.fewest(5), CLIENTS.fewest(5), mechanism.colluders) == (0, 5, 0)
    assert replace(CLIENTS, max_dropouts=2, max_colluders=3).fewest(5) == 3
    assert replace(CLIENTS, max_colluders=3).colluders == 3


def test_record_plan__charges_those_that_were_asked_for_a_round_whoever_answers() -> None:
    plan = derive(RecordPrivacy(noise_multiplier=1.0), sample_rate=0.1, steps_per_round=3, rounds=2)
    assert plan is not None
    assert plan.payers(("a", "b", "c"), ("b", "c")) == ("b", "c")
    assert {plan.cost(survivors) for survivors in range(4)} == {plan.round_event}
    assert plan.round_event.steps == 3
    assert plan.cohort(("a", "b"), SeededNoise(b"")) is None
    assert (plan.quorum(2, 5), plan.min_survivors) == (2, 0)


def test_protection__is_of_a_single_update_but_where_noise_comes_in_shares() -> None:
    people = Population(num_clients=5, dimension=9, records_per_step=2.0)
    asked = (RECORDS, CLIENTS, EVERYBODY, RecordPrivacy(epsilon=4.0))
    plans = [
        derive(one, sample_rate=1.0, steps_per_round=1, rounds=1, population=people)
        for one in asked
    ]
    assert [plan and plan.protects_alone for plan in plans] == [False, False, True, True]


@pytest.mark.parametrize("kind", [RecordPrivacy, ClientPrivacy, DistributedPrivacy, NoPrivacy])
def test_site_that_cannot_pay__stops_the_run_unless_it_is_said_that_it_is_dropped(
    kind: type[Mechanism],
) -> None:
    assert kind().drops_sites is False
    if hasattr(kind(), "on_exhausted"):
        assert replace(kind(), on_exhausted="drop_site").drops_sites is True  # type: ignore[type-var]
    assert kind().chooses_sites is False
    assert OUTSIDER.chooses_sites is True


def test_record_plan__says_what_of_the_sampling_is_counted() -> None:
    said = {
        rate: derive(
            RecordPrivacy(noise_multiplier=1.0), sample_rate=rate, steps_per_round=1, rounds=1
        )
        for rate in (0.5, 1.0)
    }
    assert {rate: plan and plan.sampling for rate, plan in said.items()} == {
        0.5: "Poisson, secret", 1.0: "full batch",
    }  # fmt: skip


def test_distributed__is_of_a_population() -> None:
    plan = derive(
        replace(RECORDS, max_dropouts=1, epsilon=None, noise_multiplier=2.0),
        sample_rate=0.5, steps_per_round=1, rounds=3,
        population=Population(num_clients=6, dimension=50, records_per_step=1.0),
    )  # fmt: skip
    assert plan is not None
    assert (plan.needs_sum, plan.relation) == (True, "add or remove one record")
    assert replace(plan, unit="client").relation == "replace all data of one client by none"  # type: ignore[call-arg]
    assert plan.noise_multiplier == plan.round_event.noise_multiplier
