"""The loss of a record: cross-entropy, times the weight of its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedlearn.training.device import CPU
from fedlearn.training.settings import Training


def class_weights(
    config: Training, classes: Sequence[str], device: torch.device = CPU
) -> Tensor | None:
    """`float32[classes]`, the largest 1, on the device of the model; None where all are alike.

    Only ratios count. A weight above 1 would do little under a clip norm, which
    bounds what a record adds however much its loss is raised; so the other
    classes are taken down instead.
    """
    if not config.class_weights:
        return None
    weights = torch.tensor([config.class_weights.get(name, 1.0) for name in classes])
    return (weights / weights.max()).to(device)


def class_weight_problems(config: Training, classes: Sequence[str]) -> Iterator[str]:
    """Weights of classes that there are not."""
    for name in config.class_weights:
        if name not in classes:
            yield (f"training.class_weights.{name}: no such class; there are {', '.join(classes)}")


def losses_of(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Nats times weight, `float32[batch]`, of logits `[batch, classes]`."""
    return functional.cross_entropy(logits, labels, weight=weights, reduction="none")
