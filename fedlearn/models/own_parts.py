"""Which part of a model stays with its owner: the head, or the layers that normalise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlearn.core.vector import shared_tensors
from fedlearn.models.finetune import HEAD


def own_values(model: nn.Module, part: str) -> NDArray[np.bool_]:
    """Where the vector of `model` holds its part `head` or `norm`: `bool[d]`, none for `none`.

    Of a layer that normalises its running statistics belong to it as well. The order is that of
    `fedlearn.core.vector`.
    """
    owners = {"head": [HEAD], "norm": list(_normalising(model)), "none": []}[part]
    under = tuple(f"{name}." for name in owners)
    parts = [np.full(t.numel(), n.startswith(under)) for n, t in shared_tensors(model).items()]
    return np.concatenate(parts) if parts else np.zeros(0, np.bool_)


def own_problems(model: nn.Module, part: str) -> list[str]:
    """Why a model cannot be shared but for this part, with the way out."""
    own = own_values(model, part)
    if part == "none" or (own.any() and not own.all()):
        return []
    reason = (
        "all that is trained is in it" if own.any() else "there is no such part that is trained"
    )
    return [
        f"training.personal={part}: {reason}. Choose a model with layers before its head "
        "(model.architecture=mlp), or with layers that normalise, or strategy=mr_mtl for a "
        "whole model of every site's own"
    ]


def _normalising(model: nn.Module) -> Iterator[str]:
    """By what such classes are called, in torch and in transformers."""
    for name, module in model.named_modules():
        if "Norm" in type(module).__name__ and not any(True for _ in module.children()):
            yield name
