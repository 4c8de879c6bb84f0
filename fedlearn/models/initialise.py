"""Initial weights as a function of the run seed alone.

torch's constructors draw from its global generator, so models are built
without storage and filled here. A layer type that this module does not know is
an error, never a silent use of uninitialised memory.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


def allocate(model: nn.Module) -> None:
    """Give a model that was built on the meta device memory on the CPU, in place.

    What two modules share stays shared. torch's `to_empty` does the same, and
    imports SymPy (0.5 s) to learn the shape of a tensor without storage.
    """
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in made:
                memory = torch.empty(parameter.shape, dtype=parameter.dtype)
                made[parameter] = nn.Parameter(memory, parameter.requires_grad)
            setattr(module, name, made[parameter])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


@runtime_checkable
class Started(Protocol):
    """A module with initial values of its own."""

    def start(self) -> None:
        """Set them; its layers have been filled as everywhere."""


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Fill all parameters and buffers of `model` in place, in module order.

    Linear and convolution weights are uniform in +-1/sqrt(fan_in) with zero
    bias, embeddings normal with deviation 1/sqrt(width), norms are the
    identity. The layer called `head` starts at zero: the first prediction is
    uniform, and under DP no noise budget is spent on unlearning a random one.
    Filters without a bias, which a norm follows, are uniform in
    +-sqrt(6/fan_in) (He et al. 2015) less their mean, so that they do not see
    what is even all around them: a norm within the record would enlarge that
    with the rest, and no mean over the batch takes it away.
    """
    for name, module in model.named_modules():
        _fill(module, name, generator)
    for module in model.modules():
        if isinstance(module, Started):
            module.start()


@torch.no_grad()
def _fill(module: nn.Module, name: str, generator: torch.Generator) -> None:
    match module:
        case nn.Conv2d() if _is_filter(module):
            _uniform(module.weight, generator, gain=6**0.5)
            module.weight.sub_(module.weight.mean((1, 2, 3), keepdim=True))
        case nn.Linear() | nn.Conv1d() | nn.Conv2d():
            if name == "head":
                module.weight.zero_()
            else:
                _uniform(module.weight, generator)
            if module.bias is not None:
                module.bias.zero_()
        case nn.Embedding():
            module.weight.normal_(0.0, module.embedding_dim**-0.5, generator=generator)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        case nn.LayerNorm() | nn.GroupNorm() | nn.BatchNorm1d() | nn.BatchNorm2d():
            module.reset_parameters()
        case _ if _holds_values(module):
            raise TypeError(
                f"no initialisation is defined for {name} ({type(module).__name__}); let its "
                "model draw them (draws_own_weights = True)"
            )


def _holds_values(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))


def _is_filter(module: nn.Conv2d) -> bool:
    """Not where an image is cut into patches, or a filter is one number."""
    size, stride = module.kernel_size, module.stride
    cuts = size == stride and size != (1, 1)
    return module.bias is None and not cuts and module.weight[0].numel() > 1


def _uniform(weight: Tensor, generator: torch.Generator, gain: float = 1.0) -> None:
    bound = gain * math.prod(weight.shape[1:]) ** -0.5
    weight.uniform_(-bound, bound, generator=generator)
