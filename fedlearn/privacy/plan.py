"""From what the user asked for to what the mechanism does, what it costs and what it promises.

A `PrivacyPlan` is derived once per run. Clip norm, noise, events and the
statement all come from it, so that they cannot disagree: nothing else in the
project writes an epsilon beside a noise multiplier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, assert_never

from fedlearn.errors import ConfigError
from fedlearn.privacy.accounting import ACCOUNTANT, SMALLEST_DELTA, epsilon
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.events import GaussianEvent
from fedlearn.settings import Count, NonNegative, Positive, Probability, Rate


@dataclass(frozen=True, kw_only=True)
class NoPrivacy:
    """No differential privacy: updates leave the sites as they are."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class RecordPrivacy:
    """Differential privacy for every single record, by noise that each site adds itself.

    Give either `epsilon` (the budget of the whole run; the noise follows) or
    `noise_multiplier` (the epsilon follows). `clip_norm` bounds what one record
    may add to a sum. A noise multiplier of zero (clipping only, for studies) is
    allowed and reported as an infinite epsilon. `on_exhausted` says what happens
    when a site cannot pay for the next round: the run stops, or goes on without it.
    """

    kind: Literal["record"] = "record"
    epsilon: Positive | None = None
    noise_multiplier: NonNegative | None = None
    delta: Probability = 1e-5
    clip_norm: Positive = 0.1
    on_exhausted: Literal["stop", "drop_site"] = "stop"


Privacy = NoPrivacy | RecordPrivacy


def problems(config: Privacy, *, records: int | None = None) -> list[str]:
    """What is wrong with a config beyond the range of its single fields; empty if nothing is.

    `records` is the number of records of the smallest site, where it is known.
    """
    match config:
        case NoPrivacy():
            return []
        case RecordPrivacy():
            return [*_choice_problems(config), *_delta_problems(config.delta, records)]
        case _:
            assert_never(config)


def _choice_problems(config: RecordPrivacy) -> list[str]:
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


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What every site does in every step, and what it costs; all of it public.

    In each step a site takes every record with chance `sample_rate`, clips what
    the record adds to the sum to `clip_norm`, and adds `noise_stddev` of
    Gaussian noise to every coordinate of the sum, however many records took part.
    """

    clip_norm: Positive
    noise_multiplier: NonNegative
    delta: Probability
    sample_rate: Rate
    steps_per_round: Count
    rounds: Count

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


def derive(
    config: Privacy, *, sample_rate: float, steps_per_round: int, rounds: int
) -> PrivacyPlan | None:
    """The plan of a run, None if it has no privacy.

    `sample_rate`, `steps_per_round` and `rounds` must be public constants, the
    same whatever the number of records: a rate computed from a private count is
    itself a leak.

    Raises ConfigError if the config is contradictory or its epsilon cannot be met.
    """
    if found := problems(config):
        raise ConfigError(found)
    match config:
        case NoPrivacy():
            return None
        case RecordPrivacy():
            return PrivacyPlan(
                clip_norm=config.clip_norm,
                noise_multiplier=_noise(config, sample_rate, steps_per_round * rounds),
                delta=config.delta,
                sample_rate=sample_rate,
                steps_per_round=steps_per_round,
                rounds=rounds,
            )
        case _:
            assert_never(config)


def _noise(config: RecordPrivacy, sample_rate: float, steps: int) -> float:
    if config.noise_multiplier is not None:
        return config.noise_multiplier
    if config.epsilon is None:
        raise RuntimeError("a config without epsilon and noise_multiplier was not refused")
    return noise_multiplier(config.epsilon, config.delta, sample_rate, steps)


def statement(plan: PrivacyPlan | None, *, epsilon: float, noise_is_private: bool) -> str:
    """What was promised to the people in the data, in words for people.

    `epsilon` is the largest that any site spent in this run; it may be less than
    `plan.epsilon` when the run ended early.
    """
    if plan is None:
        return (
            "No differential privacy: the model and the updates may reveal records of the "
            "training data."
        )
    if not noise_is_private:
        return (
            "No privacy is claimed: the noise came from a repeatable seed, and whoever knows the "
            "seed can remove it."
        )
    if math.isinf(epsilon):
        return (
            "No privacy holds: there was no noise, or next to none, so single records of the "
            "training data may be revealed."
        )
    return " ".join(
        (
            f"Each single record is protected with epsilon {_rounded_up(epsilon)} and delta "
            f"{plan.delta:g}: whether one record (a row of a site's training data) is added or "
            "removed changes the chance of anything seen from this run by at most the factor "
            f"e^epsilon, except for a chance of about {plan.delta:g}.",
            "This holds against the coordinator, the other sites and everyone who gets the model, "
            "because each site adds the full noise before anything leaves it; it does not hold "
            "against the site itself, and a person with several records is protected less.",
            _sampling(plan),
            f"Epsilon was computed by {ACCOUNTANT} over all rounds that were run, taking the noise "
            "to be ideally Gaussian.",
            "Not covered: metrics computed on test data and released in clear, settings that were "
            "chosen by looking at the data, and what was published from the same data elsewhere. "
            "Taken as public: the number of steps, the sample rate, the clip norm and the value "
            "ranges of the columns.",
        )
    )


def _sampling(plan: PrivacyPlan) -> str:
    if plan.sample_rate == 1:
        return "Every record was used in every step; nothing is gained from sampling."
    return (
        f"In every step each record took part with chance {plan.sample_rate:g}, independently "
        "(Poisson sampling), and the protection counts on nobody outside the site learning which "
        "records these were."
    )


def _rounded_up(value: float) -> str:
    """Three digits, never less than `value`."""
    text = f"{value:.3g}"
    if float(text) >= value:
        return text
    return f"{value * (1 + 5e-3):.3g}"
