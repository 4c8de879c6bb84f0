"""Membership inference against the final model of a run: its training records, its test records.

An upper hand for the attacker on purpose: the reference models are trained
without privacy, by the run's own recipe, on halves of the very records that
are asked about. Each record is in one of every two references.

Sources: Yeom et al. 2018 (`loss`); Zarifzadeh, Liu and Shokri 2024, "Low-Cost High-Power
Membership Inference Attacks" (`rmia`); Carlini et al. 2022, "Membership Inference Attacks
From First Principles" (`lira`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn import models
from fedlearn.auditing.evidence import area_under_curve
from fedlearn.auditing.findings import Attack
from fedlearn.auditing.promise import Promise
from fedlearn.core.rng import Streams
from fedlearn.data.datasets.archives import default_cache
from fedlearn.tasks import Targets
from fedlearn.training.device import device_of, home, place, within_memory
from fedlearn.training.local import grade, train
from simulations.attacks.audited_folder import AuditedRun

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REFERENCES: Final = 4
"""Reference models without further word: few, as an attacker would have."""

ENOUGH_FOR_LIRA: Final = 8

_SMALLEST: Final = 1e-12

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
    member: Bools

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
    scores: dict[Any, Floats] = {
        "loss": target,
        "rmia": rmia(target, others, np.flatnonzero(~records.member)),
    }
    if references >= ENOUGH_FOR_LIRA:
        scores["lira"] = lira(target, others, inside)
    return [_attack(name, found, records.member, promise) for name, found in scores.items()]


def chances(run: AuditedRun, model: nn.Module, records: MemberRecords) -> Floats:
    """How well what `model` says fits the true label of every record: `float64[n]`."""
    features, size = torch.from_numpy(records.features), run.config.training.max_batch
    graded = grade(model, run.task, features, records.labels, size)
    return run.task.likelihood(graded, records.labels)


def _halves(records: int, references: int, streams: Streams) -> Bools:
    """`bool[references, records]`: random halves and what they leave, in turn."""
    halves = []
    for number in range(0, references, 2):
        order = streams.get("references", number).permutation(records)
        half = np.isin(np.arange(records), order[: records // 2])
        halves += [half, ~half]
    return np.stack(halves[:references])


def _reference(run: AuditedRun, records: MemberRecords, inside: Bools, number: int) -> Floats:
    """The chances under a model that was trained on the records `inside`."""
    config, streams = run.config, Streams(run.config.seed)
    weights = config.model.weights(default_cache(os.environ))
    part = config.training.trained_part
    learner = models.build(config.model, run.task, streams, part, weights)
    # An attacker's machine need not have the GPU that the run asked for.
    place(learner.whole(), device_of("cpu" if config.training.device == "cpu" else "auto"))
    features = torch.from_numpy(records.features[inside])
    if learner.frozen is not None:
        features = _frozen(learner.frozen, features, config.training.max_batch)
    labels = torch.from_numpy(records.labels[inside])
    loss = run.task.training_loss(config.training.class_weights, home(learner.model))
    for round_number in range(config.rounds):
        rng = streams.get("reference", number, round_number)
        train(learner.model, features, labels, config.training, loss=loss, rng=rng)
    return chances(run, learner.whole(), records)


def _frozen(frozen: nn.Module, features: torch.Tensor, size: int) -> torch.Tensor:
    with torch.no_grad():
        parts = [features[i : i + size].to(home(frozen)) for i in range(0, len(features), size)]
        return torch.cat([frozen(part).cpu() for part in parts])


def _attack(name: Any, scores: Floats, member: Bools, promise: Promise | None) -> Attack:
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


# --- scores ----------------------------------------------------------------------------
# Chances are of the true label: `target: float64[n]` under the model that is attacked,
# `references: float64[k, n]` under the others.


def rmia(target: Floats, references: Floats, others: NDArray[np.int64]) -> Floats:
    """How much likelier the model made each record than it made those known to be outside.

    `float64[n]`: the share of the records `others` over whose likelihood ratio
    that of the record lies; every record is compared with all others but itself.
    """
    ratio = target / np.maximum(references.mean(0), _SMALLEST)
    rivals = np.sort(ratio[others])
    beaten = np.searchsorted(rivals, ratio, side="right").astype(np.float64)
    beaten[others] -= 1  # a record does not compete with itself
    size = np.full(len(ratio), len(rivals), np.float64)
    size[others] -= 1
    return np.asarray(beaten / np.maximum(size, 1))


def lira(target: Floats, references: Floats, inside: Bools) -> Floats:
    """Log likelihood ratio of a record's logit, in against out, under normal distributions.

    `inside: bool[k, n]` says which references have trained on which record: at
    least one has and one has not. With few references one variance per side
    serves all records.
    """
    seen, of_references = _logit(target), _logit(references)
    ratios = []
    for side in (inside, ~inside):
        count = side.sum(0)
        mean = np.where(side, of_references, 0).sum(0) / count
        squares = np.where(side, np.square(of_references - mean), 0).sum()
        deviation = max(math.sqrt(squares / side.sum()), _SMALLEST)
        ratios.append(-np.square((seen - mean) / deviation) / 2 - math.log(deviation))
    return np.asarray(ratios[0] - ratios[1])


def _logit(chance: Floats) -> Floats:
    kept = np.clip(chance, _SMALLEST, 1 - 1e-9)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def found_at(scores: Floats, member: Bools, false_alarms: float) -> float:
    """The largest rate of members found at a rate of false alarms of at most `false_alarms`.

    The threshold lies between scores, so equal scores are found together or not at all.
    """
    others = np.sort(scores[~member])[::-1]
    allowed = math.floor(false_alarms * len(others) + 1e-9)
    threshold = others[allowed] if allowed < len(others) else -math.inf
    return float(np.mean(scores[member] > threshold))
