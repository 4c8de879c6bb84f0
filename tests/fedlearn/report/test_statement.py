"""The privacy statement of every kind of run, held against the facts that it is about."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.config import RunConfig, compose, decode, encode, plan_of
from fedlearn.config.parent import Parent
from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.report.statement import Statement, promise_of, statement_for, surest
from fedlearn.results.result import PromiseFacts
from fedlearn.tasks import Input, TableInput, Task, TaskForm, TextInput

SITES, DIMENSION = 9, 100

PRIVACY = (
    ["privacy=none"],
    ["privacy=record"],
    ["privacy=record", "privacy.epsilon=null", "privacy.noise_multiplier=0.4"],
    ["privacy=client"],
    ["privacy=client", "privacy.adversary=outsider", "privacy.client_sample_rate=0.5"],
    ["privacy=distributed"],
    ["privacy=distributed", "privacy.max_colluders=2"],
    ["privacy=distributed", "privacy.unit=client"],
)
SECAGG = ("off", "ring", "masked", "two_server")
BESIDES = (
    ["evaluation=none"],
    ["evaluation=private", "screening=sums"],
    ["evaluation=pooled", "robust=fltrust", "spare_rounds=2"],
    ["evaluation=per_site", "robust=groups", "robust.size=3"],
    ["evaluation=pooled", "task=regression", "task.low=0", "task.high=9"],
    ["evaluation=per_site", "fairness=groups", "fairness.column=sex", "fairness.values=[f,m]"],
)
BASE = ["scenario=csv", "scenario.path=my.csv", "scenario.label=y", "model=tabular", "rounds=2"]
TEXTS = ["experiment=legal_drafting", "rounds=2"]


class Run(NamedTuple):
    """A config, its plan, and what is said of it."""

    config: RunConfig
    plan: PrivacyPlan | None
    facts: PromiseFacts
    epsilon: float | None
    statement: Statement

    @property
    def unit(self) -> str:
        return "none" if self.epsilon is None or self.plan is None else self.plan.unit


def task_of(config: RunConfig, shape: Input) -> Task:
    classes = ("no", "yes") if config.task.learns.has_classes else ()
    return config.task.of(TaskForm(input=shape, classes=classes))


def run_of(words: list[str], shape: Input, *, private: bool = True) -> Run | None:
    """None where the config contradicts itself: there is no such run."""
    try:
        config = compose(words)
        plan = plan_of(config, sites=SITES, dimension=DIMENSION, task=task_of(config, shape))
    except ConfigError:
        return None
    facts = promise_of(plan, noise_is_private=private)
    held = plan is not None and private and math.isfinite(plan.epsilon)
    epsilon = plan.epsilon if plan is not None and held else None
    return Run(config, plan, facts, epsilon, statement_for(facts, config, shape, epsilon=epsilon))


@cache
def matrix(every: int) -> list[Run]:
    row, text = TableInput(numeric=2), TextInput(max_length=8, vocabulary=50)
    words = [
        ([*BASE, *privacy, f"secagg={secagg}", *besides], row)
        for privacy, secagg, besides in itertools.product(PRIVACY, SECAGG, BESIDES)
    ]
    words[:0] = [([*TEXTS, *privacy], text) for privacy in PRIVACY[:2]]
    asked = words[::every] if every > 1 else words
    return [run for each, shape in asked if (run := run_of(each, shape)) is not None]


@pytest.fixture(scope="module", params=[11, pytest.param(1, marks=pytest.mark.slow)])
def runs(request: pytest.FixtureRequest) -> list[Run]:
    """Every so many of the matrix: composing a config takes a tenth of a second."""
    return matrix(request.param)


def part(run: Run, name: str) -> str:
    return " ".join(" ".join(one.lines) for one in run.statement.paragraphs if one.name == name)


@pytest.mark.slow
def test_matrix__has_every_kind_of_run() -> None:
    runs = matrix(1)
    kinds = {(run.config.privacy.kind, run.config.secagg.kind) for run in runs}
    assert {kind for kind, _ in kinds} == {"none", "record", "client", "distributed"}
    assert {secagg for _, secagg in kinds} == set(SECAGG)
    assert {run.config.evaluation for run in runs} >= {"none", "pooled", "per_site"}
    assert any(run.config.robust.kind == "fltrust" for run in runs)
    assert any(run.config.task.kind == "language" for run in runs)
    assert any(run.config.spare_rounds for run in runs)
    assert len(runs) > 60


def test_first_paragraph__promises_the_epsilon_of_the_plan_to_its_unit_or_nothing(
    runs: list[Run],
) -> None:
    for run in runs:
        first = part(run, "promise")
        if run.epsilon is None:
            assert first.startswith("No "), first
            assert {one.name for one in run.statement.paragraphs} <= {"promise", "besides"}
            assert run.statement.proof is None
            assert "percent" not in part(run, "promise")
            continue
        assert run.plan is not None
        who = {"record": "Each single record", "client": "Each client"}[run.unit]
        assert first.startswith(f"{who} is protected with epsilon ")
        (written,) = re.findall(r"with epsilon (\S+) and delta (\S+):", first)
        assert run.epsilon <= float(written[0]) <= 1.011 * run.epsilon
        assert float(written[1]) == run.plan.delta
        assert ("or test data" in first) == (run.unit == "record" and bool(run.plan.evaluation))


@given(st.floats(0, 100))
def test_surest__is_never_below_and_is_certain_only_where_four_digits_are_not_enough(
    epsilon: float,
) -> None:
    chance = 100 / (1 + math.exp(-epsilon))
    assert 0 <= surest(epsilon) - chance <= 0.1 * (1 + 1e-9)
    assert (surest(epsilon) == 100) == (chance > 99.9999)
    assert f"{surest(epsilon):g}" == str(surest(epsilon)).removesuffix(".0")


def test_other_words__are_what_bayes_allows_and_grade_no_epsilon_twice(runs: list[Run]) -> None:
    for run in (run for run in runs if run.epsilon is not None):
        words = part(run, "meaning")
        (percent,) = re.findall(r"at most ([\d.]+) percent sure", words)
        odds = math.exp(run.epsilon or 0.0)
        assert 0 <= float(percent) / 100 - odds / (1 + odds) < 0.0011
        assert ("strong promise" in words) == ((run.epsilon or 0.0) <= 1)
        assert "reasonable" not in words, "as good as certain is no reasonable promise"
        open_tests = run.config.evaluation != "none" and not run.facts.tests_epsilon
        assert ("test results aside" in words) == open_tests
        (chance,) = re.findall(r"about one in ([\d,]+)", words)
        assert run.plan is not None
        assert int(chance.replace(",", "")) == pytest.approx(1 / run.plan.delta, rel=0.01)


def test_against__claims_nothing_against_who_sees_what_it_needs_hidden(runs: list[Run]) -> None:
    for run in (run for run in runs if run.epsilon is not None):
        words, kind = part(run, "against"), run.config.privacy.kind
        hides = run.config.secagg.hides and not (
            kind == "distributed" and run.config.secagg.two_servers
        )
        if kind == "record":
            assert words.startswith("This holds against the coordinator")
        elif kind == "client":
            assert "it does not hold against the coordinator" in words
            assert ("sees the updates in clear" in words) == (not hides)
            outsider = getattr(run.plan, "adversary", "") == "outsider"
            assert ("cannot tell who took part" in words) == outsider
        else:
            assert words.startswith("This holds against the coordinator") == hides
            assert ("no such privacy holds" in words) == (not hides)
            if hides:
                few = getattr(run.plan, "max_colluders", 0)
                assert (f"up to {few} of the sites" in words) == (few > 0)
                honest = getattr(run.plan, "min_survivors", 0) - few
                assert f"at least {honest} of {getattr(run.plan, 'num_clients', 0)}" in words


def test_not_covered__names_open_tests_and_test_records_where_nobody_paid_for_them(
    runs: list[Run],
) -> None:
    for run in (run for run in runs if run.epsilon is not None):
        words, paid = part(run, "not_covered"), bool(run.facts.tests_epsilon)
        open_tests = run.config.evaluation != "none" and not paid
        assert ("Metrics computed on test data" in words) == open_tests
        outside = "Records that are tested on are not part" in words
        assert outside == (run.unit == "record" and not paid)


def test_besides__names_all_that_leaves_a_site_beside_the_model(runs: list[Run]) -> None:
    for run in runs:
        words, config = part(run, "besides"), run.config
        assert ("no test record was looked at" in words) == (config.evaluation == "none")
        only_sum = "only their sum over all sites was opened" in words
        assert only_sum == (config.evaluation == "pooled" and config.secagg.hides)
        single = "every site released its own" in words
        exact = config.evaluation in ("pooled", "per_site")
        assert single == (exact and not only_sum)
        assert ("taken as public" in words) == bool(config.robust.public_share)
        assert ("compared their tables" in words) == (not config.screening.idle)
        tells = config.scenario.tells == "columns"
        assert ("of each column its name" in words) == tells
        assert ("the names of the classes" in words) == (tells and config.task.learns.has_classes)


def test_proof__has_the_numbers_of_the_plan(runs: list[Run]) -> None:
    for run in (run for run in runs if run.epsilon is not None):
        assert run.plan is not None
        assert run.statement.proof is not None
        words = " ".join(run.statement.proof.lines)
        assert (
            f"rounds {run.plan.rounds:,}, private steps in each {run.plan.steps_per_round:,}"
            in words
        )
        assert run.plan.rounds == run.config.paid_rounds
        assert f"noise multiplier {run.plan.noise_multiplier:.4g}" in words
        assert ("Poisson" in words) == (run.unit == "record" and run.plan.sample_rate < 1)
        assert ("Test metrics are part of it" in words) == bool(run.facts.tests_epsilon)
        assert ("tables is part of it" in words) == bool(run.facts.screening_epsilon)


def test_repeatable_noise__is_no_promise_whatever_the_plan_says() -> None:
    run = run_of([*BASE, "privacy=record"], TableInput(numeric=2), private=False)
    assert run is not None
    assert run.statement.text.startswith("No privacy is claimed")
    assert "epsilon 3" not in run.statement.text


def test_statement__is_made_of_what_json_keeps(runs: list[Run]) -> None:
    """A report makes it again from `result.json`, long after the plan is gone."""
    for run in runs[::7]:
        kept = decode(PromiseFacts, encode(run.facts))
        assert json.loads(encode(run.facts))["noise_is_private"] is True
        shape = TableInput(numeric=2)
        again = statement_for(kept, run.config, shape, epsilon=run.epsilon)
        assert again == statement_for(run.facts, run.config, shape, epsilon=run.epsilon)


PARENTS = (
    Parent(sha256="ab" * 32),
    Parent(sha256="ab" * 32, run_id="cd" * 16),
    Parent(sha256="ab" * 32, run_id="cd" * 16, unit="record", epsilon=1.5, delta=1e-6),
    Parent(sha256="ab" * 32, run_id="cd" * 16, unit="client", epsilon=1.5, delta=1e-6),
)


@pytest.mark.parametrize("parent", PARENTS)
def test_parent__is_named_and_what_it_spent_added_up_where_it_is_of_the_same_unit(
    runs: list[Run], parent: Parent
) -> None:
    for run in runs:
        assert part(run, "parent") == ""
        config, shape = replace(run.config, parent=parent), TableInput(numeric=2)
        statement = statement_for(run.facts, config, shape, epsilon=run.epsilon)
        said = part(run._replace(statement=statement), "parent")
        assert parent.sha256[:16] in said
        assert ("nobody says" in said) is (not parent.run_id)
        assert "the coordinator's word, which no site can check" in said
        if parent.epsilon is None:
            assert (parent.run_id == "") or "promised nothing" in said
            assert "at the most" not in said
            continue
        assert "epsilon 1.5 and delta 1e-06" in said
        together = f"delta {run.plan.delta + parent.delta:g}" if run.plan and parent.delta else "?"
        same = run.unit == parent.unit
        assert ("at the most" in said) is same
        assert (together in said) is same
        if same and run.epsilon is not None:
            both = float(said.rpartition("epsilon ")[2].split(" ")[0])
            assert run.epsilon + parent.epsilon <= both < (run.epsilon + parent.epsilon) * 1.01


def test_surest__is_never_rounded_down() -> None:
    for epsilon in (0.01, 0.5, 1, 2, 4, 8):
        assert surest(epsilon) / 100 >= math.exp(epsilon) / (1 + math.exp(epsilon))
