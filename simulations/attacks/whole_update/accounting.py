"""Epsilon by a second accountant."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from fedlearn.auditing.gaussian import epsilon_of
from fedlearn.config import RunConfig
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.results.result import ResultFile

_ROUNDED: Final = 0.02
"""By how much of it an accountant of another making may lie above the promise."""


def accounted(config: RunConfig, plan: PrivacyPlan, result: ResultFile) -> tuple[bool, str]:
    """Whether the promise is no less than a second accountant gives for the steps of the config."""
    steps = config.rounds * (config.training.local_steps if plan.unit == "record" else 1)
    rate = plan.sample_rate if plan.unit == "record" or not plan.cohort_known else 1.0
    least = least_epsilon(plan.noise_multiplier, rate, steps, plan.delta)
    promised = [result.privacy.epsilon or 0.0]
    if not config.privacy.drops_sites:
        promised += [spent.epsilon for spent in result.privacy.per_site.values()]
    return min(promised) >= least * (1 - _ROUNDED), "an epsilon that is less than what was spent"


@lru_cache(maxsize=64)
def least_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """A lower bound on the epsilon of so many noisy sums, from Opacus' accountant."""
    if rate >= 1:
        return epsilon_of(math.sqrt(steps) / noise, delta)
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    error, delta_error = 0.01, delta / 1000
    found = accountant._get_dprv(eps_error=error, delta_error=delta_error)
    lower, _, _ = found.compute_epsilon(delta, delta_error, error)
    return float(lower)
