"""The unit of a run on records that are somebody's: always the person, never less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clients.policy import Policy, RunDescription, refusals
from clients.records import agreed
from fedlearn.config import RunConfig, compose, decode, encode, plan_of
from fedlearn.config.contradictions import problems
from fedlearn.core.errors import ConfigError
from fedlearn.data.tables.csv import Csv
from fedlearn.data.texts.files import OwnText
from fedlearn.mechanisms import RecordPrivacy
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import (
    ClientGaussianEvent,
    DiscreteSumEvent,
    Event,
    GaussianEvent,
    PersonGaussianEvent,
    from_json,
    to_json,
)

TABLE = ["scenario=csv", "scenario.path=visits.csv", "scenario.label=ill", "scenario.site=site"]
PERSON = [*TABLE, "scenario.person=patient"]


def composed(*words: str) -> RunConfig:
    return compose([*words])


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        (["privacy=record"], "person"),
        (["privacy=distributed", "training.local_steps=1"], "person"),
        (["privacy=distributed", "privacy.unit=record", "training.local_steps=1"], "person"),
        (["privacy=distributed", "privacy.unit=person", "training.local_steps=1"], "person"),
        (["privacy=distributed", "privacy.unit=client"], "client"),
        (["privacy=client"], "client"),
        (["privacy=none"], "none"),
    ],
)
def test_unit__of_records_that_are_somebodys_is_the_person_and_never_the_record(
    words: list[str], unit: str
) -> None:
    config = composed(*PERSON, *words)
    assert config.privacy.unit == unit
    again = decode(RunConfig, encode(config))
    assert (again.privacy, again.terms) == (config.privacy, config.terms)
    if unit == "person":
        plan = plan_of(config, sites=3, dimension=50)
        assert plan is not None
        assert plan.unit == unit
        assert plan.relation == "add or remove all records of one person"
        alike = plan_of(composed(*TABLE, *words), sites=3, dimension=50) if "person" not in str(
            words) else None  # fmt: skip
        if alike is not None:  # as much noise, for another unit
            assert alike.unit == "record"
            assert alike.noise_multiplier == plan.noise_multiplier


def test_config__that_was_made_by_hand_with_the_smaller_unit_is_refused() -> None:
    """A coordinator may send any config; a site asks `problems` before it trains."""
    config = composed(*PERSON, "privacy=record")
    privacy: Any = config.privacy
    [found] = problems(replace(config, privacy=replace(privacy, unit="record")))
    assert "scenario.person=patient says whose records are" in found
    with pytest.raises(ConfigError, match="does not say whose records are"):
        composed(*TABLE, "privacy=record", "privacy.unit=person")
    with pytest.raises(ConfigError, match="does not say whose records are"):
        composed("scenario=heart", "privacy=record", "privacy.unit=person")


def test_run__cannot_fill_the_memory_of_a_site_by_the_records_of_a_person() -> None:
    """Depths are tried before a round, made-up records of each: 2^31 of them are no trial."""
    assert composed(*PERSON, "scenario.records_per_person=1024").scenario
    with pytest.raises(ConfigError, match=r"scenario\.records_per_person"):
        composed(*PERSON, "scenario.records_per_person=1025")


def test_audit__whose_canaries_are_single_records_is_refused_for_persons() -> None:
    with pytest.raises(ConfigError, match=r"audit=mislabelled: its canaries are single records"):
        composed(*PERSON, "privacy=record", "audit=mislabelled")
    assert composed(*PERSON, "privacy=record", "audit=slots").audit.kind == "slots"


def test_terms__hold_the_person_and_are_what_they_were_without() -> None:
    with_it, without = composed(*PERSON, "privacy=record"), composed(*TABLE, "privacy=record")
    assert with_it.terms != without.terms
    assert (
        with_it.terms != composed(*PERSON, "privacy=record", "scenario.records_per_person=2").terms
    )
    for word in ("person", '"unit"'):
        assert word not in encode(without)


@pytest.mark.parametrize("other", [Csv(path="b.csv", label="ill"), OwnText(path="b", label="ill")])
def test_site__says_whose_records_are_exactly_where_the_run_does(other: Any) -> None:
    run = Csv(path="a.csv", label="ill", person="patient", records_per_person=3)
    with pytest.raises(ConfigError, match="this site's file says whose records are not at all"):
        agreed(other, run)
    with pytest.raises(ConfigError, match="by 'kunde', and the run not at all"):
        agreed(replace(other, person="kunde"), replace(run, person=""))
    own = agreed(replace(other, person="kunde"), run)
    assert (own.person, own.records_per_person) == ("kunde", 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wanted", "unit", "refused"),
    [
        ("person", "record", True),
        ("record", "person", True),
        ("person", "client", True),
        ("person", "person", False),
        ("none", "person", False),
    ],
)
def test_policy__demands_a_unit_and_counts_in_it(wanted: Any, unit: Any, refused: bool) -> None:
    policy = Policy(epsilon_total=None if wanted == "none" else 1.0, unit=wanted)
    run = RunDescription(
        model="linear",
        unit=unit,
        delta=1e-5,
        cohort=5,
        transport="sealed",
        secagg="masked",
        code="",
    )
    found = [line for line in refusals(policy, run) if line.startswith("policy.unit")]
    assert bool(found) is refused
    assert policy.budget.unit == ("record" if wanted == "none" else wanted)


GAUSSIANS: tuple[tuple[Event, str], ...] = tuple(
    (kind(noise_multiplier=2.0, sample_rate=0.1, steps=20), unit)
    for kind, unit in (
        (GaussianEvent, "record"),
        (PersonGaussianEvent, "person"),
        (ClientGaussianEvent, "client"),
    )
)
DISCRETE: tuple[tuple[Event, str], ...] = tuple(
    (
        DiscreteSumEvent(
            law="discrete_gaussian", unit=unit, l2_sensitivity=100.0, share_stddev=200, shares=1,  # type: ignore[arg-type]
            dimension=10, rounding_failure=0.0, sample_rate=0.1, steps=20,
        ),
        unit,
    )
    for unit in ("record", "person", "client")
)  # fmt: skip
UNITS = ("record", "person", "client")


@pytest.mark.parametrize(("event", "own"), [*GAUSSIANS, *DISCRETE])
@pytest.mark.parametrize("asked", UNITS)
def test_epsilon__of_a_smaller_unit_is_no_promise_to_a_larger_one(
    event: Any, own: str, asked: Any
) -> None:
    found = epsilon([event], 1e-5, unit=asked, cohort_known=False)
    plain = epsilon([event], 1e-5, unit=own, cohort_known=False)  # type: ignore[arg-type]
    if UNITS.index(own) < UNITS.index(asked):
        assert found == float("inf")
    elif own == asked:
        assert found < 3
    else:  # another record moves what a person adds by twice the norm, sampled or not
        gaussian = GaussianEvent(noise_multiplier=1.0, sample_rate=1.0, steps=20)
        assert found == pytest.approx(epsilon([gaussian], 1e-5), rel=1e-3)
        assert found > plain
    assert from_json(to_json(event)) == event


def test_settings__of_records_are_written_as_they_were() -> None:
    assert "unit" not in encode(RecordPrivacy(epsilon=1.0))
    assert '"unit":"person"' in encode(RecordPrivacy(epsilon=1.0, unit="person"))
