"""A smaller model that learns what another answers to public records.

What a released model answers to records that are nobody's secret is a function of the model, so
that it costs no privacy, however often it is asked (Dwork and Roth 2014, proposition 2.1).

Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlearn.core.settings import Count, Natural, Positive, config
from fedlearn.models import Learner
from fedlearn.tasks import Outputs, Task
from fedlearn.tasks.tokens import TokenLogits
from fedlearn.training.local import lent_generator
from fedlearn.training.optimizers import adam


@config
class Distillation:
    """How a model learns from another."""

    steps: Count = 400
    batch: Count = 32
    """Records of a step."""
    learning_rate: Positive = 0.005
    """Of Adam; it falls to zero in a straight line."""
    temperature: Positive = 2.0
    """By which logits of both are divided: above 1 the less likely answers count for more."""
    seed: Natural = 0


@torch.no_grad()
def outputs_of(network: nn.Module, records: Tensor, size: int) -> Outputs:
    """What a model gives for records, `size` of them at a time; n is at least 1."""
    network.eval()
    found = [network(part) for part in _parts(records, size)]
    if isinstance(found[0], TokenLogits):
        return replace(found[0], hidden=torch.cat([part.hidden for part in found]))
    return torch.cat(found)


def distil(
    student: Learner,
    task: Task,
    records: Tensor,
    teacher: Outputs,
    targets: Tensor,
    how: Distillation,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Make `how.steps` steps on the trained part of `student`, in place.

    Args:
        records: `[n, ...]`, n at least 1; public.
        teacher: what the other model gives for them.
        targets: `int64[n, ...]`, where an answer is learned: -1 marks the places of a text that
            have none. Of other records nothing of it is read.
        rng: shuffles, and lends its stream to dropout.

    Returns:
        The mean loss over all records before and after.

    Guarantees: the same arguments give the same student, bit for bit, on one machine; torch's
    generators are as before.
    """
    if student.frozen is not None:
        records = _frozen(student.frozen, records, how.batch)
    before = _loss(student.model, task, records, teacher, targets, how)
    optimizer = adam(student.model, how.learning_rate)
    student.model.train()
    with lent_generator(rng, torch.device("cpu")):
        for step, rows in enumerate(_batches(len(records), how, rng)):
            for group in optimizer.param_groups:
                group["lr"] = how.learning_rate * (1 - step / how.steps)
            optimizer.zero_grad(set_to_none=True)
            outputs = student.model(records[rows])
            losses = task.imitation(outputs, teacher[rows], targets[rows], how.temperature)
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return before, _loss(student.model, task, records, teacher, targets, how)


@torch.no_grad()
def _frozen(frozen: nn.Module, records: Tensor, size: int) -> Tensor:
    return torch.cat([frozen(part) for part in _parts(records, size)])


def _parts(records: Tensor, size: int) -> Iterator[Tensor]:
    """All records, at most so many at a time."""
    return (records[start : start + size] for start in range(0, len(records), size))


@torch.no_grad()
def _loss(
    model: nn.Module, task: Task, records: Tensor, teacher: Any, targets: Tensor, how: Distillation
) -> float:
    model.eval()
    total = 0.0
    for rows in _parts(torch.arange(len(records)), how.batch):
        outputs = model(records[rows])
        total += float(task.imitation(outputs, teacher[rows], targets[rows], how.temperature).sum())
    return total / len(records)


def _batches(count: int, how: Distillation, rng: np.random.Generator) -> Iterator[Tensor]:
    """`how.steps` batches of rows; every pass over the records is shuffled anew."""
    size, order, start = min(how.batch, count), np.empty(0, np.int64), 0
    for _ in range(how.steps):
        if start + size > len(order):
            order, start = rng.permutation(count), 0
        yield _rows(order[start : start + size])
        start += size


def _rows(order: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(order)
