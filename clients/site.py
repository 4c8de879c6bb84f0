"""A data owner's side of a run: its records, its noise, its ledger.

Nothing here is told by the server what it may spend: the plan is derived from
the config by the site itself, and what a round costs is written to the site's
own ledger before a record is touched.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Annotated, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from clients.feature_cache import encoded
from clients.ledger.ledger import Budget, Ledger
from clients.owner import Owner
from clients.records import Choice, kept, records_digest, simulated_sites, texts
from fedlearn import models
from fedlearn.agreement import dimension_of
from fedlearn.auditing.settings import MislabelledAudit, NoAudit, slots_of
from fedlearn.config import RunConfig, decode, encode, plan_of
from fedlearn.config.contradictions import learner_problems, problems, task_problems
from fedlearn.core.errors import ConfigError, FedlearnError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Layout, Vector, layout_of, load_vector
from fedlearn.data import Records, SiteData
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.persons import most_records
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.metrics.fairness import column_problems
from fedlearn.models import MODELS
from fedlearn.models.slots import attach
from fedlearn.models.validate import made_up_records
from fedlearn.privacy import NoiseSource
from fedlearn.privacy.noise import TEST_NOISE, noise_of
from fedlearn.tasks import TASKS, Input, Loss, Task, TaskConfig, TaskForm
from fedlearn.training.device import device_of, near, place
from fedlearn.training.parts import ALONE
from fedlearn.training.persons import People, depths_of
from fedlearn.training.settings import Training

__all__ = ["TEST_NOISE", "Site", "name_of", "open_site"]

UNLIMITED = Budget(epsilon=math.inf, delta=1e-5)
"""Where no owner has set a limit; what a run has promised holds all the same."""

SeenBy = tuple[nn.Module | None, torch.device]
_INPUTS: WeakKeyDictionary[Records, tuple[SeenBy, tuple[Tensor, Tensor]]] = WeakKeyDictionary()
"""What sites of this process train and test on, for as long as the records are: they are seen
through the frozen part of the model, and copied to a GPU, once."""


@dataclass(frozen=True, eq=False)
class Site:
    """One site in one run."""

    name: str
    config: RunConfig
    task: Task
    data: SiteData
    data_sha256: str
    learner: models.Learner
    """Kept between rounds; every request brings the weights of what is trained."""
    owner: Owner

    @property
    def model(self) -> nn.Module:
        """The part of the model that is trained, and that travels."""
        return self.learner.model

    @cached_property
    def device(self) -> torch.device:
        """Where this site computes: as its owner says of the machine, else as the run does."""
        own = self.owner.machine.device
        return device_of(own, "machine.device") if own else device_of(self.config.training.device)

    @cached_property
    def train_tensors(self) -> tuple[Tensor, Tensor]:
        """What `model` is trained on: inputs and targets `[n, ...]`."""
        return self.inputs(self.data.train)

    @cached_property
    def test_tensors(self) -> tuple[Tensor, Tensor]:
        """What `model` is tested on: inputs and targets `[n, ...]`."""
        return self.inputs(self.data.test)

    def evaluated(self, number: int) -> Records:
        """The records that are evaluated under a number: for the test, or in a round that
        validates for validation."""
        if not self.config.validates or number == self.config.test_number:
            return self.data.test
        if self.data.validation is None:
            raise ProtocolError("server", "evaluate", "this site has no records for validation")
        return self.data.validation

    @cached_property
    def people(self) -> People | None:
        """Whose the training records are, where persons are protected.

        Raises:
            ConfigError: nothing says so.
        """
        if self.config.privacy.unit != "person":
            return None
        if self.data.train.persons is None:
            raise ConfigError(_NOBODYS)
        return People.of(self.data.train.persons, most_records(self.config.scenario))

    @property
    def depths(self) -> Sequence[int]:
        """How many records the samples of a private step have in parts."""
        persons = self.config.privacy.unit == "person"
        return depths_of(most_records(self.config.scenario)) if persons else (ALONE,)

    def made_up(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of `count` records that nobody has, in the form of this site's.

        From fixed streams; of the site's own nothing but their form enters.
        """
        drawn = made_up_records(self.task, count, torch.Generator().manual_seed(0)).numpy()
        like = self.data.train.labels
        labels = self.task.blank(count, like)
        words = np.random.default_rng(0).integers(2**64, size=count // 2, dtype=np.uint64)
        labels[: count // 2] = self.task.mislabelled(labels[: count // 2], words)
        inputs = self._seen(Records(features=drawn, labels=labels))
        return inputs.to(self.device), torch.from_numpy(labels).to(self.device)

    @cached_property
    def loss(self) -> Loss:
        """What is learned by: the loss of a record."""
        return self.task.training_loss(self.config.training.class_weights, self.device)

    @cached_property
    def layout(self) -> Layout:
        """Of the vector of `model`; every step of a sum asks for it."""
        return layout_of(self.model)

    def load(self, vector: Vector) -> None:
        """Give `model` the weights of a request, on this site's device.

        Raises:
            ProtocolError: they are of another model.
        """
        place(self.model, self.device)
        try:
            load_vector(self.model, vector)
        except ValueError as error:
            raise ProtocolError("server", "model", str(error)) from None

    def inputs(self, records: Records) -> tuple[Tensor, Tensor]:
        """The records as `model` takes them, on this site's device where there is room for them.

        What does not fit stays on the CPU, from where training fetches it batch by batch.
        """
        seen_by = self.learner.frozen, self.device
        known, tensors = _INPUTS.get(records, (None, None))
        if tensors is None or known != seen_by:
            features, labels = self._seen(records), torch.from_numpy(records.labels)
            tensors = near(features, self.device), near(labels, self.device)
            _INPUTS[records] = seen_by, tensors
        return tensors

    def _seen(self, records: Records) -> Tensor:
        if self.learner.frozen is None:
            return torch.from_numpy(records.features)
        return encoded(
            self.learner.frozen,
            records.features,
            made_by=encode(_Frozen.of(self.config, self.task, self.learner.frozen)),
            cache=None if self.config.scenario.in_memory else default_cache(os.environ),
            device=self.device,
            precision=self.config.model.keeps,
        )

    @property
    def training(self) -> Training:
        """How to train here: as the run says, in batches that this machine can hold."""
        bound = self.owner.machine.max_batch
        training = self.config.training
        return replace(training, max_batch=min(bound, training.max_batch)) if bound else training

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the training records."""
        return records_digest(self.data.train)

    def plan(self, sites: int) -> PrivacyPlan | None:
        """What this site promises in a run that `sites` sites have joined; derived by itself."""
        dimension = dimension_of(self.config, self.layout.size)
        return plan_of(self.config, sites=sites, dimension=dimension, task=self.task)

    def ledger(self) -> Ledger:
        """The ledger of the training records, open for spending; close it soon."""
        budget = self.owner.budget or UNLIMITED
        return Ledger(
            self.owner.ledger,
            site=self.name,
            data=self.owner.dataset or self.digest,
            budget=budget,
            now=self.now(),
            records=self.digest if self.owner.dataset else "",
        )

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC)

    def noise(self, round_number: int) -> NoiseSource:
        """Where this round's sampling and noise come from."""
        return noise_of(os.environ, self.name, round_number)

    def noise_of_screening(self) -> NoiseSource:
        """Where the noise on the sums that tables are compared by comes from."""
        return noise_of(os.environ, self.name, "screening", 0)

    def noise_of_tests(self, round_number: int) -> NoiseSource:
        """Where the noise on the test sums of a round comes from."""
        return noise_of(os.environ, self.name, "evaluation", round_number)


def name_of(node_config: Mapping[str, object], config: RunConfig) -> str:
    """The name of the site that this node is: by `partition-id` in a simulation.

    Raises:
        DataError: the records that a simulation deals out cannot be read.
    """
    return list(simulated_sites(config))[int(str(node_config["partition-id"]))]


def open_site(owner: Owner, config: RunConfig) -> Site:
    """A site with its records.

    Raises:
        ConfigError: the config cannot be run on this site's records, or machine; every reason.
        DataError: the records cannot be read.
    """
    site = owner.deployed
    if site is not None and not isinstance(config.audit, NoAudit):
        kind = config.audit.kind
        raise ConfigError([f"audit={kind}: canaries are for simulations only; set audit=none"])
    run, choice = texts(config)
    if site is not None:
        choice = encode(Choice.own(site, config))
    task, mine, sha256, learner = _open(owner.name, run, choice, _built_from(config))
    torch.set_num_threads((site and site.machine.threads) or config.engine.threads)
    opened = Site(owner.name, config, task, mine, sha256, learner, owner)
    _ = opened.device  # refused now, and not when the site is to train
    return opened


def _built_from(config: RunConfig) -> str:
    """What the settings of the model do not say of it; nothing of one that cannot be had, which
    is refused with all else that is wrong."""
    try:
        return config.model.built_from()
    except FedlearnError:
        return ""


@lru_cache(maxsize=4096)
def _open(
    name: str, config_text: str, choice_text: str, built_from: str
) -> tuple[Task, SiteData, str, models.Learner]:
    """What is learned, the site's records, their hash with all others', and the model."""
    config, alone = decode(RunConfig, config_text), bool(decode(Choice, choice_text).only)
    pool, sites = kept(choice_text)
    # Also what the coordinator should have refused: a site relies on nobody's word for it.
    found = problems(config) + task_problems(config, pool.task)
    if config.privacy.unit == "person" and pool.persons is None:
        found.append(_NOBODYS)
    if found := found + column_problems(config.fairness, pool.attributes):
        raise ConfigError(found)
    learner = _learner(encode(_ModelChoice.of(config, pool.task)), slots_of(config.audit))
    found = learner_problems(config, learner, pool.task)
    # Its own number of records a site of its own compares with nothing that a run has named: what
    # it answers would tell it.
    found += config.privacy.problems(records=None if alone else _smallest(sites))
    found += _canary_problems(config, sites)
    if found:
        raise ConfigError(found)
    return pool.task, sites[name], pool.sha256, learner


_NOBODYS: Final = (
    "privacy.unit=person: nothing says whose the records of this site are. Name the column, in "
    "the run and in the file of the site (scenario.person), or leave both out"
)


@dataclass(frozen=True, kw_only=True)
class _ModelChoice:
    model: Annotated[models.Model, MODELS]
    built_from: str
    form: TaskForm
    task: Annotated[TaskConfig, TASKS]
    seed: int
    finetune: models.Finetune

    @classmethod
    def of(cls, config: RunConfig, task: Task) -> _ModelChoice:
        part = config.training.trained_part
        return cls(
            model=config.model,
            built_from=config.model.built_from(),
            form=task.form,
            task=config.task,
            seed=config.seed,
            finetune=part,
        )


@dataclass(frozen=True, kw_only=True)
class _Frozen:
    """What makes the frozen part of a model, besides its weights."""

    model: Annotated[models.Model, MODELS]
    built_from: str
    input: Input
    stages: tuple[str, ...]

    @classmethod
    def of(cls, config: RunConfig, task: Task, frozen: nn.Module) -> _Frozen:
        names = tuple(name for name, _ in frozen.named_children())
        built_from = config.model.built_from()
        return cls(model=config.model, built_from=built_from, input=task.input, stages=names)


@lru_cache(maxsize=1)
def _learner(choice_text: str, slots: int) -> models.Learner:
    # One model serves all sites of a process: a request overwrites all that is trained.
    choice = decode(_ModelChoice, choice_text)
    weights, task = choice.model.weights(default_cache(os.environ)), choice.task.of(choice.form)
    learner = models.build(choice.model, task, Streams(choice.seed), choice.finetune, weights)
    attach(learner.model, slots)
    return learner


def _canary_problems(config: RunConfig, sites: Mapping[str, SiteData]) -> list[str]:
    """Canaries that replace records must leave a site something to learn from."""
    if not isinstance(config.audit, MislabelledAudit):
        return []
    most = len(sites) * (_smallest(sites) // 2)
    if config.audit.canaries <= most:
        return []
    return [
        f"audit.canaries={config.audit.canaries}: they replace training records, and at most "
        f"half of those of the smallest site; set audit.canaries to at most {most}"
    ]


def _smallest(sites: Mapping[str, SiteData]) -> int:
    return min(site.train.units for site in sites.values())
