"""What a site tries before it pays for private training, on records that nobody has.

That a model and its loss keep records apart shows in no list of layers, and that the rows of
a part are alike, bit for bit, is a matter of the machine. Both are tried once for a model, in
the very shapes that records will have, with weights and records drawn from a fixed stream: so
whatever is refused here is refused for what is public, and nothing is left to refuse once
records are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.models.slots import NAME as SLOTS
from fedlearn.models.slots import canary_losses
from fedlearn.tasks import Loss
from fedlearn.training.augmentation import views
from fedlearn.training.device import home
from fedlearn.training.dp import ClippedGradients, refusals
from fedlearn.training.local import forward
from fedlearn.training.private import keep_apart, losses_of, rows_of
from fedlearn.training.settings import Training

Records = Callable[[int], tuple[Tensor, Tensor]]
"""So many made-up records, inputs and targets `[n, ...]`, in the form of a site's own."""

_done: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()
"""What was tried: all sites of a process share one model, and it is the same in every round."""

_SPREAD: Final = (1.0, 0.1)
"""Weights are drawn as layers usually begin; smaller ones where those give no finite gradient."""


def try_out(model: nn.Module, records: Records, config: Training, *, loss: Loss) -> None:
    """Refuse a model or a loss under which what is clipped would not be one record's.

    Leaves weights, buffers, modes and torch's generators as they were. Where rows turn out
    not to be alike on this machine, records will be taken one by one.

    Raises:
        ConfigError: with what was found, and the way out.
    """
    rows, device = rows_of(config), home(model)
    key = (loss, rows, device, config.precision, config.augmentations)
    if key in (done := _done.setdefault(model, set())):
        return
    features, labels = (values.to(device) for values in records(rows))
    seen = views(features, config, np.random.default_rng(0))
    run = partial(losses_of, model, config.precision, loss)
    with _as_before(model):
        for spread in _SPREAD:
            _draw(model, spread)
            check_loss(loss, forward(model, seen[0], config.precision), labels)
            # Opacus may know a layer that ours refuses; what a site runs has been checked by then.
            if not refusals(model) and _finite(model, run, labels, seen):
                break
    done.add(key)


def _finite(
    model: nn.Module, run: Callable[..., Tensor], labels: Tensor, seen: list[Tensor]
) -> bool:
    """Try the model with the weights that it has; whether all gradients were finite."""
    engine, losses = ClippedGradients(model, clip_norm=1.0), partial(run, labels, *seen)
    try:
        found = engine.step(losses)
        if hasattr(model, SLOTS):
            slots = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
            engine.step(lambda: canary_losses(model, slots, 1.0))
    except ValueError as error:
        raise ConfigError([f"model: {error}"]) from error
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    order = order.to(labels.device)
    moved = partial(run, labels[order], *(view[order] for view in seen))
    model.eval()  # dropout draws by place
    keep_apart(model, len(labels), alone=not engine.alike(losses, moved, order))
    model.train()
    return bool(found.norms.isfinite().all())


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
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
def _draw(model: nn.Module, spread: float) -> None:
    """Random weights, for those of a new model may be zero and show nothing."""
    coins = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            inputs = parameter[0].numel() if parameter.dim() > 1 else 4
            drawn = torch.randn(parameter.shape, generator=coins) * (spread / max(1, inputs) ** 0.5)
            parameter.copy_(drawn)


def check_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a loss that is not one per record: what is clipped would not be one record's.

    Raises:
        ConfigError: it has another shape, or one record's loss depends on another's outputs.
    """
    if len(outputs) < 2:
        return
    seen = outputs.detach().requires_grad_()
    with torch.enable_grad():
        losses, alone = loss(seen, targets), loss(seen[:1], targets[:1])
        if losses.shape == (len(seen),) and alone.shape == (1,):
            (slope,) = torch.autograd.grad(losses[0], seen)
            (own,) = torch.autograd.grad(alone[0], seen)
            # What depends on the others' targets, or on how many there are, has no slope there.
            if torch.allclose(slope, own, rtol=1e-3, atol=1e-6, equal_nan=True):
                return
    raise ConfigError(
        [
            "task: its loss mixes the records of a batch, and privacy is promised to single ones; "
            "return one loss per record, from that record's outputs alone"
        ]
    )
