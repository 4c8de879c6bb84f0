"""Record-level privacy with noise that every site adds itself: configuration and plan."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedlearn.core.settings import Count, NonNegative, Positive, Probability, Rate, config
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.events import GaussianEvent


@config
class RecordPrivacy:
    """Differential privacy for every single record, by noise that each site adds itself.

    Give either `epsilon` (the budget of the whole run; the noise follows) or
    `noise_multiplier` (the epsilon follows). `clip_norm` bounds what one record
    may add to a sum. A noise multiplier of zero (clipping only, for studies) is
    allowed and reported as an infinite epsilon. `on_exhausted` says what happens
    when a site cannot pay for the next round: the run stops, or goes on without
    the site.
    """

    kind: Literal["record"] = "record"
    unit: ClassVar[Literal["record"]] = "record"
    epsilon: Positive | None = None
    noise_multiplier: NonNegative | None = None
    delta: Probability = 1e-5
    clip_norm: Positive = 0.1
    on_exhausted: Literal["stop", "drop_site"] = "stop"


@config
class RecordPlan:
    """What every site does in every step, and what it costs; all of it public.

    In each step a site takes every record with chance `sample_rate`, clips what
    the record adds to the sum to `clip_norm`, and adds `noise_stddev` of
    Gaussian noise to every coordinate of the sum, however many records took part.
    """

    kind: ClassVar[str] = "record"
    clip_norm: Positive
    noise_multiplier: NonNegative
    delta: Probability
    sample_rate: Rate
    steps_per_round: Count
    rounds: Count
    unit: Literal["record"] = "record"

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on every coordinate of the clipped sum."""
        return self.noise_multiplier * self.clip_norm

    @property
    def round_event(self) -> GaussianEvent:
        """What one round costs a site."""
        return self._event(self.steps_per_round)

    @property
    def total_event(self) -> GaussianEvent:
        """What the whole run costs a site that takes part in all rounds."""
        return self._event(self.steps_per_round * self.rounds)

    @property
    def epsilon(self) -> float:
        """The epsilon of the whole run at `delta`."""
        return epsilon([self.total_event], self.delta)

    def _event(self, steps: int) -> GaussianEvent:
        return GaussianEvent(
            noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate, steps=steps
        )


def make_plan(
    config: RecordPrivacy, *, sample_rate: float, steps_per_round: int, rounds: int
) -> RecordPlan:
    """The plan of a run; the noise is calibrated over all its steps at once.

    Raises ConfigError if the epsilon cannot be met.
    """
    return RecordPlan(
        clip_norm=config.clip_norm,
        noise_multiplier=_noise(config, sample_rate, steps_per_round * rounds),
        delta=config.delta,
        sample_rate=sample_rate,
        steps_per_round=steps_per_round,
        rounds=rounds,
    )


def _noise(config: RecordPrivacy, sample_rate: float, steps: int) -> float:
    if config.noise_multiplier is not None:
        return config.noise_multiplier
    if config.epsilon is None:
        raise RuntimeError("a config without epsilon and noise_multiplier was not refused")
    return noise_multiplier(config.epsilon, config.delta, sample_rate, steps)
