"""Statistics of a table: one release of sums of all records, which the whole budget goes to.

A record adds a vector to each of several sums; together they are one vector of whole numbers, with
one noise. What a site gives is rounded once, as a sum: that moves neighbours apart by at most 1 in
each number, and so by the root of their count in the norm.

Where the categories of a column are not public, a category is named only where its noisy count is
above a threshold that the count of a single record passes with a small chance. That chance is part
of delta, as `rounding_failure` of the event: with it left out, all that is released is a function
of sums over categories that both of two neighbours have (Korolova, Kenthapadi, Mishra and Ntoulas
2009; Wilkins, Kifer, Zhang and Karrer 2024 for Gaussian noise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final

from scipy.special import ndtri

from fedlearn.core.errors import ConfigError, counted
from fedlearn.core.settings import Natural, Portion, Probability, config
from fedlearn.mechanisms.base import Mechanism, Plan
from fedlearn.mechanisms.evaluation import EvaluationPlan
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.discrete import SMALLEST_STDDEV, Law
from fedlearn.privacy.events import DiscreteSumEvent, Unit

THRESHOLD_SHARE: Final = 0.05
"""Of delta, for categories that are not public."""

_FINEST: Final = 1 << 13
_COARSEST: Final = 1 << 7
"""Steps that the addition of a record is cut into: the more, the less rounding costs."""
_LARGEST_STDDEV: Final = 1 << 15
_CLOSER: Final = 1.0005
_TRIES: Final = 40


@config
class RoundedSums(EvaluationPlan):
    """Sums that are rounded once each; `failure` is the part of delta that a threshold takes."""

    failure: Portion = 0.0

    @property
    def l2_sensitivity(self) -> float:
        """How far one unit moves the integer vector."""
        return super().l2_sensitivity + math.sqrt(self.dimension)

    def _event(self, stddev: int, steps: int) -> DiscreteSumEvent:
        return replace(super()._event(stddev, steps), rounding_failure=self.failure)


@config
class StatisticsPlan(Plan):
    """What every site gives of its table, once, and what that costs; all of it public."""

    kind: ClassVar[str] = "statistics"
    unit: Unit
    delta: Probability
    screening: RoundedSums
    num_clients: Natural = 0
    max_dropouts: Natural = 0
    max_colluders: Natural = 0
    """Where noise comes in shares: how many sites there are, and whose is not counted on."""

    clip_norm: ClassVar[float] = 1.0
    sample_rate: ClassVar[float] = 1.0
    steps_per_round: ClassVar[int] = 1
    rounds: ClassVar[int] = 1

    @property
    def law(self) -> Law:
        """Of the noise."""
        return self.screening.law

    @property
    def round_event(self) -> DiscreteSumEvent:
        """The one release."""
        return self.screening.event_at(1)

    @property
    def total_event(self) -> DiscreteSumEvent:
        """The same."""
        return self.round_event

    @property
    def events(self) -> tuple[DiscreteSumEvent, ...]:
        """It is all that the run costs."""
        return self.screening.events

    @property
    def noise_multiplier(self) -> float:
        """All counted noise over the sensitivity."""
        return self.round_event.noise_multiplier

    @property
    def noise_stddev(self) -> float:
        """Over the sensitivity, which stands for a clip norm of 1."""
        return self.noise_multiplier

    @property
    def accountant(self) -> str:
        """What reports call the method behind `epsilon`."""
        return "Renyi differential privacy" if self.law == "skellam" else super().accountant

    @property
    def min_survivors(self) -> int:
        """With fewer sites in the sum nothing may be released."""
        return self.num_clients - self.max_dropouts

    @property
    def colluders(self) -> int:
        """Of the noise that is counted, none is theirs."""
        return self.max_colluders

    @property
    def needs_sum(self) -> bool:
        """One share of the noise is no protection."""
        return self.num_clients > 0

    @property
    def protects_alone(self) -> bool:
        """Where every site adds the full noise."""
        return not self.needs_sum

    def named_from(self, noise: float, alone: int) -> float:
        """The count from which on a category is named that is not public.

        Args:
            noise: the deviation of the noise on the count.
            alone: such categories that one record, or person, can have, times how often each is
                counted.

        Guarantees: the categories that one record, or person, alone has are all below it, except
        with a chance of the event's `rounding_failure` over e^epsilon.

        Source: Wilkins, Kifer, Zhang and Karrer 2024, "Exact privacy analysis of the Gaussian
        sparse histogram mechanism".
        """
        chance = self.screening.failure * math.exp(-min(self.epsilon, 50.0)) / max(alone, 1)
        return 1.0 - noise * float(ndtri(chance)) if chance else math.inf


def statistics_plan(
    settings: Mechanism,
    weights: Sequence[float],
    dimension: int,
    *,
    sites: int,
    hidden: bool,
    guarded: bool,
) -> StatisticsPlan | None:
    """The plan of a release; None where nothing is promised.

    Args:
        weights: of the sums that a record adds to: their parts of the precision.
        dimension: numbers of all of them.
        sites: those that have joined.
        hidden: whether nobody sees the sums of a single site. Only then may noise come in shares.
        guarded: whether there are columns whose categories are not public.

    Guarantees: where the settings ask for an epsilon, it costs no more.

    Raises:
        ConfigError: the epsilon cannot be met, or the noise counts on more sites than there are.
    """
    unit = settings.unit
    if unit == "none" or settings.delta is None:
        return None
    failure = THRESHOLD_SHARE * settings.delta if guarded else 0.0
    plan = StatisticsPlan(
        unit=unit,
        delta=settings.delta,
        screening=_rounded(unit, settings, weights, dimension, failure),
    )
    if settings.noise_from == "shares" and hidden:
        plan = _in_shares(plan, settings, sites)
    target: float | None = getattr(settings, "epsilon", None)
    noise: float | None = getattr(settings, "noise_multiplier", None)
    if target is not None:
        noise = noise_multiplier(target, settings.delta - failure, 1.0, 1)
    if noise is None:
        raise ConfigError(["privacy.epsilon: must be given for statistics"])
    for _ in range(_TRIES):
        found = _on_grid(plan, weights, noise)
        if target is None:
            return found
        spent = epsilon(found.events, found.delta, unit=unit)
        if spent <= target:
            return found
        noise *= max(_CLOSER, spent / target)
    raise ConfigError([f"privacy.epsilon={target:g}: no noise meets it; choose a smaller one"])


def _rounded(
    unit: Unit, settings: Mechanism, weights: Sequence[float], dimension: int, failure: float
) -> RoundedSums:
    return RoundedSums(
        unit=unit,
        law=getattr(settings, "mechanism", "discrete_gaussian"),
        rounds=1,
        every=1,
        steps=(1,) * len(weights),
        stddev=0,
        last_stddev=SMALLEST_STDDEV,
        shares=1,
        dimension=dimension,
        failure=failure,
    )


def _in_shares(plan: StatisticsPlan, settings: Mechanism, sites: int) -> StatisticsPlan:
    fewest, colluders = settings.fewest(sites), settings.colluders
    if fewest - colluders < 1:
        raise ConfigError(
            [
                f"privacy.max_colluders={colluders}: of {counted(sites, 'site')} none is left "
                "whose noise counts. Invite more sites, or choose privacy=record"
            ]
        )
    return replace(
        plan,
        screening=replace(plan.screening, shares=fewest - colluders),
        num_clients=sites,
        max_dropouts=sites - fewest,
        max_colluders=colluders,
    )


def _on_grid(plan: StatisticsPlan, weights: Sequence[float], noise: float) -> StatisticsPlan:
    """With so much noise over the sensitivity, on the finest grid whose noise a table holds."""
    fine = _FINEST
    while fine >= _COARSEST:
        steps = tuple(max(1, round(fine * math.sqrt(weight))) for weight in weights)
        sums = replace(plan.screening, steps=steps)
        stddev = math.ceil(noise * sums.l2_sensitivity / math.sqrt(sums.shares))
        if stddev <= _LARGEST_STDDEV:
            sums = replace(sums, last_stddev=max(SMALLEST_STDDEV, stddev))
            return replace(plan, screening=sums)
        fine //= 2
    raise ConfigError(
        [
            f"privacy: noise of {noise:.3g} times what a record adds leaves nothing of a table. "
            "Raise privacy.epsilon"
        ]
    )
