"""Mechanisms of privacy: one module each, with its settings, its plan and its stages.

The rest of the house asks the settings in a run's config (`Mechanism`) and the plan (`Plan`)
for what they do, never which one they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedlearn.core.registry import Family
from fedlearn.mechanisms.base import Mechanism, Plan, Population, StudyTerms, refuse, ways_around
from fedlearn.mechanisms.client import ClientPlan, ClientPrivacy
from fedlearn.mechanisms.distributed import DistributedPlan, DistributedPrivacy
from fedlearn.mechanisms.evaluation import Besides, EvaluationPlan, Evaluations, planned
from fedlearn.mechanisms.none import UNPROTECTED, NoPrivacy
from fedlearn.mechanisms.record import RecordPlan, RecordPrivacy
from fedlearn.mechanisms.statistics import StatisticsPlan, statistics_plan

__all__ = [
    "MECHANISMS",
    "UNPROTECTED",
    "Besides",
    "ClientPlan",
    "ClientPrivacy",
    "DistributedPlan",
    "DistributedPrivacy",
    "EvaluationPlan",
    "Evaluations",
    "NoPrivacy",
    "Population",
    "Privacy",
    "PrivacyPlan",
    "RecordPlan",
    "RecordPrivacy",
    "StatisticsPlan",
    "StudyTerms",
    "derive",
    "problems",
    "statistics_plan",
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
    besides: Besides | None = None,
) -> PrivacyPlan | None:
    """The plan of a run, None if it has no privacy.

    `sample_rate`, `steps_per_round` and `rounds` must be public constants, the
    same whatever the number of records: a rate computed from a private count is
    itself a leak. Only distributed privacy needs the `population`. The plan pays for what the
    run lets out `besides` as well.

    Raises:
        ConfigError: the config is contradictory, its epsilon cannot be met, or the plan is not
            what it promises.
        ValueError: distributed privacy without a population.
    """
    refuse(config.problems())

    def train(settings: Mechanism) -> PrivacyPlan | None:
        return settings.plan(
            sample_rate=sample_rate,
            steps_per_round=steps_per_round,
            rounds=rounds,
            population=population,
        )

    plan = planned(config, besides, train) if besides and besides.share else train(config)
    refuse([*_broken(config, plan)])
    return plan


def _broken(config: Privacy, plan: PrivacyPlan | None) -> Iterator[str]:
    """Where a plan is not what its settings have promised, to owners and in results."""
    name = f"privacy={config.kind}"
    if plan is None:
        if config.unit != "none":
            yield f"{name}: promises privacy for a {config.unit}, and has no plan"
        return
    if (plan.unit, plan.delta) != (config.unit, config.delta):
        yield (
            f"{name}: its plan is for a {plan.unit} at delta {plan.delta:g}, and promised is one "
            f"for a {config.unit} at {config.delta}"
        )
    if plan.colluders != config.colluders:
        yield (
            f"{name}: its plan holds against {plan.colluders} colluding sites, and promised are "
            f"{config.colluders}"
        )
    asked: float | None = getattr(config, "epsilon", None)
    if asked is not None and plan.epsilon > asked * (1 + 1e-6):
        yield (
            f"privacy.epsilon={asked:g}: the plan of {name} costs {plan.epsilon:g}; its noise must "
            "be calibrated over the whole run"
        )
