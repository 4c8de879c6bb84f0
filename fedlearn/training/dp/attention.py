"""Per-sample gradients of `nn.MultiheadAttention`, which hides four linear layers in one call.

While a tape runs, the attention is computed here from the module's own
parameters, and each projection of the inputs is recorded as the linear layer
that it is; the last one is a module of its own that the tape watches anyway.
Same options, masks and result as torch's (2.13) own forward pass, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.training.dp.contribution import Contribution, instantiated, stacked
from fedlearn.training.dp.layer import Call, Layer, PerSample, Record, Rule
from fedlearn.training.dp.linear import Pair, positions, product

_THIRDS = ("q", "k", "v")
_APPENDED = ("bias_k", "bias_v")


def _forward(
    layer: Layer,
    record: Record,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What the module's own `forward` returns; `is_causal` is a hint that the mask says itself."""
    module = cast(nn.MultiheadAttention, layer.module)
    if query.dim() != 3:
        raise ValueError(f"{layer.name}: got {query.dim()} axes; pass a batch of sequences")
    if is_causal and attn_mask is None:
        raise ValueError(f"{layer.name}: is_causal needs attn_mask")
    q, k, v = (_heads(part, module) for part in _projected(module, record, query, key, value))
    mask = _mask(module, (q, k), key_padding_mask, attn_mask)
    dropout = module.dropout if module.training else 0.0
    weights = None
    if need_weights:
        scores = q @ k.transpose(2, 3) / math.sqrt(module.head_dim)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = functional.dropout(weights, dropout)
        attended = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        attended = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
    attended = attended.transpose(1, 2).flatten(2)
    return module.out_proj(attended if module.batch_first else attended.transpose(0, 1)), weights


def _projected(
    module: nn.MultiheadAttention, record: Record, query: Tensor, key: Tensor, value: Tensor
) -> list[Tensor]:
    """Query, key and value after their projections, and what is appended to them: sample first."""
    if module.in_proj_weight is not None and query is key is value:
        x = _sample_first(module, query)
        packed = functional.linear(x, module.in_proj_weight, module.in_proj_bias)
        q, k, v = record((x,), packed, "qkv").chunk(3, -1)
    else:
        q, k, v = (
            _third(module, record, part, _sample_first(module, x))
            for part, x in zip(_THIRDS, (query, key, value), strict=True)
        )
    if module.bias_k is not None and module.bias_v is not None:
        k = torch.cat([k, record((), module.bias_k.expand(len(k), -1, -1), "bias_k")], 1)
        v = torch.cat([v, record((), module.bias_v.expand(len(v), -1, -1), "bias_v")], 1)
    if module.add_zero_attn:
        k, v = functional.pad(k, (0, 0, 0, 1)), functional.pad(v, (0, 0, 0, 1))
    return [q, k, v]


def _sample_first(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    return x if module.batch_first else x.transpose(0, 1)


def _third(module: nn.MultiheadAttention, record: Record, part: str, x: Tensor) -> Tensor:
    place = _THIRDS.index(part)
    weight = (
        getattr(module, f"{part}_proj_weight")
        if module.in_proj_weight is None
        else module.in_proj_weight.chunk(3)[place]
    )
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[place]
    return record((x,), functional.linear(x, weight, bias), part)


def _heads(x: Tensor, module: nn.MultiheadAttention) -> Tensor:
    """float[batch, length, width] to [batch, heads, length, width / heads]."""
    return x.reshape(*x.shape[:2], module.num_heads, -1).transpose(1, 2)


def _mask(
    module: nn.MultiheadAttention,
    seen: tuple[Tensor, Tensor],
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
) -> Tensor | None:
    """What is added to the scores: broadcasts to float[batch, heads, queries, keys]."""
    (batch, heads, length, _), dtype = seen[0].shape, seen[0].dtype
    masks = []
    if attn_mask is not None:
        shape = (batch, heads) if attn_mask.dim() == 3 else (1, 1)
        masks.append(_added(attn_mask, dtype).view(*shape, length, -1))
    if key_padding_mask is not None:
        masks.append(_added(key_padding_mask, dtype).view(batch, 1, 1, -1))
    if not masks:
        return None
    total = sum(masks[1:], start=masks[0])
    # Keys that the module appends are open to every query.
    return functional.pad(total, (0, seen[1].shape[2] - total.shape[3]))


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)


def _contributions(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
    plain = [call for call in calls if isinstance(call, Call)]
    found = []
    for own in _APPENDED:
        gradients = [call.gradient.unsqueeze(1) for call in plain if call.part == own]
        if gradients and (known := layer.parameters.get(own)):
            found.append(instantiated(known, sum(gradients[1:], start=gradients[0])))
    module = cast(nn.MultiheadAttention, layer.module)
    thirds = {part: _pairs_of(module, part, plain) for part in _THIRDS}
    if known := layer.parameters.get("in_proj_bias"):
        sums = [torch.cat([g for _, g in pairs], 1).sum(1) for pairs in thirds.values()]
        found.append(instantiated(known, torch.cat(sums, 1)))
    return found + _weights(layer, thirds, plain)


def _weights(
    layer: Layer, thirds: Mapping[str, Sequence[Pair]], calls: Sequence[Call]
) -> list[Contribution]:
    if known := layer.parameters.get("in_proj_weight"):
        projections = [call for call in calls if call.part not in _APPENDED]
        if all(call.part == "qkv" for call in projections):
            return [product(known, [positions(call) for call in projections])]
        return [stacked(known, [product(known, pairs) for pairs in thirds.values()])]
    names = {part: layer.parameters.get(f"{part}_proj_weight") for part in _THIRDS}
    return [product(known, thirds[part]) for part, known in names.items() if known]


def _pairs_of(module: nn.MultiheadAttention, part: str, calls: Sequence[Call]) -> list[Pair]:
    """What went into one of the three projections, and the gradients at what came out."""
    pairs = []
    for call in calls:
        if call.part == part:
            pairs.append(positions(call))
        elif call.part == "qkv":
            x, g = positions(call)
            pairs.append((x, g.chunk(3, -1)[_THIRDS.index(part)]))
    if pairs:
        return pairs
    # A loss that looks at the weights of the attention alone gives the values no gradient.
    width = {"q": module.embed_dim, "k": module.kdim, "v": module.vdim}[part]
    g = calls[0].gradient
    return [(g.new_zeros(len(g), 1, width), g.new_zeros(len(g), 1, module.embed_dim))]


def _refusal(module: nn.Module) -> str | None:
    if type(module).forward is not nn.MultiheadAttention.forward or "forward" in vars(module):
        return "has a forward pass of its own; use opacus.layers.DPMultiheadAttention"
    return None


ATTENTION = Rule(
    name="attention",
    contributions=_contributions,
    knows=frozenset(
        {"in_proj_weight", "in_proj_bias", *(f"{part}_proj_weight" for part in _THIRDS), *_APPENDED}
    ),
    refusal=_refusal,
    forward=_forward,
)
