"""Weights of a trained model in eight bits, and the model made of them again.

A row of a matrix (of a convolution the numbers of one output channel, of a vocabulary those of
one token) becomes whole numbers from -127 to 127 and one scale, its largest number over 127; what
is no matrix, and what has rows of less than `SHORTEST` numbers, stays as it is. Weights are small
on the disk alone: they are multiplied by their scales when they are read, and what is computed
with them is computed in the precision of the model. It reads no record, so that it costs no
epsilon.

Source: symmetric quantisation by channel (Krishnamoorthi 2018, "Quantizing deep convolutional
networks for efficient inference", section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.models.forms import whole_weights

SHORTEST: Final = 8
"""Numbers of a row; of fewer the scale would take what the bits save."""
_LARGEST: Final = 127
_SCALE: Final = "::scale"
"""How the name of scales ends, after that of what they are of."""


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix `[rows, ...]` as `int8` of its shape, and its scales `float32[rows]`.

    **Guarantees:** no number is farther than half a scale, that is `max |row| / 254`, and rounding
    from what it was; zeros stay zeros; what was made of such a pair comes out as the same pair.
    """
    rows = weight.detach().to(torch.float32, copy=True).flatten(1)
    scales = rows.abs().amax(1) / _LARGEST
    whole = rows.div_(torch.where(scales > 0, scales, 1.0)[:, None]).round_()
    return whole.clamp_(-_LARGEST, _LARGEST).to(torch.int8).view(weight.shape), scales


def dequantised(whole: Tensor, scales: Tensor) -> Tensor:
    """The matrix of a pair that `quantised` gives: `float32`, in the shape of `whole`."""
    found: Tensor = whole.float() * scales.view(-1, *[1] * (whole.ndim - 1))
    return found


def in_eight_bits(network: nn.Module) -> dict[str, Tensor]:
    """All weights of a whole model, adapters added to what they adapt, matrices in eight bits.

    Raises:
        ConfigError: they are no numbers: training has diverged.
    """
    found: dict[str, Tensor] = {}
    for name, weight in whole_weights(network).items():
        if weight.dtype.is_floating_point and not bool(torch.isfinite(weight).all()):
            raise ConfigError(
                f"--to=int8: {name} of the model holds what is no number: its training has "
                "diverged; train it again, with a smaller training.learning_rate"
            )
        if _is_matrix(weight):
            found[name], found[name + _SCALE] = quantised(weight)
        else:
            kept = weight.float() if weight.dtype.is_floating_point else weight
            found[name] = kept.clone(memory_format=torch.contiguous_format)
    return found


def read_back(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that `in_eight_bits` gave, as `float32`.

    Raises:
        ValueError: a matrix has no scales, or those of another.
    """
    return dict(_read_back(tensors))


def _read_back(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, values in tensors.items():
        if name.endswith(_SCALE):
            if name.removesuffix(_SCALE) not in tensors:
                raise ValueError(f"{name}: scales of nothing")
            continue
        if values.dtype != torch.int8:
            yield name, values
            continue
        scales = tensors.get(name + _SCALE)
        if scales is None or scales.shape != values.shape[:1] or values.ndim < 2:
            raise ValueError(f"{name}: eight bits without a scale for every row")
        if scales.dtype != torch.float32 or not bool(torch.isfinite(scales).all()):
            raise ValueError(f"{name}: its scales are no numbers")
        yield name, dequantised(values, scales)


def _is_matrix(weight: Tensor) -> bool:
    wide = weight.ndim > 1 and weight[0].numel() >= SHORTEST
    return weight.dtype.is_floating_point and wide


def single_precision(network: nn.Module) -> int:
    """Bytes that all weights of a whole model take as `float32`, adapters added to what they
    adapt."""
    return 4 * sum(weight.numel() for weight in whole_weights(network).values())
