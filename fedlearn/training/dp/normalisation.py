"""Per-sample gradients of `nn.LayerNorm`, `nn.RMSNorm` and `nn.GroupNorm`.

All three compute weight * normal(x) + bias, so a sample's gradients are sums
over its positions of g * normal(x) and of g: as small as the parameter itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.training.dp.contribution import Contribution, at_once, instantiated
from fedlearn.training.dp.layer import Call, Deliver, Layer, PerSample, Rule, Watch

Normal = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(module, x, g) to per-sample gradients of weight and bias."""

Backward = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(module, g, x, mean, rstd) to the gradient at x, and per-sample gradients of weight and bias."""

_WORTH_A_CALL = 2**14
"""A sample of so many numbers takes the CPU's kernel longer than a call takes."""

_MOST_GROUPS = 65_535
"""What CUDA's kernel takes for one sample: it lays groups along an axis of no greater length."""


def _rule(name: str, gradients: Normal, watch: Watch | None = None) -> Rule:
    def contributions(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
        found = [_per_sample(layer.module, call, gradients) for call in calls]
        return [
            instantiated(known, sum((one[own] for one in found[1:]), start=found[0][own]))
            for own, known in layer.parameters.items()
        ]

    return Rule(name=name, contributions=contributions, watch=watch)


def _per_sample(
    module: nn.Module, call: Call | PerSample, gradients: Normal
) -> Mapping[str, Tensor]:
    if isinstance(call, PerSample):
        return call.gradients
    weight, bias = gradients(module, call.inputs[0].to(call.gradient.dtype), call.gradient)
    return {"weight": weight, "bias": bias}


def _over_positions(
    shape: Sequence[int], normalise: Callable[[Tensor], Tensor], x: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over all axes between the sample and the last `len(shape)` axes."""
    if x.dim() <= len(shape):
        raise ValueError(
            f"a norm over {tuple(shape)} saw {x.dim()} axes, the samples' among them; "
            "give it the axes after the first alone"
        )
    batch = len(g)
    weight, bias = g.new_empty(batch, *shape), g.new_empty(batch, *shape)
    chunk = max(1, at_once(g) // g[0].numel())
    for start in range(0, batch, chunk):
        part = slice(start, start + chunk)
        rows = g[part]
        product = normalise(x[part]).mul_(rows)
        weight[part] = product.reshape(len(rows), -1, *shape).sum(1)
        bias[part] = rows.reshape(len(rows), -1, *shape).sum(1)
    return weight, bias


def _layer_norm(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    norm = cast(nn.LayerNorm, module)
    shape = norm.normalized_shape
    return _over_positions(shape, lambda x: functional.layer_norm(x, shape, eps=norm.eps), x, g)


def _rms_norm(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    norm = cast(nn.RMSNorm, module)
    shape = list(norm.normalized_shape)
    return _over_positions(shape, lambda x: functional.rms_norm(x, shape, eps=norm.eps), x, g)


def _group_norm(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    norm = cast(nn.GroupNorm, module)
    normal = functional.group_norm(x, norm.num_groups, eps=norm.eps)
    return (normal * g).flatten(2).sum(2), g.flatten(2).sum(2)


class _WithGradients(torch.autograd.Function):
    """A normalisation whose one backward call gives the input's and every sample's gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: Tensor,
        statistics: tuple[Tensor, Tensor],
        backward: Backward,
        layer: Layer,
        deliver: Deliver,
    ) -> Tensor:
        ctx.save_for_backward(x, *statistics)
        ctx.passed, ctx.layer, ctx.deliver = backward, layer, deliver
        # The output was computed already: it passes through untouched.
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        at_input, weight, bias = ctx.passed(ctx.layer.module, g.contiguous(), *ctx.saved_tensors)
        ctx.deliver(PerSample(gradients={"weight": weight, "bias": bias}))
        return at_input, None, None, None, None, None


def _folded_group_norm(
    module: nn.Module, g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of B samples with C channels in G groups is, to the kernel, one sample
    with B C channels in B G groups; the gradient of that one's weight, of length B C, is
    the per-sample gradient, at no cost beyond the gradient of the input.
    """
    norm = cast(nn.GroupNorm, module)
    batch, channels = x.shape[:2]
    folded = (1, batch * channels, *x.shape[2:])
    at_input, weight, bias = torch.ops.aten.native_group_norm_backward(
        g.view(folded),
        x.view(folded),
        mean.view(1, -1),
        rstd.view(1, -1),
        norm.weight.detach().repeat(batch),
        1,
        batch * channels,
        x[0, 0].numel(),
        batch * norm.num_groups,
        [True, True, True],
    )
    return at_input.view_as(x), weight.view(batch, channels), bias.view(batch, channels)


def _sampled_layer_norm(
    module: nn.Module, g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel adds up the gradients of weight and bias beside that of the input: called
    for one sample, it gives that sample's.
    """
    norm = cast(nn.LayerNorm, module)
    shape = norm.normalized_shape
    # The value of a bias does not matter to any gradient; that there is one does.
    weight = norm.weight.detach()
    found = torch.empty_like(x), g.new_empty(len(g), *shape), g.new_empty(len(g), *shape)
    for one_g, one_x, one_mean, one_rstd, *places in zip(g, x, mean, rstd, *found, strict=True):
        values = torch.ops.aten.native_layer_norm_backward(
            one_g, one_x, shape, one_mean, one_rstd, weight, weight, [True, True, True]
        )
        for place, value in zip(places, values, strict=True):
            place.copy_(value)
    return found


def _watch(backward: Backward, fits: Callable[[Tensor, Tensor], bool]) -> Watch:
    """Swap the recorded backward for `backward`, where torch kept what that needs, and
    where it `fits` the input and its means."""

    def watch(
        layer: Layer, inputs: tuple[Tensor, ...], output: Tensor, deliver: Deliver
    ) -> Tensor | None:
        x, made_by = inputs[0], output.grad_fn
        # What the recorded function saved is found by its documented `_saved_` attributes.
        mean = getattr(made_by, "_saved_result1", None)
        rstd = getattr(made_by, "_saved_result2", None)
        weight = getattr(layer.module, "weight", None)
        plain = weight is not None and x.is_contiguous() and x.dtype == output.dtype == weight.dtype
        if mean is None or rstd is None or not plain or not x.requires_grad:
            return None
        if layer.sequence_first or len(mean) != len(x) or not fits(x, mean):
            return None
        found = _WithGradients.apply(  # type: ignore[no-untyped-call]
            x, output.detach(), (mean, rstd), backward, layer, deliver
        )
        return cast(Tensor, found)

    return watch


def _sampling_pays(x: Tensor, _mean: Tensor) -> bool:
    return not x.is_cuda and x[:1].numel() >= _WORTH_A_CALL


def _folding_fits(_x: Tensor, mean: Tensor) -> bool:
    return mean.numel() <= _MOST_GROUPS


LAYER_NORM = _rule("layer norm", _layer_norm, _watch(_sampled_layer_norm, _sampling_pays))
RMS_NORM = _rule("RMS norm", _rms_norm)
GROUP_NORM = _rule("group norm", _group_norm, _watch(_folded_group_norm, _folding_fits))
