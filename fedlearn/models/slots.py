"""Audit slots: parameters beside a model that no record of the task touches.

A canary is a record whose loss is one slot. Its gradient lies on that
coordinate alone, so it is clipped, sampled, noised, masked and averaged with
everything else and never moves the trained model; what comes out on the
coordinate says what the mechanism gives away about one record (the Dirac
canaries of Nasr et al. 2023, section 4).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlearn.core.vector import Layout, Vector, shared_tensors

NAME: Final = "audit_slots"
_ENTRY: Final = f"{NAME}.table.weight"


class Slots(nn.Module):
    """`count` parameters that start at zero; as a stage of a model it changes nothing."""

    def __init__(self, count: int) -> None:
        super().__init__()
        # An embedding, because its gradient per record is known to every DP engine.
        self.table = nn.Embedding(count, 1)
        nn.init.zeros_(self.table.weight)

    def forward(self, logits: Tensor) -> Tensor:
        """What came in."""
        return logits


def attach(model: nn.Module, count: int) -> None:
    """Give `model` (a sequence of stages) `count` slots after its last stage; none for zero."""
    if count:
        model.add_module(NAME, Slots(count))


def canary_losses(model: nn.Module, canaries: Tensor, slope: float) -> Tensor:
    """The losses of the canaries in the slots `canaries: int64[k]`: their gradient is `slope`."""
    table: nn.Embedding = model.get_submodule(NAME).table  # type: ignore[assignment]
    losses: Tensor = slope * table(canaries.to(table.weight.device)).squeeze(-1)
    return losses


def is_slot(name: str) -> bool:
    """Whether a parameter of this name holds slots."""
    return name == _ENTRY


def slot_values(layout: Layout, vector: Vector) -> Vector:
    """The slots in a vector: `float32[m]`, empty where the model has none."""
    return layout.split(vector).get(_ENTRY, np.zeros((0, 1), np.float32))[:, 0]


def without_slots(layout: Layout) -> Layout:
    """The layout of the model alone."""
    return Layout(tuple(entry for entry in layout.entries if not is_slot(entry[0])))


def trained(layout: Layout, vector: Vector) -> Vector:
    """The vector of the model alone, in the order of `without_slots(layout)`."""
    parts = [part.ravel() for name, part in layout.split(vector).items() if not is_slot(name)]
    return np.concatenate(parts)


def trained_values(model: nn.Module) -> NDArray[np.bool_]:
    """Where the vector of `model` holds trained parameters: `bool[d]`, false for buffers and slots.

    The order is that of `fedlearn.core.vector`.
    """
    named = {name for name, p in model.named_parameters() if p.requires_grad and not is_slot(name)}
    parts = [np.full(t.numel(), name in named) for name, t in shared_tensors(model).items()]
    return np.concatenate(parts)


def no_canaries() -> Tensor:
    """What a site without canaries trains on beside its records: `int64[0]`."""
    return torch.zeros(0, dtype=torch.int64)
