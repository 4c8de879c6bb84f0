"""Membership inference against the final model of a run: its training records, its test records.

An upper hand for the attacker on purpose: the reference models are trained
without privacy, by the run's own recipe, on halves of the very records that
are asked about. Each record is in one of every two references.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn import models
from fedlearn.auditing.evidence import area_under_curve
from fedlearn.auditing.findings import Attack
from fedlearn.auditing.membership import found_at, lira, rmia
from fedlearn.auditing.promise import Promise
from fedlearn.core.rng import Streams
from fedlearn.tasks import Targets
from fedlearn.training.device import device_of, home, place, within_memory
from fedlearn.training.local import predict, train
from simulations.attacks.audited_folder import AuditedRun

REFERENCES: Final = 4
"""Reference models without further word: few, as an attacker would have."""

ENOUGH_FOR_LIRA: Final = 8

_WAY_OUT: Final = (
    "end what else is using it, or hide it from the audit, which then takes longer: put "
    "CUDA_VISIBLE_DEVICES= before the command"
)
"""The config of a run that is audited cannot be changed any more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberRecords:
    """All records of a run; `member: bool[n]` were trained on."""

    features: NDArray[Any]
    labels: Targets
    member: NDArray[np.bool_]

    @classmethod
    def of(cls, run: AuditedRun) -> MemberRecords:
        """The training records of all sites as members, their test records as others."""
        train_sets = [site.train for site in run.sites.values()]
        test_sets = [site.test for site in run.sites.values()]
        sizes = [len(records) for records in (*train_sets, *test_sets)]
        member = np.repeat([*[True] * len(train_sets), *[False] * len(test_sets)], sizes)
        every = [*train_sets, *test_sets]
        return cls(
            features=np.concatenate([records.features for records in every]),
            labels=np.concatenate([records.labels for records in every]),
            member=member,
        )


@within_memory("audit: the reference models", _WAY_OUT)
def attacks(
    run: AuditedRun, model: nn.Module, promise: Promise | None, references: int
) -> list[Attack]:
    """What membership inference finds; LiRA only with enough references.

    Raises:
        FedlearnError: the GPU that it computes on has no memory left.
    """
    records = MemberRecords.of(run)
    target = chances(run, model, records)
    inside = _halves(len(records.labels), references, Streams(run.config.seed))
    others = np.stack([_reference(run, records, one, i) for i, one in enumerate(inside)])
    scores: dict[Any, NDArray[np.float64]] = {
        "loss": target,
        "rmia": rmia(target, others, np.flatnonzero(~records.member)),
    }
    if references >= ENOUGH_FOR_LIRA:
        scores["lira"] = lira(target, others, inside)
    return [_attack(name, found, records.member, promise) for name, found in scores.items()]


def chances(run: AuditedRun, model: nn.Module, records: MemberRecords) -> NDArray[np.float64]:
    """How well what `model` says fits the true label of every record: `float64[n]`."""
    features, size = torch.from_numpy(records.features), run.config.training.max_batch
    return run.task.likelihood(predict(model, run.task, features, size), records.labels)


def _halves(records: int, references: int, streams: Streams) -> NDArray[np.bool_]:
    """`bool[references, records]`: random halves and what they leave, in turn."""
    halves = []
    for number in range(0, references, 2):
        order = streams.get("references", number).permutation(records)
        half = np.isin(np.arange(records), order[: records // 2])
        halves += [half, ~half]
    return np.stack(halves[:references])


def _reference(
    run: AuditedRun, records: MemberRecords, inside: NDArray[np.bool_], number: int
) -> NDArray[np.float64]:
    """The chances under a model that was trained on the records `inside`."""
    config, streams = run.config, Streams(run.config.seed)
    learner = models.build(config.model, run.task, streams, config.training.trained_part)
    # An attacker's machine need not have the GPU that the run asked for.
    place(learner.whole(), device_of("cpu" if config.training.device == "cpu" else "auto"))
    features = torch.from_numpy(records.features[inside])
    if learner.frozen is not None:
        features = _frozen(learner.frozen, features, config.training.max_batch)
    labels = torch.from_numpy(records.labels[inside])
    loss = run.task.training_loss(config.training.class_weights, home(learner.model))
    for round_number in range(config.rounds):
        rng = streams.get("reference", number, round_number)
        train(
            learner.model,
            features,
            labels,
            config.training,
            loss=loss,
            rng=rng,
        )
    return chances(run, learner.whole(), records)


def _frozen(frozen: nn.Module, features: torch.Tensor, size: int) -> torch.Tensor:
    with torch.no_grad():
        parts = [features[i : i + size].to(home(frozen)) for i in range(0, len(features), size)]
        return torch.cat([frozen(part).cpu() for part in parts])


def _attack(
    name: Any, scores: NDArray[np.float64], member: NDArray[np.bool_], promise: Promise | None
) -> Attack:
    area = area_under_curve(scores, member)
    return Attack(
        name=name,
        members=int(member.sum()),
        others=int((~member).sum()),
        auc=0.5 if area is None else area,
        tpr_1=found_at(scores, member, 0.01),
        tpr_01=found_at(scores, member, 0.001),
        auc_ceiling=promise.area() if promise else None,
        tpr_1_ceiling=promise.found_at(0.01) if promise else None,
        tpr_01_ceiling=promise.found_at(0.001) if promise else None,
    )
