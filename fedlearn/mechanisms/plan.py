"""From what the user asked for to what the mechanism does, what it costs and what it promises.

A `PrivacyPlan` is derived once per run. Clip norm, noise, events and the
statement all come from it, so that they cannot disagree: nothing else in the
project writes an epsilon beside a noise multiplier. There is one plan per kind
of privacy; all have `unit`, `clip_norm`, `noise_multiplier`, `noise_stddev`,
`delta`, `sample_rate`, `steps_per_round`, `rounds`, `round_event`,
`total_event` and `epsilon`.
"""

from __future__ import annotations

from typing import ClassVar, Literal, assert_never

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import config
from fedlearn.mechanisms import client, distributed, record
from fedlearn.mechanisms.client import ClientPlan, ClientPrivacy
from fedlearn.mechanisms.distributed import DistributedPlan, DistributedPrivacy, Population
from fedlearn.mechanisms.record import RecordPlan, RecordPrivacy
from fedlearn.privacy.accounting import SMALLEST_DELTA

__all__ = [
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
    "derive",
    "problems",
]


@config
class NoPrivacy:
    """No differential privacy: updates leave the sites as they are."""

    kind: Literal["none"] = "none"
    unit: ClassVar[Literal["none"]] = "none"


Privacy = NoPrivacy | RecordPrivacy | ClientPrivacy | DistributedPrivacy

PrivacyPlan = RecordPlan | ClientPlan | DistributedPlan


def problems(config: Privacy, *, records: int | None = None) -> list[str]:
    """What is wrong with a config beyond the range of its single fields; empty if nothing is.

    `records` is the number of records of the smallest site, where it is known.
    """
    match config:
        case NoPrivacy():
            return []
        case RecordPrivacy():
            found = _delta_problems(config.delta, records)
        case ClientPrivacy():
            found = [*_delta_problems(config.delta, None), *_sampling_problems(config)]
        case DistributedPrivacy():
            found = _delta_problems(config.delta, records if config.unit == "record" else None)
        case _:
            assert_never(config)
    return [*_choice_problems(config), *found]


def _choice_problems(config: RecordPrivacy | ClientPrivacy | DistributedPrivacy) -> list[str]:
    target, noise = config.epsilon, config.noise_multiplier
    if target is None and noise is None:
        return [
            "privacy.epsilon: give either privacy.epsilon (the noise follows) or "
            "privacy.noise_multiplier (the epsilon follows), or choose privacy=none"
        ]
    if target is not None and noise == 0:
        return [
            f"privacy.noise_multiplier={noise}: without noise no epsilon holds, and "
            f"privacy.epsilon={target} is asked for. Leave out privacy.noise_multiplier"
        ]
    if target is not None and noise is not None:
        return [
            f"privacy.noise_multiplier={noise}: the noise follows from "
            f"privacy.epsilon={target}. Leave out one of the two"
        ]
    return []


def _delta_problems(delta: float, records: int | None) -> list[str]:
    if delta < SMALLEST_DELTA:
        return [
            f"privacy.delta={delta}: must be at least {SMALLEST_DELTA}, below it rounding rules"
        ]
    if records is not None and records > 0 and delta > 1 / records:
        return [
            f"privacy.delta={delta}: must be at most 1/{records} = {1 / records:.1e}, one over the "
            "records of the smallest site; a larger one would allow some records to be published"
        ]
    return []


def _sampling_problems(config: ClientPrivacy) -> list[str]:
    if config.adversary == "outsider" and config.client_sample_rate == 1:
        return [
            "privacy.adversary=outsider: makes a difference only where clients are sampled. "
            "Set privacy.client_sample_rate below 1, or choose privacy.adversary=knows_cohort"
        ]
    return []


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
    if found := problems(config):
        raise ConfigError(found)
    match config:
        case NoPrivacy():
            return None
        case RecordPrivacy():
            return record.make_plan(
                config, sample_rate=sample_rate, steps_per_round=steps_per_round, rounds=rounds
            )
        case ClientPrivacy():
            return client.make_plan(config, rounds=rounds)
        case DistributedPrivacy():
            if population is None:
                raise ValueError("distributed privacy is planned for a population")
            if config.unit == "record" and steps_per_round != 1:
                raise ConfigError([_one_step(steps_per_round)])
            return distributed.make_plan(config, population, sample_rate=sample_rate, rounds=rounds)
        case _:
            assert_never(config)


def _one_step(steps: int) -> str:
    return (
        f"training.local_steps={steps}: with privacy.unit=record the sites share the noise of one "
        "sum of clipped gradients per round. Set training.local_steps=1 and more rounds, or choose "
        "privacy=record, where each site adds its own noise in every step"
    )
