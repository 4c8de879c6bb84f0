"""Distributed privacy: every site adds a share of the noise, and only the noisy sum is ever seen.

Inside secure aggregation nobody sees a single update, so the noise need not
protect each of them: K sites add a K-th of the variance each, instead of all of
it. This file is the configuration and the plan, from which both the encoding
(`encoding`) and the accounting take their numbers. It relies on a sum that is
modular, honest and seen only as a whole: without secure aggregation a single
update is protected by one share only, far too little.

**Which neighbours, which bound.**

- `unit="record"`: a site's update is the sum, over the Poisson-sampled records
  of one step, of gradients clipped to `clip_norm` each. Adding or removing one
  record moves it by at most `clip_norm`. Scaling a too long site sum back onto
  a ball is a projection, which brings no two vectors further apart; stochastic
  rounding may, and `integer_bounds.rounded_sensitivity` bounds it except with
  chance 2^-60 per step, which is added to delta.
- `unit="person"`: the same, with all records of a person as one sample.
- `unit="client"`: a site's update is clipped to `clip_norm` as a whole. The
  neighbour of a data set is the one in which the client's update is zero while
  its share of the noise stays. The rounding is repeated until the rounded
  vector is within the bound, so the bound always holds.

**Who adds noise.** Each share is so large that the shares of
`num_clients - max_dropouts - max_colluders` sites suffice: whoever drops out
adds none, and whoever pools its knowledge with the adversary can subtract its
own. `event` counts the shares of the sites that really survived.

Source: Kairouz, Liu, Steinke 2021 (arXiv 2102.06387), algorithms 1 and 2; the
grid is chosen for the worst input, with the block instead of the dimension.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal

from annotated_types import Ge, Le

from fedlearn.core.errors import ConfigError, PrivacyError, counted
from fedlearn.core.settings import Count, Natural, Positive, Probability, Rate, config
from fedlearn.mechanisms import encoding
from fedlearn.mechanisms.base import (
    NEIGHBOURS,
    NoiseFrom,
    Plan,
    Population,
    Private,
    StudyTerms,
    required,
)
from fedlearn.mechanisms.evaluation import EvaluationPlan
from fedlearn.mechanisms.reach import Reach
from fedlearn.privacy.accounting import ACCOUNTANT
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.discrete import LARGEST_STDDEV, SMALLEST_STDDEV, Law
from fedlearn.privacy.events import DiscreteSumEvent, Unit
from fedlearn.privacy.integer_bounds import rounded_sensitivity
from fedlearn.privacy.rotation import block_of, padded
from fedlearn.stages import Source, Stage, Trained

MOST_BITS: Final = 32

# A coordinate of the sum may reach so many standard deviations before it wraps around.
_RANGE_STDDEVS: Final = 6.0
# Chance per step that records move further apart in rounding than the bound says.
_RECORD_FAILURE: Final = 2.0**-60
# Chance that the rounding of a client's update has to be repeated.
_CLIENT_FAILURE: Final = math.exp(-0.5)
# Float64 rounding in clipping and rotation, over the norm of the vector.
_SLACK: Final = 1e-9
# Rounding may at most double the variance of the noise; beyond that bits are missing.
_MOST_INFLATION: Final = math.sqrt(2)


@config
class DistributedPrivacy(Private):
    """Differential privacy by shares of integer noise inside secure aggregation.

    Give either `epsilon` (the budget of the whole run) or `noise_multiplier`
    (all counted noise over the sensitivity). `bits` is the size of a
    coordinate of the sum. `max_dropouts` sites per round may fall silent and
    `max_colluders` sites may pool what they know with the coordinator before
    the promise breaks; with at least one colluder it holds against each other
    site as well.
    """

    kind: Literal["distributed"] = "distributed"
    unit: Unit = "record"
    mechanism: Law = "discrete_gaussian"
    epsilon: Positive | None = None
    noise_multiplier: Positive | None = None
    delta: Probability = 1e-5
    clip_norm: Positive = 1.0
    bits: Annotated[int, Ge(8), Le(MOST_BITS)] = 20
    max_dropouts: Natural = 0
    max_colluders: Natural = 1
    on_exhausted: Literal["stop", "drop_site"] = "stop"

    noise_from: ClassVar[NoiseFrom] = "shares"
    needs_population: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    @property
    def colluders(self) -> int:
        """They can subtract their shares, and no others: all else rests on the masks."""
        return self.max_colluders

    def fewest(self, sites: int) -> int:
        """All but those that may fall silent."""
        return sites - self.max_dropouts

    def conflicts(self, terms: StudyTerms) -> list[str]:
        """The noise is planned for one unseen sum over all sites; of single records, one step."""
        found = list[str]()
        if not terms.summed:
            found.append(
                f"secagg={terms.secagg}: under privacy=distributed a single update carries a share "
                "of the noise only and must not be seen. Choose secagg=masked, or privacy=record"
            )
        if terms.fraction < 1:
            found.append(
                f"strategy.fraction={terms.fraction:g}: under privacy=distributed the noise "
                "is planned for all sites in every round. Set strategy.fraction=1.0"
            )
        if self.within_sites and terms.local_steps != 1:
            found.append(_one_step(terms.local_steps))
        if self.within_sites and terms.optimizer != "sgd":
            found.append(
                f"training.optimizer={terms.optimizer}: with privacy.unit=record the step is "
                "taken on the sum of all sites. Set training.optimizer=sgd, with strategy=fedadam "
                "for adaptive steps"
            )
        return found

    def clips_with(self, engine: str) -> str | None:
        """Our own engine, whatever the config names: it alone gives the sum itself."""
        return "fast" if self.within_sites else None

    def plan(
        self,
        *,
        sample_rate: float,
        steps_per_round: int,
        rounds: int,
        population: Population | None,
    ) -> DistributedPlan:
        """The shares of all sites that have joined.

        Raises:
            ValueError: there is no population.
        """
        if population is None:
            raise ValueError("distributed privacy is planned for a population")
        if self.within_sites and steps_per_round != 1:
            raise ConfigError([_one_step(steps_per_round)])
        return make_plan(self, population, sample_rate=sample_rate, rounds=rounds)

    def by_person(self) -> DistributedPrivacy:
        """With all records of a person as one."""
        return replace(self, unit="person")

    def measured(self, noise_multiplier: float | None) -> DistributedPrivacy:
        """The same with so much noise in the sum."""
        return replace(self, epsilon=None, noise_multiplier=noise_multiplier)


@config
class DistributedPlan(Plan):
    """What every site does in every round, and what it costs; all of it public."""

    kind: ClassVar[str] = "distributed"
    law: Law
    unit: Unit
    bits: int
    clip_norm: Positive
    range_norm: Positive
    """A site's whole update is scaled down to this norm."""
    granularity: Positive
    """The real number that one integer step stands for."""
    share_stddev: Count
    """Standard deviation of one site's noise, in integer steps."""
    dimension: Count
    num_clients: Count
    max_dropouts: Natural
    max_colluders: Natural
    delta: Probability
    sample_rate: Rate
    rounds: Count
    steps_per_round: Literal[1] = 1
    evaluation: EvaluationPlan | None = None
    screening: EvaluationPlan | None = None

    @property
    def min_survivors(self) -> int:
        """With fewer sites in the sum nothing may be released."""
        return self.num_clients - self.max_dropouts

    @property
    def rounded_norm(self) -> float:
        """Bound on the distance of neighbours after rounding, in integer steps."""
        distance = (self.clip_norm + _SLACK * self.range_norm) / self.granularity
        failure = _RECORD_FAILURE if self.within_sites else _CLIENT_FAILURE
        return rounded_sensitivity(distance, padded(self.dimension), failure)

    @property
    def noise_multiplier(self) -> float:
        """All counted noise over the sensitivity, for the fewest survivors."""
        return self.round_event.noise_multiplier

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on a coordinate of the sum if nobody drops out."""
        return math.sqrt(self.num_clients) * self.share_stddev * self.granularity

    @property
    def round_event(self) -> DiscreteSumEvent:
        """What one round costs at most: for the fewest survivors that are allowed."""
        return self.event(self.min_survivors)

    @property
    def total_event(self) -> DiscreteSumEvent:
        """What the whole run costs at most."""
        return replace(self.round_event, steps=self.rounds)

    @property
    def accountant(self) -> str:
        """What reports call the method behind `epsilon`."""
        return "Renyi differential privacy" if self.law == "skellam" else ACCOUNTANT

    @property
    def relation(self) -> str:
        """Which data sets are neighbours: a client that is taken away still sends its noise."""
        return (
            NEIGHBOURS[self.unit] if self.within_sites else "replace all data of one client by none"
        )

    @property
    def colluders(self) -> int:
        """Of the noise that is counted, none is theirs."""
        return self.max_colluders

    @property
    def needs_sum(self) -> bool:
        """One share of the noise is no protection."""
        return True

    def source(self, terms: StudyTerms) -> Source:
        """Clipped gradients for one common step, or a model that is trained as without privacy."""
        if self.unit == "client":
            return Trained()
        records = self.num_clients * terms.sample_rate * terms.nominal_records
        return encoding.CommonStep(self, terms.learning_rate, terms.weight_decay, records)

    def stages(self, terms: StudyTerms) -> tuple[Stage, ...]:
        """Whole numbers with a share of the noise."""
        return (encoding.NoisyIntegers(self),)

    def reach(self, terms: StudyTerms, clip_norm: float | None = None) -> Reach | None:
        """In steps of the grid: the bound on a whole update, rounded, and a share of the noise.

        A rounding is half a step at most from its mean, and so no heavier than a Gaussian of
        half a step. Skellam noise is heavier than a Gaussian of its variance, and within twelve
        deviations lighter than one of twice that.
        """
        if terms.step_share is None:
            return None
        heavier = 2 if self.law == "skellam" else 1
        if self.unit == "client":
            signal, rounding = self.rounded_norm, 0.0
        else:
            signal, rounding = self.range_norm / self.granularity * (1 + _SLACK), 0.25
        noise = math.sqrt(heavier * self.share_stddev**2 + rounding)
        return Reach(signal=signal, noise=noise, clips=True)

    def noise_in_mean(self, terms: StudyTerms, there: int, sites: int) -> float:
        """Of one sum over all sites; of single records, for one common step."""
        if not self.within_sites:
            return self.noise_stddev / self.num_clients
        records = self.num_clients * terms.sample_rate * terms.nominal_records
        return terms.learning_rate * self.noise_stddev / records

    def cost(self, survivors: int) -> DiscreteSumEvent:
        """Noise in shares is counted for the sites that are in the sum."""
        return self.event(survivors) if survivors >= self.min_survivors else self.round_event

    def event(self, survivors: int) -> DiscreteSumEvent:
        """What one round cost whose sum holds the updates of `survivors` sites.

        Raises:
            PrivacyError: they are too few, or more than were invited.
        """
        if not self.min_survivors <= survivors <= self.num_clients:
            raise PrivacyError(
                f"the sum of a round holds {counted(survivors, 'site')}, and its noise is "
                "planned for "
                f"{self.min_survivors} to {self.num_clients}: it must not be released. "
                "Raise privacy.max_dropouts if sites often fall silent"
            )
        return DiscreteSumEvent(
            law=self.law,
            unit=self.unit,
            l2_sensitivity=self.rounded_norm * (1 + _SLACK),
            share_stddev=self.share_stddev,
            shares=survivors - self.max_colluders,
            dimension=padded(self.dimension),
            rounding_failure=_RECORD_FAILURE if self.within_sites else 0.0,
            sample_rate=self.sample_rate,
            steps=1,
        )


def make_plan(
    config: DistributedPrivacy, population: Population, *, sample_rate: float, rounds: int
) -> DistributedPlan:
    """The plan of a run: the least noise that meets the budget, on the finest grid that fits.

    `sample_rate` is that of records, or persons, and counts for no other unit.

    Guarantees: with `config.epsilon` given, `plan.epsilon` is at most that; a
    coordinate of the sum wraps around with a chance below 4e-8, whatever the updates.

    Raises:
        ConfigError: too few bits (says how many are needed), too few sites, or an
            epsilon that cannot be met.
    """
    honest = population.num_clients - population.uneven
    honest -= config.max_dropouts + config.max_colluders
    if honest < 1:
        raise ConfigError([_too_few_sites(config, population)])
    rate = sample_rate if config.within_sites else 1.0

    def plan(noise: float) -> DistributedPlan:
        return _with_noise(config, population, noise, rate, rounds)

    if config.noise_multiplier is not None:
        return plan(config.noise_multiplier)
    target = required(config.epsilon)
    low = noise_multiplier(target, config.delta, rate, rounds)
    high, found = low, plan(low)
    while found.epsilon > target:
        low, high = high, high * 1.02
        found = plan(high)
    # To four digits, like the noise of a continuous Gaussian.
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        trial = plan(middle)
        if trial.epsilon > target:
            low = middle
        else:
            high, found = middle, trial
    return found


def _with_noise(
    config: DistributedPrivacy, population: Population, noise: float, rate: float, rounds: int
) -> DistributedPlan:
    """The plan with a given noise multiplier, on the finest grid that `config.bits` allow."""
    coarsest = _coarsest(config, population)
    if not _fits(_on_grid(config, population, noise, rate, rounds, coarsest), config.bits):
        raise ConfigError([_too_few_bits(config, population, noise)])
    # All that has to fit shrinks as the grid gets coarser, so bisection finds the finest grid.
    low, high = math.log(coarsest) - 80, math.log(coarsest)
    while high - low > 1e-3:
        middle = (low + high) / 2
        trial = _on_grid(config, population, noise, rate, rounds, math.exp(middle))
        low, high = (low, middle) if _fits(trial, config.bits) else (middle, high)
    # Few digits, so that small differences between machines' logarithms do not show.
    mantissa, exponent = math.frexp(math.exp(high))
    granularity = math.ldexp(math.ceil(mantissa * 64) / 64, exponent)
    return _on_grid(config, population, noise, rate, rounds, granularity)


def _on_grid(
    config: DistributedPrivacy,
    population: Population,
    noise: float,
    rate: float,
    rounds: int,
    granularity: float,
) -> DistributedPlan:
    records = population.records_per_step if config.within_sites else 1.0
    plan = DistributedPlan(
        law=config.mechanism,
        unit=config.unit,
        bits=config.bits,
        clip_norm=config.clip_norm,
        range_norm=config.clip_norm * max(records, 1.0),
        granularity=granularity,
        share_stddev=SMALLEST_STDDEV,
        dimension=population.dimension,
        num_clients=population.num_clients,
        max_dropouts=config.max_dropouts + population.uneven,
        max_colluders=config.max_colluders,
        delta=config.delta,
        sample_rate=rate,
        rounds=rounds,
    )
    needed = noise * plan.rounded_norm * (1 + _SLACK) / math.sqrt(plan.round_event.shares)
    return replace(plan, share_stddev=max(SMALLEST_STDDEV, math.ceil(needed)))


def _fits(plan: DistributedPlan, bits: int) -> bool:
    """Whether the sum of all sites stays inside the ring, and a share inside its table."""
    signal = (plan.num_clients * plan.range_norm / plan.granularity) ** 2 / block_of(plan.dimension)
    noise = plan.num_clients * (plan.share_stddev**2 + 0.25)
    inside = 2 * _RANGE_STDDEVS * math.sqrt(signal + noise) <= 2.0**bits
    return inside and plan.share_stddev <= LARGEST_STDDEV


def _coarsest(config: DistributedPrivacy, population: Population) -> float:
    """The grid on which rounding makes the sensitivity as large as we let it become."""
    failure = _RECORD_FAILURE if config.within_sites else _CLIENT_FAILURE
    length, low, high = padded(population.dimension), -80.0, 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        steps = math.exp(-middle)
        good = rounded_sensitivity(steps, length, failure) <= _MOST_INFLATION * steps
        low, high = (middle, high) if good else (low, middle)
    return config.clip_norm * math.exp(low)


def _too_few_sites(config: DistributedPrivacy, population: Population) -> str:
    return (
        f"privacy.max_dropouts={config.max_dropouts} and privacy.max_colluders="
        f"{config.max_colluders}: leave none of {counted(population.num_clients, 'site')} "
        "to add noise. "
        "Lower one of them, invite more sites, or choose privacy=record"
    )


def _too_few_bits(config: DistributedPrivacy, population: Population, noise: float) -> str:
    grid = _coarsest(config, population)
    trial = _on_grid(config, population, noise, 1.0, 1, grid)
    way_out = "Fewer sites, fewer records per step, a smaller model or less noise would need less"
    for bits in range(config.bits + 1, MOST_BITS + 1):
        if _fits(trial, bits):
            way_out = f"Set privacy.bits={bits} or, better, {min(bits + 3, MOST_BITS)}"
            break
    return (
        f"privacy.bits={config.bits}: too few for the sum of "
        f"{counted(population.num_clients, 'site')} with "
        f"{population.dimension} coordinates: rounding would cost more than the noise. {way_out}"
    )


def _one_step(steps: int) -> str:
    return (
        f"training.local_steps={steps}: with privacy.unit=record the sites share the noise of one "
        "sum of clipped gradients per round. Set training.local_steps=1 and more rounds, or choose "
        "privacy=record, where each site adds its own noise in every step"
    )
