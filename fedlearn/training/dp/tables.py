"""Per-sample gradients of learned tables: rows looked up, and tensors that every sample uses.

Of an `nn.Embedding` a sample owes the rows that it looked up. The Gram matrix of one-hot
inputs is equality of ids, so the norm needs no table-sized tensor per sample.

A bare `nn.Parameter` in a model's `forward` (a position table, a class token, a bias) leaves
no trace of which sample used it how. Held in a `SampleParameter` it does: the module hands
each sample its own copy, and the gradient at that copy is the sample's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fedlearn.training.dp.contribution import (
    Contribution,
    ghost_squared_norms,
    instantiated,
    scaled,
)
from fedlearn.training.dp.layer import Call, Layer, PerSample, Rule


def _looked_up(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
    module = cast(nn.Embedding, layer.module)
    plain = [call for call in calls if isinstance(call, Call)]
    batch = plain[0].gradient.shape[0]
    ids = torch.cat([call.inputs[0].reshape(batch, -1) for call in plain], 1)
    width = plain[0].gradient.shape[-1]
    g = torch.cat([call.gradient.reshape(batch, -1, width) for call in plain], 1)
    if module.padding_idx is not None:
        # Autograd gives the padding row no gradient; neither must the per-sample view.
        g = g.masked_fill((ids == module.padding_idx).unsqueeze(2), 0)
    same = (ids.unsqueeze(2) == ids.unsqueeze(1)).to(g.dtype)
    norms = ghost_squared_norms(same, torch.bmm(g, g.transpose(1, 2)), (1, width))
    rows = module.num_embeddings

    def combine(factors: Tensor, ids: Tensor, g: Tensor) -> Tensor:
        table = g.new_zeros(rows, width, dtype=torch.float64)
        wide = scaled(factors, g)
        return table.index_add_(0, ids.flatten(), wide.flatten(0, 1))

    return [
        Contribution(
            parameter=layer.parameters["weight"],
            squared_norms=norms,
            rows=(ids, g),
            combine=combine,
        )
    ]


def _refusal(module: nn.Module) -> str | None:
    if getattr(module, "max_norm", None) is not None:
        return "max_norm rewrites the table from the batch's ids; leave it out"
    if getattr(module, "scale_grad_by_freq", False):
        return "scale_grad_by_freq mixes samples; leave it out"
    return None


EMBEDDING = Rule(name="embedding", contributions=_looked_up, refusal=_refusal)


class SampleParameter(nn.Module):
    """Holds `value` and gives it to every sample of a batch.

    `forward(like)`, where `like` is any tensor whose first axis is the sample,
    returns `value` as a view of shape [batch, *value.shape].
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, like: Tensor) -> Tensor:
        """One copy of the value for each sample of `like`: float[batch, *value.shape]."""
        return self.value.expand(like.shape[0], *self.value.shape)


def _shared(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
    gradients = [call.gradient for call in calls if isinstance(call, Call)]
    return [instantiated(layer.parameters["value"], sum(gradients[1:], start=gradients[0]))]


SAMPLE_PARAMETER = Rule(name="sample parameter", contributions=_shared, knows=frozenset({"value"}))
