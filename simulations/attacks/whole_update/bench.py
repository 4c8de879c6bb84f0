"""A site that makes steps as it is asked to, and what would leave it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clients.canaries import TrainingSet
from clients.site import Site
from clients.work import SiteRound
from fedlearn.algorithms import FedAvg
from fedlearn.auditing import NoAudit
from fedlearn.config.terms import terms_of
from fedlearn.core.vector import Layout, Vector, layout_of, to_vector
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.models import Learner
from fedlearn.models.slots import is_slot, no_canaries, without_slots
from fedlearn.privacy.noise import BoolArray, Float32Array, Keystream, NoiseSource
from fedlearn.robust import NotRobust
from fedlearn.rounds import RoundNote, TrainRequest
from fedlearn.tasks import Loss
from fedlearn.training.settings import Training

Floats = NDArray[np.float64]

_LARGE: Final = 200_000
"""Of a model with more values fewer updates say as much, and each takes longer."""

MOST_STEPS: Final = 16
"""Steps of a round that is made again."""


class Steered:
    """A source like the site's own, with an auditor's hand in it.

    Those who take part are `chosen`, where that is given; all else comes from `drawn`. It looks
    like the site's own source, so that a program does with it as it does in a run.
    """

    def __init__(
        self, own: NoiseSource, drawn: NoiseSource | None, chosen: BoolArray | None
    ) -> None:
        self._drawn, self._chosen = drawn or own, chosen
        self.name, self.is_private = own.name, own.is_private

    def normal(self, size: int, stddev: float) -> Float32Array:
        """As drawn."""
        return self._drawn.normal(size, stddev)

    def bernoulli(self, size: int, probability: float) -> BoolArray:
        """The auditor's choice, if there is one."""
        if self._chosen is None:
            return self._drawn.bernoulli(size, probability)
        found = np.zeros(size, np.bool_)
        found[: len(self._chosen)] = self._chosen[:size]
        return found

    def stream(self) -> Keystream:
        """As drawn."""
        return self._drawn.stream()


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A site, its plan, and the model that its steps begin with."""

    site: Site
    plan: PrivacyPlan
    start: Vector
    own: Training
    """How the run trains; steps are plain ones where nothing else is asked for."""

    @classmethod
    def of(cls, site: Site, plan: PrivacyPlan, model: Vector) -> Bench:
        """The site with a model of its own, in which nothing is drawn but coins and noise."""
        copied = copy.deepcopy(site.model)
        for part in copied.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.p = 0.0
        layout, own = layout_of(copied), site.config.training
        placed = _placed(site, Learner(frozen=site.learner.frozen, model=copied), plan)
        return cls(site=placed, plan=plan, start=with_slots(layout, model), own=own)

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.site.model

    @property
    def at_site(self) -> bool:
        """Whether every site adds all of its noise itself, in every step."""
        return self.site.config.privacy.noise_from == "site"

    @property
    def large(self) -> bool:
        """Whether a step takes long."""
        return self.start.size > _LARGE

    @property
    def steps(self) -> int:
        """Of a round, as far as they are made again."""
        return min(self.own.local_steps, MOST_STEPS) if self.at_site else 1

    # --- updates -----------------------------------------------------------------------

    def update(
        self,
        given: TrainingSet,
        loss: Loss,
        *,
        coins: BoolArray | None = None,
        noise: NoiseSource | None = None,
        steps: int = 1,
        silent: bool = False,
        number: int = 1,
        training: Training | None = None,
    ) -> Floats:
        """What the site would give of `given` in a round `number`, in clip norms: `float64[d]`.

        With the site's own noise and coins, but for those given; `silent` without noise. With a
        `training` of its own the update is the change of the model, with the other sign.
        """
        training = replace(training or self.site.config.training, local_steps=steps)
        config = replace(self.site.config, training=training)
        site = replace(self.site, config=config)
        vars(site)["loss"] = loss
        start = self.start if site.model is self.model else to_vector(site.model)
        site.load(start)
        at = SiteRound(site, request_of(start, number))
        source = site.noise(number)
        if noise is not None or coins is not None:
            source = Steered(source, noise, coins)
        vars(at).update(_mine=given, noise=source)
        plan = self._plan(steps, silent=silent)
        given_away = plan.source(terms_of(site.config)).produce(at).values.astype(np.float64)
        if not self.at_site:
            return np.asarray(given_away / self.plan.clip_norm)
        return np.asarray(start.astype(np.float64) - given_away)

    def _plan(self, steps: int, *, silent: bool) -> PrivacyPlan:
        if not self.at_site:
            return self.plan  # of one step, whose noise comes in a stage
        plan: Any = self.plan
        plan = replace(plan, steps_per_round=steps)
        found: PrivacyPlan = replace(plan, noise_multiplier=0.0) if silent else plan
        return found

    def on(self, model: nn.Module) -> Bench:
        """The same with another model, as it is."""
        site = replace(self.site, learner=Learner(frozen=None, model=model))
        return replace(self, site=site, start=to_vector(model))

    @cached_property
    def records(self) -> TrainingSet:
        """Those of the site, without canaries; of a person no more than a step computes."""
        features, labels = self.site.train_tensors
        people = self.site.people
        if people is not None:
            people = replace(people, rows=tuple(rows[: people.most] for rows in people.rows))
        return TrainingSet(features=features, labels=labels, slots=no_canaries(), people=people)

    @property
    def nobody(self) -> TrainingSet:
        """None of them."""
        return some(self.records, np.zeros(0, np.int64))

    def chosen(self, samples: int, coins: np.random.Generator, rate: float) -> BoolArray:
        """Who takes part; everybody, where the plan has no sampling and asks for no coins."""
        found: BoolArray = coins.random(samples) < (rate if self.plan.sample_rate < 1 else 1.0)
        return found


def _placed(site: Site, learner: Learner, plan: PrivacyPlan) -> Site:
    """The site with a plain step: what moves the model is the noisy sum, and by as much."""
    training = site.config.training
    divisor = training.sample_rate * training.nominal_records
    plain = replace(
        training,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=divisor / plan.clip_norm,
        shifts=0,  # as many views as in the run, each of them the record itself
        flips=False,
        precision="fp32",
    )
    # A bound on the sum of a step brings no two sums further apart, and would hide what is in them.
    config = replace(
        site.config,
        training=plain,
        strategy=FedAvg(fraction=1.0, min_sites=1),
        audit=NoAudit(),
        robust=NotRobust(),
    )
    return replace(site, config=config, learner=learner)


def request_of(start: Vector, number: int) -> TrainRequest:
    """To train from `start` in a round `number`."""
    note = RoundNote(terms="", run_id="00" * 16, round=number, cohort=1)
    return TrainRequest(note=note, model=start)


def some(given: TrainingSet, rows: NDArray[np.int64]) -> TrainingSet:
    """Only those in `rows`; of persons, all of their records."""
    people = given.people
    if people is not None:
        parts = [people.rows[row] for row in rows]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        own = tuple(np.split(np.arange(ends[-1]), ends[:-1])) if parts else ()
        keys = tuple(people.keys[row] for row in rows)
        people = replace(people, keys=keys, rows=own)
        rows = np.concatenate([np.zeros(0, np.int64), *parts])
    chosen = torch.from_numpy(rows).to(given.labels.device)
    features, labels = given.features[chosen], given.labels[chosen]
    return replace(given, features=features, labels=labels, people=people)


def samples_of(given: TrainingSet) -> list[NDArray[np.int64]]:
    """The records of each sample of a step: of a person, or a record by itself."""
    if given.people is not None:
        return list(given.people.rows)
    return list(np.arange(len(given.labels))[:, None])


def count_of(given: TrainingSet) -> int:
    """How many samples there are."""
    return len(given.labels if given.people is None else given.people)


def layers_of(model: nn.Module, update: Floats) -> Mapping[str, Floats]:
    """What is trained, by the name of the parameter, in its shape; at least one axis."""
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    parts = layout_of(model).split(update)  # type: ignore[arg-type]
    return {name: np.atleast_1d(part) for name, part in parts.items() if name in learning}


def with_slots(layout: Layout, model: Vector) -> Vector:
    """The trained model with slots that nobody has touched."""
    parts = without_slots(layout).split(model)
    pieces = [
        np.zeros(math.prod(shape), np.float32) if is_slot(name) else parts[name].ravel()
        for name, shape in layout.entries
    ]
    return np.concatenate(pieces)
