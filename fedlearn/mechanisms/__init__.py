"""Mechanisms of privacy: one module each, with its settings, its plan and its stages.

The rest of the house asks the settings in a run's config (`Mechanism`) and the plan (`Plan`)
for what they do, never which one they are.
"""

from __future__ import annotations

from fedlearn.core.registry import Family
from fedlearn.mechanisms.base import Mechanism, Plan, Population, StudyTerms, refuse, ways_around
from fedlearn.mechanisms.client import ClientPlan, ClientPrivacy
from fedlearn.mechanisms.distributed import DistributedPlan, DistributedPrivacy
from fedlearn.mechanisms.none import UNPROTECTED, NoPrivacy
from fedlearn.mechanisms.record import RecordPlan, RecordPrivacy

__all__ = [
    "MECHANISMS",
    "UNPROTECTED",
    "ClientPlan",
    "ClientPrivacy",
    "DistributedPlan",
    "DistributedPrivacy",
    "NoPrivacy",
    "Population",
    "Privacy",
    "PrivacyPlan",
    "RecordPlan",
    "RecordPrivacy",
    "StudyTerms",
    "derive",
    "problems",
    "ways_around",
]

Privacy = Mechanism
PrivacyPlan = Plan

MECHANISMS: Family[Mechanism] = Family(
    "privacy",
    "fedlearn.mechanisms",
    (NoPrivacy, RecordPrivacy, ClientPrivacy, DistributedPrivacy),
    base=Mechanism,
)


def problems(config: Privacy, *, records: int | None = None) -> list[str]:
    """What is wrong with a config beyond the range of its single fields; empty if nothing is.

    `records` is the number of records of the smallest site, where it is known.
    """
    return config.problems(records=records)


def derive(
    config: Privacy,
    *,
    sample_rate: float,
    steps_per_round: int,
    rounds: int,
    population: Population | None = None,
) -> PrivacyPlan | None:
    """The plan of a run, None if it has no privacy.

    `sample_rate`, `steps_per_round` and `rounds` must be public constants, the
    same whatever the number of records: a rate computed from a private count is
    itself a leak. Only distributed privacy needs the `population`.

    Raises:
        ConfigError: the config is contradictory or its epsilon cannot be met.
        ValueError: distributed privacy without a population.
    """
    refuse(config.problems())
    return config.plan(
        sample_rate=sample_rate,
        steps_per_round=steps_per_round,
        rounds=rounds,
        population=population,
    )
