"""Per-sample gradients of `nn.Embedding`: the rows that a sample looked up.

The Gram matrix of one-hot inputs is equality of ids, so the norm needs no
table-sized tensor per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fedlearn.training.dp.contribution import Contribution, ghost_squared_norms, scaled
from fedlearn.training.dp.layer import Call, Layer, PerSample, Rule


def _contributions(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
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
        table = g.new_zeros(rows, width)
        return table.index_add_(0, ids.flatten(), scaled(factors, g).flatten(0, 1))

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


EMBEDDING = Rule(name="embedding", contributions=_contributions, refusal=_refusal)
