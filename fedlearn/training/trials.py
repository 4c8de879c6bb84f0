"""What a site tries before it pays for private training, on records that nobody has.

That a model and its loss keep records apart shows in no list of layers, and that the rows of
a part are alike, bit for bit, is a matter of the machine. Both are tried once for a model, in
the very shapes that records will have, with weights and records drawn from a fixed stream: so
whatever is refused here is refused for what is public, and nothing is left to refuse once
records are looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from fedlearn.training.private import losses_of, note_alike, sizes_of
from fedlearn.training.settings import Training

log = logging.getLogger(__name__)

Records = Callable[[int], tuple[Tensor, Tensor]]
"""So many made-up records, inputs and targets `[n, ...]`, in the form of a site's own."""

_done: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()
"""What was tried: all sites of a process share one model, and it is the same in every round."""

_even: WeakKeyDictionary[nn.Module, dict[int, int]] = WeakKeyDictionary()
"""By how many rows parts may have: how many they have, that answers are the same in all places."""

_ALONE: Final = 1

_SPREAD: Final = (1.0, 0.1)
"""Weights are drawn as layers usually begin; smaller ones where those give no finite gradient."""


def try_out(model: nn.Module, records: Records, config: Training, *, loss: Loss) -> None:
    """Refuse a model or a loss under which what is clipped would not be one record's.

    Leaves weights, buffers, modes and torch's generators as they were. Where rows turn out
    not to be alike on this machine in parts of several sizes, one size will be used; where
    they are not in that one, records will be taken one by one.

    Raises:
        ConfigError: with what was found, and the way out.
    """
    device = home(model)
    sizes = sizes_of(config, device)
    key = (loss, sizes, device, config.precision, config.augmentations)
    if key in (done := _done.setdefault(model, set())):
        return
    features, labels = (values.to(device) for values in records(sizes[-1]))
    seen = views(features, config, np.random.default_rng(0))
    made_up = _MadeUp(model, partial(losses_of, model, config.precision, loss), (labels, *seen))
    with _as_before(model):
        for spread in _SPREAD:
            _draw(model, spread)
            few = slice(0, max(2, sizes[0]))
            check_loss(loss, forward(model, seen[0][few], config.precision), labels[few])
            # Opacus may know a layer that ours refuses; what a site runs has been checked by then.
            if refusals(model) or made_up.apart(few):
                break
        if not refusals(model):
            model.eval()  # dropout draws by place
            found = made_up.alike(sizes)
            note_alike(model, sizes, found)
            if not found:
                _say_slow("records are trained on")
    done.add(key)


def even_rows(model: nn.Module, records: Records, most: int) -> int:
    """How many rows parts may have in which a record's answer does not depend on its place.

    `most`, or 1 where this machine tells places apart. Leaves the model as it was.
    """
    known = _even.setdefault(model, {})
    if most not in known:
        features, _ = records(most)
        order = torch.randperm(most, generator=torch.Generator().manual_seed(1))
        order = order.to(features.device)
        known[most] = _ALONE
        with _as_before(model), torch.no_grad():
            model.eval()
            for spread in _SPREAD:
                _draw(model, spread)
                answers = model(features)
                if answers.isfinite().all():
                    if torch.equal(answers[order], model(features[order])):
                        known[most] = most
                    break
        if known[most] < most:
            _say_slow("test records are graded")
    return known[most]


def _say_slow(what: str) -> None:
    log.warning(
        "this machine computes a record otherwise in another row of a batch: %s one by one, "
        "which takes long. Set MKL_CBWR=AUTO before Python starts, or import fedlearn before "
        "torch computes anything",
        what,
    )


@dataclass(frozen=True, eq=False)
class _MadeUp:
    """Records that nobody has, `inputs: [n, ...]` each, and the losses that `run` makes of them."""

    model: nn.Module
    run: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]

    def losses(self, rows: slice | Tensor) -> Callable[[], Tensor]:
        """Those of some of them."""
        return partial(self.run, *(values[rows] for values in self.inputs))

    def apart(self, rows: slice) -> bool:
        """Try with the weights of now whether records are kept apart; whether all was finite.

        Raises:
            ConfigError: they are not.
        """
        engine = ClippedGradients(self.model, clip_norm=1.0)
        try:
            found = engine.step(self.losses(rows))
            if hasattr(self.model, SLOTS):
                device = self.inputs[0].device
                slots = torch.zeros(len(found.losses), dtype=torch.int64, device=device)
                engine.step(lambda: canary_losses(self.model, slots, 1.0))
        except ValueError as error:
            raise ConfigError([f"model: {error}"]) from error
        return bool(found.norms.isfinite().all())

    def alike(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes among which every row is alike: all, the largest, or none."""
        engine, largest = ClippedGradients(self.model, clip_norm=1.0, trial=False), sizes[-1]
        order = torch.randperm(largest, generator=torch.Generator().manual_seed(1))
        order, whole = order.to(self.inputs[0].device), self.losses(slice(0, largest))
        if not engine.alike(whole, self.losses(order), order):
            return ()
        # Every row in one place of each size is enough: in the largest all places are alike.
        for size in sizes[:-1]:
            if not engine.alike(whole, self.losses(slice(0, size)), order.sort().values[:size]):
                return (largest,)
        return sizes


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
