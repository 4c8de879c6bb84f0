"""What trials are made with: strange records, others' places, random weights, a model put back.

Weights and orders are drawn from fixed streams: what is found is of what is public.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from fedlearn.training.device import home

log = logging.getLogger(__name__)

SPREADS: Final = (1.0, 0.1)
"""Weights are drawn as layers usually begin; smaller ones where those give no finite gradient."""


def doubled(order: Tensor, half: int) -> Tensor:
    """Every other place of `order`, the rest copies of them."""
    taken = order.clone()
    places = taken[1 - half :: 2]
    places.copy_(order[half::2].repeat(2)[: len(places)])
    return taken


def say_slow(what: str) -> None:
    """Log that records cannot go together here, and the way out."""
    log.warning(
        "this machine computes a record otherwise in another row of a batch: %s one by one, "
        "which takes long. Set MKL_CBWR=AUTO before Python starts, or import fedlearn before "
        "torch computes anything",
        what,
    )


def companies(rows: int, device: torch.device) -> Iterator[tuple[Tensor, Kind, bool]]:
    """Which rows stay, `bool[rows]`, and what becomes of the rest: of any two, each stays alone.

    And whether those that stay are to be tried as such as well: once for every strange kind.
    """
    bits, places = (rows - 1).bit_length(), torch.arange(rows, device=device)
    halves = [(places >> bit) % 2 == side for bit in range(bits) for side in (0, 1)]
    for i in range(max(len(halves), len(KINDS))):
        kind = KINDS[i % len(KINDS)]
        yield halves[i % len(halves)], kind, ORDINARY <= i < len(KINDS)


Kind = Callable[[Tensor], Tensor]


def _numbers(change: Kind) -> Kind:
    """Codes, flags and ids stay what they are."""

    def changed(values: Tensor) -> Tensor:
        if not values.is_floating_point():
            return values
        return torch.where((values == values.round()).all(0), values, change(values))

    return changed


SAME: Final[Kind] = lambda values: values  # noqa: E731  (one of its kind)

KINDS: Final[tuple[Kind, ...]] = (
    SAME,
    lambda values: values[:1].expand_as(values),
    _numbers(lambda values: values * 1e4),
    _numbers(lambda values: values * 1e30),
    _numbers(lambda values: values * 1e-4),
    _numbers(torch.zeros_like),
    _numbers(lambda values: torch.full_like(values, torch.nan)),
)
"""What made-up records become beside which others stay as they are."""

ORDINARY: Final = 2
"""So many kinds, the first, are records like any other."""


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Whatever is done to the model meanwhile is undone."""
    parameters = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    buffers = [
        (module, {name: None if b is None else b.clone() for name, b in module._buffers.items()})
        for module in model.modules()
    ]
    modes = {module: module.training for module in model.modules()}
    device = home(model)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            model.train()
            yield
    finally:
        with torch.no_grad():
            for parameter, value in parameters:
                parameter.copy_(value)
        for module, held in buffers:
            module._buffers.update(held)
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def draw(model: nn.Module, spread: float) -> None:
    """Random weights, for those of a new model may be zero and show nothing."""
    coins = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            inputs = parameter[0].numel() if parameter.dim() > 1 else 4
            drawn = torch.randn(parameter.shape, generator=coins) * (spread / max(1, inputs) ** 0.5)
            parameter.copy_(drawn)
