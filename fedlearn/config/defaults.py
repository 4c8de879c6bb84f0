"""Settings of training by rule, for records that no experiment was tuned on.

A rule reads public numbers alone: epsilon and delta, `training.nominal_records`, the number of
sites and the form of a record; never a record. What a user sets wins, and the rest follows from
it. The rules are for models of one linear layer on features of a known length
(`Model.square_norm`); docs/defaults.md derives them and says what they were tried on.

Steps. Of clipped gradient descent with noise, the noise that is in the model at the end depends on
how far the steps go together and not on how many they are: as many steps on a smaller share of the
records cost the same. So there are enough of them to be short: ten in a round.

Length of a step. A record of square norm S cannot be stepped over by steps of 2 / S and more
records do not change that; and the noise moves what the model says of a record by a known amount,
which grows with the length and shrinks with epsilon, the records of a site and the number of sites.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from fedlearn.config.run import RunConfig, plan_of
from fedlearn.privacy.calibration import fitting_delta
from fedlearn.tasks import Task

STEPS: Final = 10
SHARE: Final = 0.2
LONGEST: Final = 4.0
"""A step changes what the model says of a record by this at the most, in units of its norm and
of the task's scale, which for logits is 1."""
NOISE: Final = 0.6
"""Standard deviation of what noise makes of a logit (in nats) of a usual record at the end; of
other outputs in units of the task's scale."""
ADAM: Final = (0.005, 0.04)
"""Smallest and largest rate of Adam, whose steps do not depend on the scale of features."""
RATE_OF_ADAM: Final = 0.001
"""For every record to a feature: the fewer there are, the sooner a long way fits their noise."""
STEP_OF_ADAM: Final = 1.0
"""What a step of Adam may make of a logit."""
PENALTY: Final = 10.0
"""Weight decay, in records: what a square of the weights counts for beside the loss of all."""
MOST_DECAY: Final = 0.005
"""As of two thousand records: whoever has not said how many there are may have many."""


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A setting by rule: its key and value, and why, in half a sentence."""

    key: str
    value: Any
    reason: str

    @property
    def word(self) -> str:
        """As an override."""
        return f"{self.key}={self.value:g}" if isinstance(self.value, float) else (
            f"{self.key}={self.value}")  # fmt: skip


def derived(
    config: RunConfig, task: Task, sites: int, given: Collection[str]
) -> tuple[Derived, ...]:
    """What follows for a run on records of the form of `task`, at so many sites.

    Args:
        config: what was asked for, with the defaults of the files for all else.
        given: the keys that a user has set, and groups of which one has chosen an option; these
            are left as they are.

    Raises:
        ConfigError: the epsilon cannot be met.
    """
    found: list[Derived] = []
    for rule in (_delta, _part, _steps, _rate):
        for one in rule(config, task, sites):
            if one.key not in given and "strategy" not in given:
                found.append(one)
                config = _with(config, one)
    return tuple(found)


def _with(config: RunConfig, one: Derived) -> RunConfig:
    group, name = one.key.split(".")
    part = replace(getattr(config, group), **{name: one.value})
    return replace(config, **{group: part})


def _delta(config: RunConfig, task: Task, sites: int) -> Iterator[Derived]:
    if not config.privacy.within_sites:
        return
    records = config.training.nominal_records * sites
    if config.privacy.delta is not None and (most := fitting_delta(records)) < config.privacy.delta:
        reason = f"a tenth over {records:,}, nominal_records at every site, in powers of ten"
        yield Derived(key="privacy.delta", value=most, reason=reason)


def _part(config: RunConfig, task: Task, sites: int) -> Iterator[Derived]:
    model, training = config.model, config.training
    if training.finetune != "full" or not model.starts_pretrained or not _known(config):
        return
    if model.square_norm(task, "head") is not None:
        reason = "what is pretrained stays as it is: of few records a head alone is learned"
        yield Derived(key="training.finetune", value="head", reason=reason)


def _steps(config: RunConfig, task: Task, sites: int) -> Iterator[Derived]:
    if config.model.square_norm(task, config.training.finetune) is None or not _known(config):
        return
    if config.privacy.noise_from == "shares":  # every step takes a round of sums, on all records
        return
    reason = "many short steps on a part of the records cost no more than few long ones on all"
    yield Derived(key="training.local_steps", value=STEPS, reason=reason)
    yield Derived(key="training.sample_rate", value=SHARE, reason=reason)


def _rate(config: RunConfig, task: Task, sites: int) -> Iterator[Derived]:
    square = config.model.square_norm(task, config.training.finetune)
    if square is None or not _known(config):
        return
    if config.privacy.unit == "none":
        reason = "without privacy Adam settles whatever the scale of the columns"
        records = config.training.nominal_records * sites
        rate = rate_of_adam(records, config.model.last_width(task), config.model.absolute_sum(task))
        yield Derived(key="training.optimizer", value="adam", reason=reason)
        yield Derived(key="training.learning_rate", value=float(f"{rate:.2g}"), reason=reason)
        decay = min(MOST_DECAY, float(f"{PENALTY / records:.2g}"))
        reason = f"large weights count as they would beside {PENALTY:g} records, or less"
        yield Derived(key="training.weight_decay", value=decay, reason=reason)
        return
    length = step_length(config, task, sites)
    why = (
        "as long as steps on such records may be"
        if length == LONGEST * task.scale
        else "the noise of this epsilon, at sites of so many records, leaves no longer steps"
    )
    clip = getattr(config.privacy, "clip_norm", 1.0)
    rate = float(f"{length / (clip * math.sqrt(square)):.2g}")
    yield Derived(key="training.learning_rate", value=rate, reason=why)


def rate_of_adam(records: int, width: int, absolute_sum: float) -> float:
    """Its rate for a linear model of so many features, of that sum without their signs."""
    least, most = ADAM
    rate = min(most, max(least, RATE_OF_ADAM * records / width))
    return min(rate, STEP_OF_ADAM / absolute_sum)


def _known(config: RunConfig) -> bool:
    """Whether the law of its noise is that of the rules: none, that of every site by itself, or
    one that all sites make together."""
    return config.privacy.unit == "none" or config.privacy.noise_from in ("site", "shares")


def step_length(config: RunConfig, task: Task, sites: int) -> float:
    """How far a step may change what the model says of a record, over the norm of that record.

    The noise of all steps on the mean of the sites has, in a logit of a record of square norm S,
    the deviation `rate * clip * sqrt(S) * noise * sqrt(steps / sites) / (share * nominal)`, of
    which the first three factors are the length.
    """
    training = config.training
    if config.privacy.noise_from == "shares":
        # Its noise is planned for a model whose size is not known yet, and is the smaller one: in
        # the mean of the sites that of a single site is gone down by their number, not its root.
        return task.scale * LONGEST
    plan = plan_of(config, sites=sites, task=task)
    noise = plan.noise_multiplier if plan is not None else 0.0
    steps = training.local_steps * config.rounds
    spread = noise * math.sqrt(steps / sites)
    records = training.sample_rate * training.nominal_records
    return task.scale * (min(LONGEST, NOISE * records / spread) if spread else LONGEST)
