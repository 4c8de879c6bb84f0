"""DP-SGD at one site (Abadi et al. 2016, algorithm 1), on Opacus' optimiser.

A step clips the gradient of every record of a Poisson batch to `clip_norm`,
sums, adds Gaussian noise of deviation `noise_multiplier * clip_norm` to the
sum, and divides by a public constant. The batch and the noise come from one
cryptographic source that only this site holds; both are part of the mechanism
that the accountant sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import layout_of
from fedlearn.models.slots import canary_losses, no_canaries
from fedlearn.privacy.noise import NoiseSource, normals
from fedlearn.stages import ClippedSteps
from fedlearn.tasks import Loss
from fedlearn.training.augmentation import views
from fedlearn.training.device import fetch, home, send
from fedlearn.training.dp import ClippedGradients
from fedlearn.training.local import forward, pieces
from fedlearn.training.optimizers import make_optimizer
from fedlearn.training.settings import Precision, Training


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with noise from our source.

    It is a subclass because that is Opacus' seam for noise: its own generator
    is either torch's, which is not cryptographic, or torchcsprng's, which has
    no release for current Python.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, noise: NoiseSource, **plan: float):
        super().__init__(optimizer, loss_reduction="mean", **plan)
        self.noise = noise

    def add_noise(self) -> None:
        """`p.grad = p.summed_grad + N(0, (noise_multiplier * max_grad_norm)^2)`."""
        stddev = self.noise_multiplier * self.max_grad_norm
        sums = [parameter.summed_grad for parameter in self.params]
        if stddev:
            # On a GPU the CPU draws while the device still computes the sums.
            sizes = [total.numel() for total in sums]
            drawn = normals(self.noise, sizes, stddev, sums[0].device)
            sums = [total + part.view_as(total) for total, part in zip(sums, drawn, strict=True)]
        for parameter, total in zip(self.params, sums, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype)

    def release(self) -> None:
        """Noise on the clipped sum, over the public constant, then the wrapped optimiser's step.

        Opacus' own `step` would do the same, but reads per-record gradients,
        which the fast engine never makes.
        """
        for parameter in self.params:
            if parameter.summed_grad is None:  # an empty batch
                parameter.summed_grad = torch.zeros_like(parameter)
        self.add_noise()
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
            parameter.summed_grad = None  # without noise, and the hook needs nothing of it
        if self.step_hook:
            self.step_hook(self)
        self.original_optimizer.step()


Losses = Callable[[], Tensor]
"""Runs the model and returns one loss per record."""

Accumulate = Callable[[Losses], object]
"""Adds the clipped gradients of some records to `summed_grad`."""

_GHOST_FAILS = (
    "training.dp_engine=ghost: Opacus' ghost clipping fails on this model; choose "
    "training.dp_engine=fast"
)

_STEEPNESS = 10.0
"""Gradient of a canary over the clip norm: a clip that is missing shows in an audit."""


def train_private(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    config: Training,
    plan: ClippedSteps,
    *,
    loss: Loss,
    noise: NoiseSource,
    correct: Callable[[nn.Module], None] | None = None,
    canaries: Tensor | None = None,
) -> None:
    """Make `config.local_steps` private steps on `model` in place.

    Returns nothing: a training loss is a function of the records that no noise
    covers. Every step runs and adds its noise, an empty batch included.
    `loss` is that of the task. `correct` may add
    to the gradient of every step, once it is clipped and noised. `canaries`,
    `int64[k]`, are audit slots: records like the others, sampled and clipped with
    them, whose gradient lies on coordinates of their own.
    """
    model.train()
    still = {n: b.clone() for n, b in model.named_buffers() if b.dtype.is_floating_point}
    optimizer = PrivateOptimizer(
        make_optimizer(model, config),
        noise=noise,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip_norm,
        expected_batch_size=config.sample_rate * config.nominal_records,
    )
    if correct is not None:
        optimizer.attach_step_hook(lambda _: correct(model))
    with _clipping(model, config, optimizer) as accumulate:
        for _ in range(config.local_steps):
            optimizer.zero_grad(set_to_none=True)
            for losses in _batch(model, features, labels, config, plan, noise, loss, canaries):
                accumulate(losses)
            optimizer.release()
    _check_still(model, still)


def _check_still(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Refuse a model whose buffers have moved: they travel, and no clip or noise has covered them.

    Raises:
        ConfigError: with their names.
    """
    there = dict(model.named_buffers())
    moved = [n for n, b in before.items() if n not in there or not _same(b, there[n])]
    if moved:
        raise ConfigError(
            [
                f"model: training changed {', '.join(moved)}, which no clip covers; keep what is "
                "no parameter constant while training"
            ]
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, NaN like NaN."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def clipped_gradient_sum(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    config: Training,
    plan: ClippedSteps,
    *,
    loss: Loss,
    noise: NoiseSource,
    canaries: Tensor | None = None,
) -> NDArray[np.float64]:
    """The sum of the clipped gradients of one Poisson batch, without noise: `float64[d]`.

    In the order of the model's vector (`fedlearn.core.vector`); zero for buffers and for an
    empty batch. The model stays as it is. `loss` and `canaries` are as in
    `train_private`. `noise` chooses the batch only: the sum
    must not leave the site before `fedlearn.mechanisms.encoding` has added its share.

    Guarantees: adding or removing a record moves the sum by at most `plan.clip_norm`,
    to the rounding of float32, the random views of the other records being the same
    (they are secret and independent of who else is there, so the promise holds without
    that); a record without a finite gradient adds nothing.
    """
    model.train()
    engine = ClippedGradients(model, clip_norm=plan.clip_norm)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    # Where the model is: to bring every part back would mean to wait for each.
    total = torch.zeros(layout_of(model).size, dtype=torch.float64, device=home(model))
    for losses in _batch(model, features, labels, config, plan, noise, loss, canaries):
        sums = engine.step(losses).sums
        flat = torch.cat([sums[name].detach().double().reshape(-1) for name in names])
        total[: flat.numel()] += flat
    return total.cpu().numpy()


def _batch(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    config: Training,
    plan: ClippedSteps,
    noise: NoiseSource,
    loss: Loss,
    canaries: Tensor | None,
) -> Iterator[Losses]:
    """One Poisson batch in parts: of records, and of canaries, drawn by the same coins."""
    canaries = no_canaries() if canaries is None else canaries
    records, slope = len(labels), _STEEPNESS * plan.clip_norm
    batch = poisson_batch(records + len(canaries), plan.sample_rate, noise)
    rng = _secret_coins(noise)
    device = home(model)
    at_a_time = max(1, config.max_batch // max(1, config.augmentations))
    for rows in pieces(batch[batch < records], at_a_time):
        seen = views(fetch(features, rows, device), config, rng)
        yield _losses(model, seen, fetch(labels, rows, device), config.precision, loss)
    for rows in pieces(batch[batch >= records] - records, config.max_batch):
        yield partial(canary_losses, model, send(canaries[rows], device), slope)


def _losses(
    model: nn.Module,
    seen: Sequence[Tensor],
    labels: Tensor,
    precision: Precision,
    loss: Loss,
) -> Losses:
    """The loss of every record of a part, the mean over its views."""

    def loss_of(view: Tensor) -> Tensor:
        outputs = forward(model, view, precision)
        check_loss(model, loss, outputs, labels)
        return loss(outputs, labels)

    # A layer is called once for each view; the engine adds up what a record owes to all of them.
    return lambda: torch.stack([loss_of(view) for view in seen]).mean(0)


_SINGLE: WeakKeyDictionary[nn.Module, Loss] = WeakKeyDictionary()
"""Models with the loss that was found to be one per record: each look waits for the device."""


def check_loss(model: nn.Module, loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a loss that is not one per record: what is clipped would not be one record's.

    Looks at the first of the records that a model meets together, once per loss and process.

    Raises:
        ConfigError: it has another shape, or one record's loss depends on another's outputs.
    """
    if len(outputs) < 2 or _SINGLE.get(model) == loss:
        return
    seen = outputs.detach().requires_grad_()
    with torch.enable_grad():
        losses, alone = loss(seen, targets), loss(seen[:1], targets[:1])
        if losses.shape == (len(seen),) and alone.shape == (1,):
            (slope,) = torch.autograd.grad(losses[0], seen)
            (own,) = torch.autograd.grad(alone[0], seen)
            # What depends on the others' targets, or on how many there are, has no slope there.
            if torch.allclose(slope, own, rtol=1e-3, atol=1e-6, equal_nan=True):
                if slope.isfinite().all():  # else it has shown nothing: the next batch is tried
                    _SINGLE[model] = loss
                return
    raise ConfigError(
        [
            "task: its loss mixes the records of a batch, and privacy is promised to single ones; "
            "return one loss per record, from that record's outputs alone"
        ]
    )


def _secret_coins(noise: NoiseSource) -> np.random.Generator:
    """A generator for the views of one step, from 256 secret bits.

    A record takes its views by its place in the batch, so one record more gives all
    that follow other views. Whoever knew the coins would see that many gradients
    change; to those who do not, each record has views of its own, whoever else is there.
    """
    return np.random.default_rng([int(word) for word in noise.stream().words(4)])


def poisson_batch(n: int, rate: float, noise: NoiseSource) -> NDArray[np.int64]:
    """Indices of the records of a batch: each enters by its own secret coin, with chance `rate`."""
    if rate == 1.0:
        return np.arange(n)
    return np.flatnonzero(noise.bernoulli(n, rate))


@contextmanager
def _clipping(
    model: nn.Module, config: Training, optimizer: PrivateOptimizer
) -> Iterator[Accumulate]:
    """The engine that the config names; nothing of it stays on the model."""
    try:
        match config.dp_engine:
            case "fast":
                # One forward and one backward pass per part (`fedlearn.training.dp`).
                engine = ClippedGradients(model, clip_norm=optimizer.max_grad_norm)
                yield engine.accumulate
            case "opacus":
                wrapped = GradSampleModule(model, strict=True)
                try:
                    yield partial(_by_hooks, optimizer)
                finally:
                    wrapped.remove_hooks()
            case "ghost":
                hooked = GradSampleModuleFastGradientClipping(
                    model, strict=True, loss_reduction="sum", max_grad_norm=optimizer.max_grad_norm
                )
                try:
                    yield partial(_by_ghost, hooked, optimizer)
                finally:
                    hooked.remove_hooks()
    finally:
        _forget_samples(model)


def _by_hooks(optimizer: PrivateOptimizer, losses: Losses) -> None:
    """Opacus' hooks: the gradients of all records of a part, held at once."""
    # The mean over the part; Opacus multiplies it out again per record.
    of_part = losses()
    with _hooks_firing():
        of_part.mean().backward()  # type: ignore[no-untyped-call]
    for parameter in optimizer.params:
        if parameter.grad_sample is None:  # a layer that this part does not reach
            parameter.grad_sample = parameter.new_zeros(()).expand(len(of_part), *parameter.shape)
    optimizer.clip_and_accumulate()
    for parameter in optimizer.params:
        parameter.grad_sample = None


def _by_ghost(
    hooked: GradSampleModuleFastGradientClipping, optimizer: PrivateOptimizer, losses: Losses
) -> None:
    """Opacus' ghost clipping: norms from one backward pass, the sum from a second (Li et al. 2022).

    Raises:
        ConfigError: Opacus 1.6 cannot do it for this model, as where a parameter is used
            twice, or the gradient at a linear layer on sequences is a transposed view.
    """
    inputs = list(optimizer.params)
    with _hooks_firing():
        try:
            of_part = losses()
            for parameter in inputs:  # one that this part does not reach keeps this norm
                parameter._norm_sample = of_part.new_zeros(len(of_part))
            of_part.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            raise  # of which no layer is the reason
        except (NotImplementedError, RuntimeError) as error:
            raise ConfigError([f"{_GHOST_FAILS}: {error}"]) from error
        factors = hooked.get_clipping_coef().detach()
        hooked.disable_hooks()
        sums = torch.autograd.grad((factors * of_part).sum(), inputs, allow_unused=True)
        hooked.enable_hooks()
    for parameter, found in zip(inputs, sums, strict=True):
        before, parameter.grad = parameter.summed_grad, None
        new = torch.zeros_like(parameter) if found is None else found
        parameter.summed_grad = new if before is None else before + new


@contextmanager
def _hooks_firing() -> Iterator[None]:
    """Opacus hooks the first layer too, whose input has no gradient; the hook needs none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        yield


def _forget_samples(model: nn.Module) -> None:
    """Drop what Opacus hangs on a model: nothing per record must outlive the step."""
    for module in model.modules():
        for name in ("activations", "max_batch_len"):
            vars(module).pop(name, None)
    for parameter in model.parameters():
        for name in (
            "grad_sample",
            "summed_grad",
            "_forward_counter",
            "_norm_sample",
            "_current_grad_sample",
        ):
            if hasattr(parameter, name):
                delattr(parameter, name)
        parameter.grad = None
