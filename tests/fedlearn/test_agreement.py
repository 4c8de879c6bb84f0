"""The hash that masked sums compare: everything that decides what leaves a site is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import ClassVar, Literal

import pytest

from fedlearn.agreement import code_besides, payload_of, plan_digest, route_of, stack_of
from fedlearn.algorithms import ALGORITHMS, Algorithm
from fedlearn.config import RunConfig, compose, plan_of
from fedlearn.config.contradictions import problems
from fedlearn.core.settings import config
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.mechanisms import MECHANISMS, RecordPlan, RecordPrivacy, StudyTerms
from fedlearn.mechanisms.base import Mechanism, Protected
from fedlearn.models.custom import source_digest
from fedlearn.secagg.settings import sum_of
from fedlearn.stages import SiteContext, Source, Update

OWN = ["experiment=medical_heart", "secagg=masked", "model=custom"]


class Quiet(Source):
    """Training that forgets its noise."""

    def produce(self, site: SiteContext) -> Update:
        """The model."""
        return Update(values=site.train())


@config
class QuietPlan(RecordPlan):
    """A plan with the fields of another, and without what that does."""

    def source(self, terms: StudyTerms) -> Source:
        """Not private."""
        return Quiet()


@config
class Pair(Algorithm):
    """FedAvg with a vector more."""

    kind: Literal["pair"] = "pair"

    travels: ClassVar[tuple[str, ...]] = ("size",)


@config
class Bare(Mechanism):
    """What a package writes that leaves out all that it can."""

    kind: Literal["bare"] = "bare"
    delta: float = 1e-5
    unit: ClassVar[Protected] = "record"

    def plan(self, **terms: object) -> None:
        """Nothing is promised."""


@config
class Placed(Scenario):
    """Records at a path."""

    kind: Literal["placed"] = "placed"
    path: str = ""
    share: float = 0.5

    def load(self, reading: Reading) -> Pool:
        """Not in these tests."""
        raise AssertionError


@pytest.fixture(autouse=True)
def families() -> Iterator[None]:
    """The classes above are options of this test alone."""
    added = ((MECHANISMS, Bare), (ALGORITHMS, Pair))
    for family, option in added:
        family.add(option)  # type: ignore[attr-defined]
    yield
    for family, option in added:
        family._loaded.pop(option.kind)  # type: ignore[attr-defined]


def run() -> RunConfig:
    return compose([*OWN, "model.build=tests.own_models:mlp"])


def digest(run: RunConfig, plan: RecordPlan) -> bytes:
    settings = sum_of(run.secagg)
    assert settings is not None
    payload = payload_of(route_of(run, plan).form(stack_of(run, 8)), settings, 3)
    return plan_digest(run, payload, "train", plan)


def plan_for(run: RunConfig) -> RecordPlan:
    plan = plan_of(run)
    assert isinstance(plan, RecordPlan)
    return plan


def test_digest__tells_plans_of_equal_fields_by_what_they_do() -> None:
    plan = plan_for(run())
    quiet = QuietPlan(**{field.name: getattr(plan, field.name) for field in fields(plan)})
    assert digest(run(), plan) != digest(run(), quiet)


def test_digest__holds_what_travels_and_whose_code_it_is() -> None:
    one, plan = run(), plan_for(run())
    pair = Pair(fraction=one.strategy.fraction, min_sites=one.strategy.min_sites)
    two = replace(one, strategy=pair)
    settings = sum_of(one.secagg)
    assert settings is not None
    payload = payload_of(route_of(one, plan).form(stack_of(one, 8)), settings, 3)
    assert plan_digest(one, payload, "train", plan) != plan_digest(two, payload, "train", plan)


def test_code_besides__is_the_functions_and_classes_that_are_not_ours_with_their_source() -> None:
    assert code_besides(compose(["experiment=medical_heart"])) == ()
    build = "tests.own_models:mlp"
    assert code_besides(run()) == ((build, source_digest(build)),)
    pair = Pair(fraction=1.0, min_sites=2)
    ours, theirs = code_besides(replace(run(), strategy=pair))
    assert ours[0] == build
    assert theirs == (f"{__name__}:Pair", source_digest(f"{__name__}:Pair"))


def test_mechanism__that_leaves_out_everything_is_still_asked_for_what_none_may_do() -> None:
    plain = compose(["experiment=medical_heart"])
    assert RecordPrivacy(epsilon=1.0).clips_with("fast") == Bare().clips_with("fast") == "fast"
    scaled = compose(
        ["scenario=csv", "scenario.path=x.csv", "scenario.label=y", "privacy=none",
         "scenario.scaling.kind=standardise_per_site", "secagg=off"]
    )  # fmt: skip
    assert problems(scaled) == []
    (found,) = problems(replace(scaled, privacy=Bare()))
    assert found.startswith(
        "scenario.scaling.kind=standardise_per_site: is computed from records outside"
    )
    assert problems(replace(plain, privacy=Bare())) == []


def test_scenario__of_a_package_is_read_where_its_site_says() -> None:
    mine, of_run = Placed(path="/site/mine"), Placed(path="/etc/all", share=0.25)
    assert mine.agreed(of_run) == Placed(path="/site/mine", share=0.25)
    assert Placed().agreed(of_run).path == ""  # type: ignore[attr-defined]
