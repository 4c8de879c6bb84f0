"""DP-SGD at one site (Abadi et al. 2016, algorithm 1), on Opacus' optimiser.

A step clips the gradient of every record of a Poisson batch to `clip_norm`, sums, rounds the sum
to a grid, adds Gaussian noise of deviation `noise_multiplier * clip_norm` in whole steps of the
grid (`fedlearn.privacy.rounded`), and divides by a public constant. The batch and the noise come
from one cryptographic source that only this site holds; both are part of the mechanism that the
accountant sees. For the rounding records are clipped to a little less than `clip_norm`.

What a record adds to the sum is its own affair:

- A batch is computed in parts of a few public sizes, the last one filled up, so that who else is
  there changes no bit of a record's gradient (`fedlearn.training.parts`). Without that, weights
  that a coordinator plants turn the other order of a float32 sum into another gradient for
  everybody.
- A record whose gradient is not finite adds nothing.
- A part that fails is made again record by record, and a record that fails adds nothing.
- Nothing raises for what records hold: what happened stands in the log of the site.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlearn.core.vector import layout_of
from fedlearn.models.finetune import checkpointed
from fedlearn.models.slots import canary_losses, is_slot, no_canaries
from fedlearn.privacy.noise import NoiseSource
from fedlearn.privacy.rounded import Grid, grid_for, rounded_normals
from fedlearn.stages import ClippedSteps
from fedlearn.tasks import Loss
from fedlearn.training.augmentation import views
from fedlearn.training.device import CPU, fetch, home, send
from fedlearn.training.engines import Sums, added, clipping_by
from fedlearn.training.opacus_parts import DPOptimizer
from fedlearn.training.optimizers import make_optimizer
from fedlearn.training.parts import BatchPart, dealt, losses_of, same_bits, used_sizes
from fedlearn.training.persons import People, alike, canary_depth
from fedlearn.training.settings import Training

log = logging.getLogger(__name__)


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with noise from our source.

    It is a subclass because that is Opacus' seam for noise: its own generator
    is either torch's, which is not cryptographic, or torchcsprng's, which has
    no release for current Python.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise: NoiseSource,
        grid: Grid | None,
        step_norm: float | None = None,
        **plan: float,
    ):
        super().__init__(optimizer, loss_reduction="mean", **plan)
        self.noise, self.grid, self.step_norm = noise, grid, step_norm

    def add_noise(self) -> None:
        """`p.grad = p.summed_grad` on the grid, with its noise; as it is where there is no grid."""
        sums = [parameter.summed_grad for parameter in self.params]
        if self.grid is not None:
            # On a GPU the CPU draws while the device still computes the sums.
            sizes = [total.numel() for total in sums]
            drawn = rounded_normals(self.noise, sizes, self.grid.stddev, sums[0].device)
            sums = [self.grid.noisy(total, part) for total, part in zip(sums, drawn, strict=True)]
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
        self._scale_down()
        self.add_noise()
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
            parameter.summed_grad = None  # without noise, and the hook needs nothing of it
        if self.step_hook:
            self.step_hook(self)
        self.original_optimizer.step()

    def _scale_down(self) -> None:
        """The sums as one vector to `step_norm` at most.

        A projection onto a ball brings no two sums further apart, so that the noise is still for
        what one record may add.
        """
        if self.step_norm is None:
            return
        sums = [parameter.summed_grad for parameter in self.params]
        norm = math.sqrt(sum(float(total.double().square().sum()) for total in sums))
        if norm > self.step_norm:
            for total in sums:
                total.mul_(self.step_norm / norm)


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
    step_norm: float | None = None,
    people: People | None = None,
) -> None:
    """Make `config.local_steps` private steps on `model` in place.

    Returns nothing: a training loss is a function of the records that no noise
    covers. Every step runs and adds its noise, an empty batch included.
    `loss` is that of the task. `correct` may add
    to the gradient of every step, once it is clipped and noised. `canaries`,
    `int64[k]`, are audit slots: records like the others, sampled and clipped with
    them, whose gradient lies on coordinates of their own. The sum of a step is scaled down to
    `step_norm`, where there is one, before its noise. With `people` the sample is a person.

    Guarantees: see `clipped_gradient_sum`, of every step; buffers that training
    has changed are put back, for they travel, and no clip or noise has covered them.
    """
    model.train()
    still = {n: b.clone() for n, b in model.named_buffers() if b.dtype.is_floating_point}
    grid = grid_of(model, plan)
    optimizer = PrivateOptimizer(
        make_optimizer(model, config),
        noise=noise,
        grid=grid,
        step_norm=step_norm,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip_norm,
        expected_batch_size=config.sample_rate * config.nominal_records,
    )
    if correct is not None:
        optimizer.attach_step_hook(lambda _: correct(model))
    parameters = dict(model.named_parameters())
    with (
        clipping_by(model, config, grid.inner_norm if grid else plan.clip_norm) as clip,
        _own_coins(model),
        checkpointed(model, config.checkpointing),
    ):
        for _ in range(config.local_steps):
            optimizer.zero_grad(set_to_none=True)
            for part in _batch(
                model, features, labels, config, plan, noise, loss, canaries, people
            ):
                for sums in added(part, clip):
                    _add(parameters, sums)
            optimizer.release()
    _put_back(model, still)


def grid_of(model: nn.Module, plan: ClippedSteps) -> Grid | None:
    """The grid of a step's sum; None where there is no noise to hide its gaps behind.

    The same with slots and without, so that an audit moves no bit of the model.
    """
    if not plan.noise_multiplier:
        return None
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    of_slots = sum(size for name, size in sizes.items() if is_slot(name))
    of_model = sum(sizes.values()) - of_slots
    return grid_for(plan.noise_multiplier, plan.clip_norm, of_model + max(_SLOTS, of_slots))


_SLOTS: Final = 1 << 16
"""Coordinates that an audit may add without another grid."""


def _add(parameters: Mapping[str, Tensor], sums: Sums) -> None:
    """To `summed_grad`, where Opacus' optimiser looks for it, in float64."""
    for name, value in sums.items():
        before = getattr(parameters[name], "summed_grad", None)
        after = value.double() if before is None else before.add_(value)
        parameters[name].summed_grad = after  # type: ignore[attr-defined]


@torch.no_grad()
def _put_back(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Undo what training has done to buffers; only the log of the site says so."""
    there = dict(model.named_buffers())
    moved = [n for n, b in before.items() if n not in there or not same_bits(b, there[n])]
    for name in moved:
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner)._buffers[own] = before[name]
    if moved:
        log.warning("training changed %s, which no clip covers: put back", ", ".join(moved))


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
    people: People | None = None,
) -> NDArray[np.float64]:
    """The sum of the clipped gradients of one Poisson batch, without noise: `float64[d]`.

    In the order of the model's vector (`fedlearn.core.vector`); zero for buffers and for an
    empty batch. The model stays as it is. `loss`, `canaries` and `people` are
    as in `train_private`. `noise` chooses the batch only: the sum
    must not leave the site before `fedlearn.mechanisms.encoding` has added its share.

    Guarantees:
        bounded: adding or removing a record, or with `people` all records of a person, moves the
            sum by at most `plan.clip_norm`, whatever the weights of the model, the record and the
            others are, and replacing one by at most twice that. Exactly so but for rounding in
            float64: below 1e-4 of the norm for 100,000 records of 128 positions. The random views
            of the other records are taken to be the same: they are secret and independent of who
            else is there.
        finite: a record without a finite gradient adds nothing.
        silent: nothing is raised for what records hold.
    """
    model.train()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    # Where the model is: to bring every part back would mean to wait for each.
    total = torch.zeros(layout_of(model).size, dtype=torch.float64, device=home(model))
    fast = replace(config, dp_engine="fast")
    with (
        clipping_by(model, fast, plan.clip_norm) as clip,
        _own_coins(model),
        checkpointed(model, config.checkpointing),
    ):
        for part in _batch(model, features, labels, config, plan, noise, loss, canaries, people):
            for sums in added(part, clip):
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
    people: People | None,
) -> Iterator[BatchPart]:
    """One Poisson batch in parts: of records, or persons, and of canaries, drawn by one coin."""
    canaries = no_canaries() if canaries is None else canaries
    count, slope = len(labels if people is None else people), _STEEPNESS * plan.clip_norm
    batch = poisson_batch(count + len(canaries), plan.sample_rate, noise)
    rng = _secret_coins(noise)
    _seed_torch(rng, model)
    device, run = home(model), partial(losses_of, model, config.precision, loss)

    def known(some: Tensor) -> tuple[Tensor, ...]:
        return fetch(labels, some, device), *views(fetch(features, some, device), config, rng)

    drawn, others = batch[batch < count], batch[batch >= count] - count
    if people is None:
        for rows, some in dealt(drawn, used_sizes(model, config)):
            yield BatchPart(inputs=known(some), run=run, rows=rows)
    else:
        yield from people.parts(drawn, known, run, partial(used_sizes, model, config), rng)
    probed = partial(canary_losses, model, slope=slope)
    depth = canary_depth(people)
    for rows, some in dealt(others, used_sizes(model, config, depth)):
        part = BatchPart(inputs=(send(canaries[some], device),), run=probed, rows=rows)
        yield alike(part, depth)


def _own_coins(model: nn.Module) -> AbstractContextManager[None]:
    """While this lasts, torch's generators may be seeded; then they are as before."""
    device = home(model)
    return torch.random.fork_rng([] if device == CPU else [device])


def _seed_torch(rng: np.random.Generator, model: nn.Module) -> None:
    """Dropout draws from torch's generators, whose own seed is known to everybody."""
    seed = int(rng.spawn(1)[0].integers(2**63))
    torch.default_generator.manual_seed(seed)
    if home(model) != CPU:
        torch.cuda.manual_seed(seed)


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
