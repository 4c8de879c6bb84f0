"""Epsilon by a second accountant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final
from warnings import catch_warnings, simplefilter

import numpy as np

from fedlearn.auditing.gaussian import epsilon_of
from fedlearn.config import RunConfig
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.results.result import ResultFile

_ROUNDED: Final = 0.02
"""By how much of it an accountant of another making may lie above the promise."""


def accounted(config: RunConfig, plan: PrivacyPlan, result: ResultFile) -> tuple[bool, str]:
    """Whether the promise is no less than a second accountant gives for the steps of the config."""
    each = config.training.local_steps * config.strategy.trainings
    steps = config.rounds * (each if plan.within_sites else 1)
    rate = plan.sample_rate if plan.within_sites or not plan.cohort_known else 1.0
    history = ((plan.noise_multiplier, rate, steps), *_tested(config, plan), *_screened(plan))
    least = least_epsilon(history, plan.delta)
    promised = [result.privacy.epsilon or 0.0]
    if not config.privacy.drops_sites:
        promised += [spent.epsilon for spent in result.privacy.per_site.values()]
    return min(promised) >= least * (1 - _ROUNDED), "an epsilon that is less than what was spent"


def _tested(config: RunConfig, plan: PrivacyPlan) -> Iterator[tuple[float, float, int]]:
    """The private evaluations of the config, one by one: their noise over what a unit may move."""
    if plan.evaluation is None:
        return
    for number in config.evaluated:
        event = plan.evaluation.event_at(number)
        deviation = event.share_stddev * math.sqrt(event.shares)
        yield deviation / event.l2_sensitivity, 1.0, 1


def _screened(plan: PrivacyPlan) -> Iterator[tuple[float, float, int]]:
    """What sites have given of their tables, likewise."""
    if plan.screening is not None:
        event = plan.screening.event_at(1)
        yield event.share_stddev * math.sqrt(event.shares) / event.l2_sensitivity, 1.0, 1


@lru_cache(maxsize=64)
def least_epsilon(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """A lower bound on the epsilon of noisy sums, from Opacus' accountant.

    `history`: (noise over sensitivity, share of records that are drawn, how many) of each kind.
    """
    if all(rate >= 1 for _, rate, _ in history):
        return epsilon_of(math.sqrt(sum(steps / noise**2 for noise, _, steps in history)), delta)
    from fedlearn.training.opacus_parts import PRVAccountant  # takes a second

    accountant = PRVAccountant()
    accountant.history = list(history)
    error, delta_error = 0.01, delta / 1000
    # log(0), where all records take part; and a first guess by Renyi orders, which it says is one.
    with np.errstate(divide="ignore"), catch_warnings():
        simplefilter("ignore", UserWarning)
        found = accountant._get_dprv(eps_error=error, delta_error=delta_error)
    lower, _, _ = found.compute_epsilon(delta, delta_error, error)
    return float(lower)
