"""What clips the gradients of a part of a batch: our engine, or Opacus' hooks, to the same sum.

Nothing of either stays on the model, and nothing raises for what records hold.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fedlearn.training.dp import ClippedGradients
from fedlearn.training.dp.clipping import Clipping, clipping_of
from fedlearn.training.dp.contribution import instantiated
from fedlearn.training.dp.engine import clipped_sum
from fedlearn.training.opacus_parts import GradSampleModule
from fedlearn.training.parts import BatchPart
from fedlearn.training.settings import Engine, Training

log = logging.getLogger(__name__)

Losses = Callable[[], Tensor]
"""Runs the model and returns one loss per record."""


Sums = Mapping[str, Tensor]
"""By the name of a parameter, a sum of clipped gradients."""


Clip = Callable[[BatchPart], Sums]
"""The sum of the clipped gradients of the records of a part."""


def added(part: BatchPart, clip: Clip) -> Iterator[Sums]:
    """What a part adds: as one, or where it fails record by record.

    A part may fail by one record, and without the others would be told by it.
    """
    whole = _tried(clip, part, "a part of a batch failed: its records are taken one by one")
    if whole is not None:
        yield whole
        return
    for one in part.single():
        sums = _tried(clip, one, "a record could not be trained on: it adds nothing")
        if sums is not None:
            yield sums


def _tried(clip: Clip, part: BatchPart, failure: str) -> Sums | None:
    try:
        return clip(part)
    except Exception:
        log.exception(failure)  # what it says stays at the site
        return None


@contextmanager
def clipping_by(model: nn.Module, config: Training, clip_norm: float) -> Iterator[Clip]:
    """The engine that the config names; nothing of it stays on the model."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        match config.dp_engine:
            case "fast":
                # One forward and one backward pass per part (`fedlearn.training.dp`).
                engine = ClippedGradients(model, clip_norm=clip_norm, trial=False)
                yield lambda part: engine.step(part.losses, first=part.count).sums
            case "opacus":
                bound = clipping_of(clip_norm, list(parameters))
                with _hooks(model):
                    yield partial(_by_hooks, model, parameters, bound)
    finally:
        _forget_marks(model)


@contextmanager
def rows_by(engine: Engine, model: nn.Module) -> Iterator[Callable[[Losses], tuple[Tensor, ...]]]:
    """What an engine makes of the records of a part before it adds them up: `[rows, ...]` each."""
    if engine == "fast":
        yield ClippedGradients(model, clip_norm=1.0, trial=False).rows
        return
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with _hooks(model):
        yield lambda losses: tuple(_samples(model, parameters, losses).values())


@contextmanager
def _hooks(model: nn.Module) -> Iterator[None]:
    """Opacus' hooks, on the model while this lasts."""
    wrapped = GradSampleModule(model, strict=True)
    try:
        yield
    finally:
        wrapped.remove_hooks()
        _forget_marks(model)


def _samples(
    model: nn.Module, parameters: Mapping[str, Tensor], losses: Losses
) -> dict[str, Tensor]:
    """Losses under the name "", and the gradient of every record by parameter: `[rows, ...]`."""
    try:
        # The mean over the part; Opacus multiplies it out again per record.
        of_part = losses()
        with _hooks_firing():
            of_part.mean().backward()  # type: ignore[no-untyped-call]
        found = {name: p.grad_sample for name, p in parameters.items()}  # type: ignore[attr-defined]
        # A layer that this part does not reach has none.
        return {"": of_part.detach(), **{n: g for n, g in found.items() if g is not None}}
    finally:
        _forget_pass(model)


def _by_hooks(
    model: nn.Module, parameters: Mapping[str, Tensor], clipping: Clipping, part: BatchPart
) -> Sums:
    """Opacus' hooks compute the gradients of all records at once; they are clipped as ours are."""
    samples = _samples(model, parameters, part.losses)
    with torch.no_grad():
        losses = samples.pop("")
        found = {name: instantiated(name, gradients) for name, gradients in samples.items()}
        return clipped_sum(parameters, clipping, found, losses, part.count).sums


@contextmanager
def _hooks_firing() -> Iterator[None]:
    """Opacus hooks the first layer too, whose input has no gradient; the hook needs none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        yield


def _forget_marks(model: nn.Module) -> None:
    """Drop all that Opacus and a step hang on parameters."""
    _forget_pass(model)
    for parameter in model.parameters():
        for name in ("summed_grad", "grad_sample", "_forward_counter"):
            if hasattr(parameter, name):
                delattr(parameter, name)


def _forget_pass(model: nn.Module) -> None:
    """Drop what Opacus hangs on a model in a pass, whole or broken off."""
    for module in model.modules():
        for name in ("activations", "max_batch_len"):
            vars(module).pop(name, None)
    for parameter in model.parameters():
        if hasattr(parameter, "_current_grad_sample"):
            del parameter._current_grad_sample
        if getattr(parameter, "_forward_counter", 0):
            parameter._forward_counter = 0  # type: ignore[attr-defined]
        if hasattr(parameter, "grad_sample"):
            parameter.grad_sample = None
        parameter.grad = None
