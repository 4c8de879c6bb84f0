"""From YAML values to one frozen, typed `RunConfig`, and back.

Hydra composes the groups of `configs/` (`fedlearn.overrides`); `compose` turns the
result into a `RunConfig` once. Every problem is reported
in one `ConfigError`, by dotted path. `encode` and `decode` are an exact JSON
round trip, so a run's config travels as one string.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Discriminator, TypeAdapter, ValidationError
from torch import nn

from fedlearn import config_problems, models
from fedlearn.audit import Audit, NoAudit, SlotAudit
from fedlearn.crypto.settings import Transport
from fedlearn.data import Partition, Scenario, scaling_of, scenario_problems
from fedlearn.data.partition import Files
from fedlearn.data.scaling import reads_records
from fedlearn.engine import Engine
from fedlearn.errors import ConfigError
from fedlearn.fairness import Fairness, SiteFairness
from fedlearn.fairness import problems as fairness_problems
from fedlearn.models import Model
from fedlearn.models.validate import dp_problems
from fedlearn.overrides import compose_tree, sift
from fedlearn.privacy import (
    ClientPrivacy,
    DistributedPrivacy,
    NoPrivacy,
    Population,
    Privacy,
    PrivacyPlan,
    derive,
)
from fedlearn.privacy import problems as privacy_problems
from fedlearn.secagg.settings import SecAgg
from fedlearn.settings import Count, Name, Natural, Positive
from fedlearn.strategy import Strategy
from fedlearn.task import Task
from fedlearn.tracking import NoTracking, Tracking
from fedlearn.training.augmentation import augmentation_problems
from fedlearn.training.settings import Training

KIND = Discriminator("kind")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run does; equal configs and seeds give equal runs."""

    experiment: Name
    scenario: Annotated[Scenario, KIND]
    partition: Annotated[Partition, KIND]
    model: Annotated[Model, KIND]
    training: Training
    strategy: Annotated[Strategy, KIND]
    privacy: Annotated[Privacy, KIND]
    secagg: Annotated[SecAgg, KIND]
    transport: Annotated[Transport, KIND]
    engine: Annotated[Engine, KIND]
    # Later than the first release: a config that was written before still loads.
    fairness: Annotated[Fairness, KIND] = field(default_factory=SiteFairness)
    audit: Annotated[Audit, KIND] = field(default_factory=NoAudit)
    tracking: Annotated[Tracking, KIND] = field(default_factory=NoTracking)
    rounds: Count
    evaluate_every: Count
    """Federated evaluation happens after every so many rounds, and after the last."""
    evaluation: Literal["per_site", "pooled"]
    """`per_site`: every site releases its test metrics; `pooled`: the sum alone is opened."""
    reply_timeout: Positive
    """Seconds that the coordinator waits for replies; who is later has dropped out of that step."""
    seed: Natural
    sites: Name | None
    """Simulations only: the folder of site files, `NAME.yaml`; a site without one has no policy."""
    out: Name
    """The folder that the run leaves behind."""
    resume: bool


def compose(overrides: Sequence[str]) -> RunConfig:
    """The config that `configs/run.yaml` and Hydra `overrides` describe.

    Raises:
        ConfigError: with every problem, one line each.
    """
    good, found = sift(overrides)
    try:
        config = load(without_unset(compose_tree(good)))
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from None
    if found:
        raise ConfigError(found)
    return config


def without_unset(node: Any) -> Any:
    """The tree without the values that a YAML leaves to the user (`???`): they are missing."""
    if isinstance(node, dict):
        return {key: without_unset(child) for key, child in node.items() if child != "???"}
    return node


def load(tree: dict[str, Any]) -> RunConfig:
    """A checked config from plain values.

    Raises:
        ConfigError: with every problem, one line each.
    """
    config = decode(RunConfig, json.dumps(tree))
    found = problems(config)
    if found:
        raise ConfigError(found)
    return config


def problems(config: RunConfig) -> list[str]:
    """What is wrong across fields, as `dotted.path: reason` lines; needs no data."""
    found = [*scenario_problems(config.scenario), *privacy_problems(config.privacy)]
    found += [*_scaling_problems(config), *_precision_problems(config)]
    found += fairness_problems(config.fairness)
    if isinstance(config.partition, Files) and config.sites is None:
        found.append("partition=files: set sites to the folder of the site files")
    match config.privacy:
        case DistributedPrivacy():
            found += _distributed_problems(config, config.privacy)
        case ClientPrivacy() if config.privacy.client_sample_rate < 1:
            found += _sampling_problems(config)
    return [*found, *_audit_problems(config)]


def _audit_problems(config: RunConfig) -> list[str]:
    """Slots hold single records, and say nothing of a promise that is made to whole clients."""
    unit = getattr(config.privacy, "unit", None)
    if not isinstance(config.audit, SlotAudit):
        return []
    if isinstance(config.privacy, ClientPrivacy) or unit == "client":
        return [
            "audit=slots: measures what is promised to a record, and here the unit is a client. "
            "Choose audit=mislabelled, or privacy=record"
        ]
    return []


def _precision_problems(config: RunConfig) -> list[str]:
    """Opacus computes norms in the precision of the forward pass; a bound needs fp32."""
    training = config.training
    fine = training.precision == "fp32" or training.dp_engine == "fast"
    if fine or config.privacy.kind != "record":
        return []
    return [
        f"training.precision={training.precision}: with training.dp_engine={training.dp_engine} "
        "norms would be rounded as well. Set training.dp_engine=fast, or training.precision=fp32"
    ]


def _scaling_problems(config: RunConfig) -> list[str]:
    """A scaling computed from records is a release that no accountant sees."""
    scaling = scaling_of(config.scenario)
    if isinstance(config.privacy, NoPrivacy) or scaling is None or not reads_records(scaling):
        return []
    return [
        f"scenario.scaling.kind={scaling.kind}: is computed from records outside the privacy "
        "accounting; give public ranges (scenario.scaling.kind=ranges), or choose privacy=none"
    ]


def _distributed_problems(config: RunConfig, privacy: DistributedPrivacy) -> list[str]:
    found = []
    if config.secagg.kind == "off":
        found.append(
            "secagg=off: under privacy=distributed a single update carries a share of the noise "
            "only and must not be seen. Choose secagg=masked, or privacy=record"
        )
    if config.strategy.fraction < 1:
        found.append(
            f"strategy.fraction={config.strategy.fraction:g}: under privacy=distributed the noise "
            "is planned for all sites in every round. Set strategy.fraction=1.0"
        )
    if privacy.unit == "record" and config.training.local_steps != 1:
        found.append(
            f"training.local_steps={config.training.local_steps}: with privacy.unit=record the "
            "sites share the noise of one sum of clipped gradients per round. Set "
            "training.local_steps=1 and more rounds, or choose privacy=record"
        )
    if privacy.unit == "record" and config.training.optimizer != "sgd":
        found.append(
            f"training.optimizer={config.training.optimizer}: with privacy.unit=record the step is "
            "taken on the sum of all sites. Set training.optimizer=sgd, with strategy=fedadam for "
            "adaptive steps"
        )
    return found


def _sampling_problems(config: RunConfig) -> list[str]:
    found = []
    if config.secagg.kind in ("masked", "two_server"):
        found.append(
            f"secagg={config.secagg.kind}: secret coins may choose fewer sites than it can hide "
            "among each other. Choose secagg=off (privacy=client trusts the coordinator), or set "
            "privacy.client_sample_rate=1.0"
        )
    if config.strategy.fraction < 1:
        found.append(
            f"strategy.fraction={config.strategy.fraction:g}: privacy.client_sample_rate chooses "
            "the sites already. Set strategy.fraction=1.0"
        )
    return found


def plan_of(config: RunConfig, *, sites: int = 0, dimension: int = 0) -> PrivacyPlan | None:
    """The privacy of the whole run; the noise is calibrated once, over all rounds.

    Every party derives it by itself from public constants: none takes it from
    another. Only distributed privacy needs to know how many `sites` have joined
    and the `dimension` of an update.

    Raises:
        ConfigError: the config is contradictory or its epsilon cannot be met.
        ValueError: distributed privacy without sites.
    """
    training, population = config.training, None
    if isinstance(config.privacy, DistributedPrivacy) and sites:
        records = training.sample_rate * training.nominal_records
        population = Population(num_clients=sites, dimension=dimension, records_per_step=records)
    rates = training.sample_rate, training.local_steps, config.rounds
    return _derived(config.privacy, *rates, population)


@lru_cache(maxsize=64)
def _derived(
    privacy: Privacy, sample_rate: float, steps: int, rounds: int, population: Population | None
) -> PrivacyPlan | None:
    # Calibration takes up to a second, and every message of a site asks for the plan.
    return derive(
        privacy,
        sample_rate=sample_rate,
        steps_per_round=steps,
        rounds=rounds,
        population=population,
    )


def task_problems(config: RunConfig, task: Task) -> list[str]:
    """What is wrong once it is known what the records look like."""
    frozen = models.freezes(config.model, config.training.trained_part)
    found = augmentation_problems(config.training, task, frozen=frozen)
    return [*models.problems(config.model, task), *found]


def private_model_problems(config: RunConfig, model: nn.Module) -> list[str]:
    """What of a built model rules out clipping its gradient record by record."""
    clips_records = config.privacy.kind == "record" or (
        config.privacy.kind == "distributed" and config.privacy.unit == "record"
    )
    return [f"model: {problem}" for problem in dp_problems(model)] if clips_records else []


# --- JSON ---------------------------------------------------------------------

T = TypeVar("T")


@cache
def _root(kind: Hashable) -> type[BaseModel]:
    # Plain dataclasses take their strictness from the model that holds them.
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    namespace = {"__annotations__": {"value": kind}, "model_config": config, "__module__": __name__}
    return type("Root", (BaseModel,), namespace)


def decode(kind: type[T], text: str) -> T:
    """The frozen dataclass of type `kind` that `text` (JSON) holds; strict, nothing is coerced.

    Raises:
        ConfigError: with every problem, one line each.
    """
    try:
        root = _root(cast(Hashable, kind)).model_validate_json(f'{{"value": {text}}}')
    except ValidationError as error:
        raise ConfigError(config_problems.lines(error.errors())) from None
    value: T = root.value  # type: ignore[attr-defined]
    return value


def encode(value: Any) -> str:
    """Canonical JSON of a frozen dataclass; `decode` gives back an equal value."""
    return json.dumps(to_tree(value), sort_keys=True, separators=(",", ":"))


def to_tree(value: Any) -> Any:
    """Plain dicts, lists and scalars of a frozen dataclass."""
    return _adapter(cast(Hashable, type(value))).dump_python(value, mode="json")


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(type, kind))
