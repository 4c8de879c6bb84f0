"""Privacy for records, or persons, with noise that every site adds itself: settings and plan.

With `unit="person"` all records of a person together are one sample of every sum: drawn by one
coin, clipped to one norm (`fedlearn.training.persons`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from fedlearn.core.settings import Count, NonNegative, Positive, Probability, Rate, config
from fedlearn.mechanisms.base import (
    NoiseFrom,
    Plan,
    Population,
    Private,
    Sampled,
    StudyTerms,
    refuse,
)
from fedlearn.mechanisms.evaluation import EvaluationPlan
from fedlearn.mechanisms.reach import Reach
from fedlearn.privacy.calibration import LARGEST_NOISE
from fedlearn.privacy.events import GaussianEvent, PersonGaussianEvent
from fedlearn.stages import SiteContext, Source, Update

_SMALLEST_CLIP: Final = 1e-8
_LARGEST_CLIP: Final = 1e30

_ADAM: Final = 3.2
"""A step of Adam moves a value by (1 - beta_1) / sqrt(1 - beta_2) = 3.17 of its rate at most
(Kingma and Ba 2015, section 2.1, at the betas of torch)."""

_ROUNDED: Final = 1 + 1e-3
"""The grid of the noise takes 2^-12 of a clip norm at most, and weights are in float32."""


@config
class RecordPrivacy(Private):
    """Differential privacy for every record, or person, by noise that each site adds itself.

    Give either `epsilon` (the budget of the whole run; the noise follows) or
    `noise_multiplier` (the epsilon follows). `clip_norm` bounds what one record
    (person) may add to a sum. `unit` is "person" where `scenario.person` says whose
    records are. A noise multiplier of zero (clipping only, for studies) is
    allowed and reported as an infinite epsilon. `on_exhausted` says what happens
    when a site cannot pay for the next round: the run stops, or goes on without
    the site.
    """

    kind: Literal["record"] = "record"
    epsilon: Positive | None = None
    noise_multiplier: NonNegative | None = None
    delta: Probability = 1e-5
    clip_norm: Positive = 1.0
    on_exhausted: Literal["stop", "drop_site"] = "stop"

    unit: Annotated[Sampled, Field(exclude_if=lambda unit: unit == "record")] = "record"

    noise_from: ClassVar[NoiseFrom] = "site"
    exact: ClassVar[bool] = True

    def conflicts(self, terms: StudyTerms) -> list[str]:
        """What Opacus cannot clip: norms in less than fp32."""
        found = list[str]()
        if terms.precision != "fp32" and terms.engine != "fast":
            found.append(
                f"training.precision={terms.precision}: with training.dp_engine={terms.engine} "
                "norms would be rounded as well. Set training.dp_engine=fast, or "
                "training.precision=fp32"
            )
        return found

    def plan(
        self,
        *,
        sample_rate: float,
        steps_per_round: int,
        rounds: int,
        population: Population | None,
    ) -> RecordPlan:
        """The noise of every step of every site, calibrated over all of them at once.

        Raises:
            ConfigError: the epsilon cannot be met, or no grid holds such noise.
        """
        noise = self.calibrated(sample_rate, steps_per_round * rounds)
        refuse(self._off_the_grid(noise))
        return RecordPlan(
            clip_norm=self.clip_norm,
            noise_multiplier=noise,
            delta=self.delta,
            sample_rate=sample_rate,
            steps_per_round=steps_per_round,
            rounds=rounds,
            unit=self.unit,
        )

    def _off_the_grid(self, noise: float) -> list[str]:
        found = list[str]()
        if noise > LARGEST_NOISE:
            found.append(
                f"privacy.noise_multiplier={noise:g}: no model survives more than "
                f"{LARGEST_NOISE:g}. Give less, or privacy.epsilon, from which it follows"
            )
        if not _SMALLEST_CLIP <= self.clip_norm <= _LARGEST_CLIP:
            found.append(
                f"privacy.clip_norm={self.clip_norm:g}: gradients in single precision can be "
                f"clipped to norms from {_SMALLEST_CLIP:g} to {_LARGEST_CLIP:g}. Choose one"
            )
        return found

    def by_person(self) -> RecordPrivacy:
        """With all records of a person as one."""
        return replace(self, unit="person")

    def measured(self, noise_multiplier: float | None) -> RecordPrivacy:
        """The same with so much noise in every step."""
        return replace(self, epsilon=None, noise_multiplier=noise_multiplier)


@config
class RecordPlan(Plan):
    """What every site does in every step, and what it costs; all of it public.

    In each step a site takes every record (person) with chance `sample_rate`, clips what
    it adds to the sum to `clip_norm`, rounds the sum to a grid, and adds `noise_stddev` of
    Gaussian noise, rounded to the same grid, to every coordinate, however many took part.
    Clipping leaves room for the rounding (`fedlearn.privacy.rounded.Grid`), so that the event is
    that of a Gaussian and of the whole clip norm.
    """

    kind: ClassVar[str] = "record"
    clip_norm: Positive
    noise_multiplier: NonNegative
    delta: Probability
    sample_rate: Rate
    steps_per_round: Count
    rounds: Count
    unit: Sampled = "record"
    evaluation: EvaluationPlan | None = None
    screening: EvaluationPlan | None = None

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on every coordinate of the clipped sum."""
        return self.noise_multiplier * self.clip_norm

    @property
    def round_event(self) -> GaussianEvent | PersonGaussianEvent:
        """What one round costs a site."""
        return self._event(self.steps_per_round)

    @property
    def total_event(self) -> GaussianEvent | PersonGaussianEvent:
        """What the whole run costs a site that takes part in all rounds."""
        return self._event(self.steps_per_round * self.rounds)

    @property
    def protects_alone(self) -> bool:
        """Every site adds the full noise."""
        return True

    def source(self, terms: StudyTerms) -> Source:
        """Private training; what leaves it has its noise already."""
        return NoisyTraining(self, self._step_norm(terms))

    def _step_norm(self, terms: StudyTerms) -> float | None:
        """The norm that a step's sum of clipped gradients is scaled down to, before its noise."""
        if terms.step_share is None:
            return None
        expected = self.sample_rate * terms.nominal_records
        return max(1.0, terms.step_share * expected) * self.clip_norm

    def reach(self, terms: StudyTerms, clip_norm: float | None = None) -> Reach | None:
        """Steps of bounded sums, each with its noise, as the optimiser adds them up.

        Plain gradient descent adds them up with public factors. Adam moves a coordinate by its
        rate times a factor at most, noise or not. Where decay or an algorithm moves steps
        besides, or more vectors travel, nothing is known: then thrice what plain steps reach,
        noise included, to which sites cut what they send.
        """
        norm = self._step_norm(terms)
        if norm is None:
            return None
        steps = range(1, terms.local_steps + 1)
        if terms.optimizer != "sgd":
            most = terms.learning_rate * _ADAM * terms.local_steps
            return Reach(signal=most, per_value=True, loose=3.0 if terms.corrected else 1.0)
        unit = terms.learning_rate / (self.sample_rate * terms.nominal_records)
        # What is left of a step after as many as follow it.
        factors = [sum(terms.momentum**i for i in range(k)) for k in steps]
        signal = unit * norm * sum(factors) * _ROUNDED
        noise = unit * self.noise_stddev * math.sqrt(sum(f * f for f in factors))
        loose = terms.corrected or terms.weight_decay > 0
        return Reach(signal=signal, noise=noise, adds_up=not loose, loose=3.0 if loose else 1.0)

    def noise_in_mean(self, terms: StudyTerms, there: int, sites: int) -> float:
        """Of every step of every site, independent of one another."""
        unit = terms.learning_rate / (self.sample_rate * terms.nominal_records)
        steps = self.steps_per_round / there if there else 0.0
        return unit * self.noise_stddev * math.sqrt(steps)

    def _event(self, steps: int) -> GaussianEvent | PersonGaussianEvent:
        event = PersonGaussianEvent if self.unit == "person" else GaussianEvent
        return event(
            noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate, steps=steps
        )


@dataclass(frozen=True)
class NoisyTraining(Source):
    """DP-SGD at the site; `step_norm` is what the sum of a step is scaled down to, if to any."""

    steps: RecordPlan
    step_norm: float | None = None

    def produce(self, site: SiteContext) -> Update:
        """The site's model; every site counts alike, for a weight would tell its records."""
        return Update(values=site.train_privately(self.steps, self.step_norm))
