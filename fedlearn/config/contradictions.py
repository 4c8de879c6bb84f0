"""What is wrong across the fields of a config: each value is possible, not all of them together.

Every function gives `dotted.path=value: reason and way out` lines, and never raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from fedlearn import models
from fedlearn.audit import SlotAudit
from fedlearn.config.engine import RayEngine
from fedlearn.data import scaling_of, scenario_problems
from fedlearn.data.partition import Files
from fedlearn.data.tables.scaling import reads_records
from fedlearn.mechanisms import ClientPrivacy, DistributedPrivacy, NoPrivacy, RecordPrivacy
from fedlearn.mechanisms import problems as privacy_problems
from fedlearn.metrics.fairness import problems as fairness_problems
from fedlearn.models.validate import dp_problems, record_problems
from fedlearn.tasks import Task
from fedlearn.training.augmentation import augmentation_problems
from fedlearn.training.dp import refusals
from fedlearn.training.loss import class_weight_problems

if TYPE_CHECKING:
    from fedlearn.config import RunConfig


def problems(config: RunConfig) -> list[str]:
    """What is wrong across fields, as `dotted.path: reason` lines; needs no data."""
    found = [*scenario_problems(config.scenario), *privacy_problems(config.privacy)]
    found += [*_scaling_problems(config), *_precision_problems(config), *_ghost_problems(config)]
    found += _device_problems(config)
    found += fairness_problems(config.fairness)
    if isinstance(config.partition, Files) and config.sites is None:
        found.append("partition=files: set sites to the folder of the site files")
    found += _pooled_problems(config)
    match config.privacy:
        case DistributedPrivacy():
            found += _distributed_problems(config, config.privacy)
        case ClientPrivacy() if config.privacy.client_sample_rate < 1:
            found += _sampling_problems(config)
    return [*found, *_audit_problems(config)]


def _pooled_problems(config: RunConfig) -> list[str]:
    """What is learned from pooled records is learned from everybody's, and charged to nobody."""
    pooled = isinstance(config.partition, Files) and config.partition.pooled
    if not pooled or isinstance(config.privacy, NoPrivacy):
        return []
    return [
        "partition.pooled=true: one place has no ledger of the sites to pay from; it is a "
        "reference without privacy. Choose privacy=none, or partition.pooled=false"
    ]


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


def _ghost_problems(config: RunConfig) -> list[str]:
    """Opacus' ghost clipping takes every parameter once in a pass."""
    training = config.training
    if config.privacy.kind != "record" or training.dp_engine != "ghost":
        return []
    way_out = "uses a layer several times, which Opacus' ghost clipping refuses. Set "
    found = []
    if training.augmentations > 1:
        found.append(
            f"training.augmentations={training.augmentations}: {way_out}training.dp_engine=fast"
        )
    if config.model.repeats_layers:
        found.append(f"model={config.model.kind}: {way_out}training.dp_engine=fast")
    return found


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


def _device_problems(config: RunConfig) -> list[str]:
    """Ray shows a site no GPU but those that are set aside for it."""
    engine = config.engine
    if not isinstance(engine, RayEngine) or engine.gpus_per_site:
        return []
    if config.training.device != "cuda":
        return []
    return [
        "engine.gpus_per_site=0: Ray then hides the GPUs from the sites, and training.device=cuda "
        "asks for one. Set the share of a GPU that a site takes, as engine.gpus_per_site=0.25"
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


def task_problems(config: RunConfig, task: Task) -> list[str]:
    """What is wrong once it is known what the records look like."""
    frozen = models.freezes(config.model, config.training.trained_part)
    return [
        *models.problems(config.model, task),
        *augmentation_problems(config.training, task, frozen=frozen),
        *class_weight_problems(config.training, task.classes),
    ]


def private_model_problems(config: RunConfig, model: nn.Module) -> list[str]:
    """What of a built model rules out clipping its gradient record by record."""
    match config.privacy:
        case RecordPrivacy() if config.training.dp_engine != "fast":
            found = dp_problems(model)
        case RecordPrivacy() | DistributedPrivacy(unit="record"):
            mixing = record_problems(model)
            found = [*mixing.values(), *refusals(model, besides=mixing)]
        case _:
            found = []
    return [f"model: {problem}" for problem in found]
