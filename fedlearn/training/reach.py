"""Whether training reaches all that it is to train: what never gets a gradient never learns.

Adapters that hang on nothing, or on what a loss does not depend on, would travel, be clipped,
noised and paid for, round after round, for nothing; and no metric would say why. The second factor
of an adapter begins at zero, so that its first one has a gradient of zero in the first step
whatever is right: what is looked at is the gradient with random weights in the place of those that
are trained, on records that nobody has.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakSet

import torch
from torch import nn

from fedlearn.core.errors import ConfigError, some
from fedlearn.models.finetune import checkpointed
from fedlearn.models.slots import is_slot
from fedlearn.tasks import Loss
from fedlearn.training.device import home
from fedlearn.training.local import forward
from fedlearn.training.made_up import as_before, draw
from fedlearn.training.parts import Records
from fedlearn.training.settings import Training

_FEW = 2
_reached: WeakSet[nn.Module] = WeakSet()
"""Models of which everything gets a gradient: sites of a process share one."""


def check_reach(model: nn.Module, records: Records, config: Training, *, loss: Loss) -> None:
    """Refuse a model of which a part would never learn; it is as before afterwards.

    Raises:
        ConfigError: parameters that are to be trained get no gradient, by name.
    """
    if model in _reached:
        return
    with as_before(model), checkpointed(model, config.checkpointing):
        draw(model, 1.0)
        idle = list(_idle(model, records, config, loss))
    if idle:
        raise ConfigError(
            f"training.finetune={config.finetune}: no gradient reaches {some(idle, 3)}, so that "
            "it would never learn, and under privacy be noise for nothing; use it in forward, or "
            "freeze it (requires_grad_(False))"
        )
    _reached.add(model)


def _idle(model: nn.Module, records: Records, config: Training, loss: Loss) -> Iterator[str]:
    """Parameters on which no loss depends, but for the slots of an audit: they are no record's."""
    learned = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    trained = {name: p for name, p in learned if not is_slot(name)}
    inputs, targets = (values.to(home(model)) for values in records(_FEW))
    total = loss(forward(model, inputs, config.precision), targets).sum()
    if not total.requires_grad:
        yield from trained
        return
    found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    for name, gradient in zip(trained, found, strict=True):
        if gradient is None or not gradient.any():
            yield name
