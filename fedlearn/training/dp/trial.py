"""Tries on a batch whether what the engine takes for granted holds for a model.

That samples are apart, and that a layer computes what its rule says, is written in
the code of a model and shows in no list of its layers: a mean over the batch, a
sorted batch, a replaced `forward`, a hook. So the pass is made once more, twice: as
autograd sees it, and as the engine does, with every other sample's activations
turned upside down. What is counted are the losses of the samples left as they are.
They must not change, no other sample may get a share of their gradient, and theirs
must add up to autograd's.

It sees what this batch shows, from the first layer on: what mixes samples before
the model, or in other batches only, it cannot see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from fedlearn.training.dp.contribution import Contribution
from fedlearn.training.dp.layer import Layer
from fedlearn.training.dp.tape import Tape, left_alone

_CLOSE, _COARSE = 1e-3, 3e-2
"""How far sums may be apart, over the sum of norms: in single precision, and in any lower one."""

_NOTHING = 1e-20
"""Squared norms below it are what a ghost norm adds against underflow."""


def tried(model: nn.Module, layers: Sequence[Layer], per_sample_loss: Callable[[], Tensor]) -> bool:
    """Whether the batch could show anything: not where a gradient is not finite.

    Runs `per_sample_loss` twice more; torch's generators are as before afterwards.

    Raises: ValueError with everything that does not hold, and the way out.
    """
    device = next(model.parameters()).device
    generators = [device] if device.type == "cuda" else []
    buffers = {name: (value, value._version) for name, value in model.named_buffers()}
    with torch.random.fork_rng(generators):
        losses, truth = _plainly(model, per_sample_loss)
    changed = list(_changed(model, buffers))
    with torch.random.fork_rng(generators), Tape(model, layers, disturbing=True) as tape:
        again = per_sample_loss()
        counted = left_alone(len(losses), device)
        found = tape.backward(torch.where(counted, again, 0))
    if not found:
        raise ValueError("the losses come of no layer of this model; run the model that was given")
    with torch.no_grad():
        single = tape.coarsest <= torch.finfo(torch.float32).eps and device.type == "cpu"
        close = _CLOSE if single else _COARSE
        norms = torch.stack([one.squared_norms for one in found.values()]).sum(0)
        values = [losses[counted], norms[counted], *truth.values()]
        if not all(bool(value.isfinite().all()) for value in values):
            return False
        problems = [*changed, *_mixed(losses, again, norms, close)]
        # Where samples are mixed, sums are apart as well, and not for another reason.
        problems = problems or list(_apart(found, truth, norms, close))
    if problems:
        raise ValueError("; ".join(problems))
    return True


def _plainly(
    model: nn.Module, per_sample_loss: Callable[[], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses, and the gradient of those that count, as autograd computes it."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    losses = per_sample_loss()
    counted = torch.where(left_alone(len(losses), losses.device), losses, 0).sum()
    values = torch.autograd.grad(counted, list(parameters.values()), allow_unused=True)
    found = {
        name: value.to_dense() if value.is_sparse else value
        for name, value in zip(parameters, values, strict=True)
        if value is not None
    }
    return losses.detach(), found


def _changed(model: nn.Module, before: Mapping[str, tuple[Tensor, int]]) -> Iterator[str]:
    for name, value in model.named_buffers():
        old, version = before.get(name, (value, value._version))
        if value is not old or value._version != version:
            yield (
                f"{name}: this buffer was changed by the forward pass; what it keeps of a batch "
                "is not clipped, so keep it constant while training"
            )


def _mixed(losses: Tensor, again: Tensor, norms: Tensor, close: float) -> Iterator[str]:
    counted = left_alone(len(losses), losses.device)
    if bool(counted.all()):
        return
    way_out = (
        "take out what mixes the batch (a mean or a norm over it, another order than that of the "
        "losses, a tensor without a sample on its first axis), and draw random numbers from "
        "torch's generators only"
    )
    apart = (again - losses)[counted].abs().max()
    if not apart <= close * losses[counted].abs().max():
        yield f"the loss of a sample changed with other samples: {way_out}"
        return
    others = norms[~counted].nan_to_num(0.0, 0.0).max()
    if others > (close * norms[counted].max().sqrt()).square() + _NOTHING:
        yield f"the gradient of one sample's loss reached other samples: {way_out}"


def _apart(
    found: Mapping[str, Contribution], truth: Mapping[str, Tensor], norms: Tensor, close: float
) -> Iterator[str]:
    counted = left_alone(len(norms), norms.device)
    scale = norms[counted].sqrt().sum()
    # Left out by a factor of zero where that can be: a mask is a copy of all that was kept.
    masked = None if bool(norms.isfinite().all()) else ~counted
    for name in dict.fromkeys([*truth, *found]):
        total = (
            found[name].weighted_sum(counted.to(norms.dtype), masked)
            if name in found
            else torch.zeros_like(truth[name], dtype=torch.float64)
        )
        apart = (total - truth.get(name, torch.zeros_like(total))).norm()
        if apart > close * scale + _NOTHING:
            yield (
                f"{name}: its layer's per-sample gradients do not add up to its gradient; take "
                "away what changes it (a hook on it, a replaced forward pass that holds on to it)"
            )
