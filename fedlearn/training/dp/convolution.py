"""Per-sample gradients of `nn.Conv1d` and `nn.Conv2d`, with groups, stride, dilation and padding.

Three ways, chosen by shape alone so that a run repeats bit for bit:

- *grouped*: a convolution over B samples with B times the groups is B
  convolutions; its weight gradient holds every sample's own (Rochette et al.
  2019, "Efficient Per-Example Gradient Computations in CNNs"). Best for large
  maps with few channels.
- *unfolded*: patches as a matrix, then one product per sample. For so few
  channels that a grouped convolution is wasted on them.
- *ghost*: for small maps with many channels the gradient is far larger than its
  factors. The Gram matrix of patches is the sum, over the places in a patch, of
  shifted blocks of the Gram matrix of pixels, so patches are never written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.training.dp.contribution import (
    Contribution,
    ghost_squared_norms,
    instantiated,
    pieces,
    scaled,
)
from fedlearn.training.dp.layer import Call, Layer, PerSample, Rule

_CHUNK = 16
"""Samples handled at once, so that what is written is still in cache when it is read."""

_ON_GPU = 256
"""The same on a GPU, where calls should cost more; bounds what patches take. An estimate."""

_KEEP = 2.0
"""Gradients are written out up to this many times the size of their factors."""

_FEW_CHANNELS = 8
"""Below this many input channels, unfolding beats a grouped convolution."""


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """A convolution in two dimensions (one-dimensional ones get a height of one)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    weight: tuple[int, ...]  # as the module holds it

    def weight_gradient(self, x: Tensor, g: Tensor, samples: int) -> Tensor:
        """The weight gradient of as many convolutions as there are `samples`, side by side."""
        out_channels = g.shape[1]
        in_channels = x.shape[1] // (samples * self.groups)
        # Only the shape of the weight matters to its gradient.
        weight = x.new_empty(1).expand(out_channels, in_channels, *self.kernel)
        found: Tensor = torch.ops.aten.convolution_backward(
            g, x, weight, None, self.stride, self.padding, self.dilation,
            False, [0, 0], samples * self.groups, [False, True, False],
        )[1]  # fmt: skip
        return found


def _contributions(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
    plain = [call for call in calls if isinstance(call, Call)]
    found = []
    if bias := layer.parameters.get("bias"):
        sums = [call.gradient.flatten(2).sum(2) for call in plain]
        found.append(instantiated(bias, sum(sums[1:], start=sums[0])))
    if weight := layer.parameters.get("weight"):
        found.append(_weight(weight, layer.module, plain))
    return found


def _weight(parameter: str, module: nn.Module, calls: Sequence[Call]) -> Contribution:
    cases = [_in_two_dimensions(module, call) for call in calls]
    shape, x, g = cases[0]
    if len(cases) == 1 and _ghost_pays(shape, x, g):
        return _ghost(parameter, shape, x, g)
    gradients = per_sample(shape, x, g)
    for _, x, g in cases[1:]:
        gradients += per_sample(shape, x, g)
    return instantiated(parameter, gradients.view(-1, *shape.weight))


def _in_two_dimensions(module: nn.Module, call: Call) -> tuple[_Shape, Tensor, Tensor]:
    """The same convolution as two-dimensional and zero-padded by numbers."""
    conv = cast(nn.Conv2d, module)
    x, g = call.inputs[0].to(call.gradient.dtype), call.gradient
    padding: tuple[int, ...] = (0,) * len(conv.kernel_size)
    if conv.padding_mode != "zeros":
        x = functional.pad(x, conv._reversed_padding_repeated_twice, conv.padding_mode)
    elif isinstance(conv.padding, str):
        x = functional.pad(x, conv._reversed_padding_repeated_twice)
    else:
        padding = conv.padding
    one = len(conv.kernel_size) == 1
    shape = _Shape(
        kernel=_two(conv.kernel_size, 1),
        stride=_two(conv.stride, 1),
        padding=_two(padding, 0),
        dilation=_two(conv.dilation, 1),
        groups=conv.groups,
        weight=tuple(conv.weight.shape),
    )
    return shape, x.unsqueeze(2) if one else x, g.unsqueeze(2) if one else g


def _two(values: tuple[int, ...], first: int) -> tuple[int, int]:
    return (first, values[0]) if len(values) == 1 else (values[0], values[1])


def _ghost_pays(shape: _Shape, x: Tensor, g: Tensor) -> bool:
    if shape.groups > 1:
        return False
    entries = g.shape[1] * x.shape[1] * shape.kernel[0] * shape.kernel[1]
    return entries > _KEEP * (x[0].numel() + g[0].numel())


def per_sample(shape: _Shape, x: Tensor, g: Tensor) -> Tensor:
    """Every sample's weight gradient: float[batch, p, d / groups * kernel]."""
    few = shape.groups == 1 and x.shape[1] < _FEW_CHANNELS
    way = _unfolded if few or (shape.kernel == (1, 1) and shape.groups == 1) else _grouped
    batch, entries = g.shape[0], x.shape[1] // shape.groups * shape.kernel[0] * shape.kernel[1]
    gradients = g.new_empty(batch, g.shape[1], entries)
    chunk = _ON_GPU if g.is_cuda else _CHUNK
    for start in range(0, batch, chunk):
        part = slice(start, start + chunk)
        gradients[part] = way(shape, x[part], g[part])
    return gradients


def _grouped(shape: _Shape, x: Tensor, g: Tensor) -> Tensor:
    samples = g.shape[0]
    wide_x = x.reshape(1, -1, *x.shape[2:])
    wide_g = g.reshape(1, -1, *g.shape[2:])
    return shape.weight_gradient(wide_x, wide_g, samples).view(samples, g.shape[1], -1)


def _unfolded(shape: _Shape, x: Tensor, g: Tensor) -> Tensor:
    return torch.bmm(g.flatten(2), _patches(shape, x).transpose(1, 2))


def _patches(shape: _Shape, x: Tensor) -> Tensor:
    """Patches as columns: float[batch, d * kernel, positions]."""
    if shape.kernel == (1, 1) and shape.padding == (0, 0):
        return x[:, :, :: shape.stride[0], :: shape.stride[1]].flatten(2)
    return functional.unfold(x, shape.kernel, shape.dilation, shape.padding, shape.stride)


def _ghost(parameter: str, shape: _Shape, x: Tensor, g: Tensor) -> Contribution:
    places = shape.kernel[0] * shape.kernel[1]
    height = x.shape[2] + 2 * shape.padding[0]
    width = x.shape[3] + 2 * shape.padding[1]
    positions = g[0, 0].numel()
    # Strides leave pixels out, so that the patches may be the smaller matrix.
    if (height * width) ** 2 <= places * positions**2:
        gram_x = _patch_gram(shape, x, g.shape[2:])
    else:
        patches = _patches(shape, x)
        gram_x = torch.bmm(patches.transpose(1, 2), patches)
    flat = g.flatten(2)
    gram_g = torch.bmm(flat.transpose(1, 2), flat)
    widths = (x.shape[1] * places, g.shape[1])

    def combine(factors: Tensor, x: Tensor, g: Tensor) -> Tensor:
        total = g.new_zeros((widths[1], widths[0]), dtype=torch.float64)
        for some in pieces(len(g), positions * sum(widths), g):
            wide = scaled(factors[some], g[some])
            total.addbmm_(wide.flatten(2), _patches(shape, x[some].double()).transpose(1, 2))
        return total.view(shape.weight)

    return Contribution(
        parameter=parameter,
        squared_norms=ghost_squared_norms(gram_x, gram_g, widths),
        rows=(x, g),
        combine=combine,
    )


def _patch_gram(shape: _Shape, x: Tensor, out: Sequence[int]) -> Tensor:
    """Gram matrix of patches from that of pixels: float[batch, positions, positions].

    The sum over places (i, j) of a patch is taken along j, then along i.
    """
    vertical, horizontal = shape.padding
    x = functional.pad(x, (horizontal, horizontal, vertical, vertical))
    batch, _, height, width = x.shape
    pixels = x.flatten(2)
    gram = torch.bmm(pixels.transpose(1, 2), pixels).view(batch, height, width, height, width)
    gram = _sum_of_shifts(gram, (2, 4), shape.kernel[1], shape.dilation[1], shape.stride[1], out[1])
    gram = _sum_of_shifts(gram, (1, 3), shape.kernel[0], shape.dilation[0], shape.stride[0], out[0])
    positions = out[0] * out[1]
    return gram.reshape(batch, positions, positions)


def _sum_of_shifts(
    gram: Tensor, axes: tuple[int, int], places: int, step: int, stride: int, out: int
) -> Tensor:
    """Sum over the places of a patch along one direction, on both axes at once."""
    total: Tensor | None = None
    for place in range(places):
        block = gram
        for axis in axes:
            start = place * step
            index = [slice(None)] * gram.dim()
            index[axis] = slice(start, start + (out - 1) * stride + 1, stride)
            block = block[tuple(index)]
        total = (
            block.clone(memory_format=torch.contiguous_format)
            if total is None
            else total.add_(block)
        )
    return gram if total is None else total


CONVOLUTION = Rule(name="convolution", contributions=_contributions)
