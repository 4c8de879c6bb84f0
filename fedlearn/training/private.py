"""DP-SGD at one site (Abadi et al. 2016, algorithm 1), on Opacus' optimiser.

A step clips the gradient of every record of a Poisson batch to `clip_norm`, sums, rounds the sum
to a grid, adds Gaussian noise of deviation `noise_multiplier * clip_norm` in whole steps of the
grid (`fedlearn.privacy.rounded`), and divides by a public constant. The batch and the noise come
from one cryptographic source that only this site holds; both are part of the mechanism that the
accountant sees. For the rounding records are clipped to a little less than `clip_norm`.

What a record adds to the sum is its own affair:

- A batch is computed in parts of a few public sizes, the last one filled up. Libraries choose
  how to compute by shapes and never by values, so that who else is there changes no bit of a
  record's gradient (`fedlearn.training.trials` looks whether rows are alike on this machine,
  in parts of one size and of all; where not, one size is used, or records go one by one).
  Without that, weights that a coordinator plants turn the other order of a float32 sum into
  another gradient for everybody.
- A record whose gradient is not finite adds nothing.
- A part that fails is made again record by record, and a record that fails adds nothing.
- Nothing raises for what records hold: what happened stands in the log of the site.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedlearn.core.vector import layout_of
from fedlearn.models.slots import canary_losses, is_slot, no_canaries
from fedlearn.privacy.noise import NoiseSource
from fedlearn.privacy.rounded import Grid, grid_for, rounded_normals
from fedlearn.stages import ClippedSteps
from fedlearn.tasks import Loss
from fedlearn.training.augmentation import views
from fedlearn.training.device import CPU, fetch, home, send
from fedlearn.training.dp import ClippedGradients
from fedlearn.training.dp.clipping import Clipping, clipping_of
from fedlearn.training.dp.contribution import instantiated
from fedlearn.training.dp.engine import clipped_sum
from fedlearn.training.local import forward
from fedlearn.training.optimizers import make_optimizer
from fedlearn.training.settings import Engine, Precision, Training

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


Losses = Callable[[], Tensor]
"""Runs the model and returns one loss per record."""

Sums = Mapping[str, Tensor]
"""By the name of a parameter, a sum of clipped gradients."""

_STEEPNESS = 10.0
"""Gradient of a canary over the clip norm: a clip that is missing shows in an audit."""

ROWS: Final = 32
"""Parts have this many rows, or twice as many, or four times, where a machine holds them: rows of
such parts are alike, bit for bit, on every machine that was tried."""

_MOST_ROWS: Final = 512
"""Of a part on the CPU, which gains nothing from more; they are all tried once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchPart:
    """Records that go through the model together: up to `rows`, and filled up to as many.

    `inputs`: tensors with the record first; `run` makes losses of them.
    """

    inputs: tuple[Tensor, ...]
    run: Callable[..., Tensor]
    rows: int

    @property
    def count(self) -> int:
        """How many records there are; their rows are the first."""
        return len(self.inputs[0])

    def losses(self) -> Tensor:
        """`float32[rows]`: those of the records, and of the first one again in rows to spare."""
        losses: Tensor = self.run(*(_filled(values, self.rows) for values in self.inputs))
        return losses

    def single(self) -> Iterator[BatchPart]:
        """Its records one by one, each in the first row."""
        for i in range(self.count):
            yield replace(self, inputs=tuple(values[i : i + 1] for values in self.inputs))


def _filled(values: Tensor, rows: int) -> Tensor:
    spare = rows - len(values)
    return torch.cat([values, values[:1].expand(spare, *values.shape[1:])]) if spare else values


def sizes_of(config: Training, device: torch.device = CPU) -> tuple[int, ...]:
    """How many rows parts may have: from public constants alone, never from the records at hand.

    From `ROWS` up by twos until most batches fit, as far as `max_batch` and views allow.
    """
    expected = config.sample_rate * config.nominal_records
    most = max(1, config.max_batch // max(1, config.augmentations))
    if device == CPU:
        most = min(most, _MOST_ROWS)
    if most < ROWS:
        return (most,)
    sizes = [ROWS]
    while sizes[-1] < 1.5 * expected and 2 * sizes[-1] <= most:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def split(count: int, sizes: Sequence[int]) -> list[int]:
    """The sizes of the parts that `count` records go through: few rows to spare, and few parts."""
    whole, rest = divmod(count, sizes[-1])
    return [sizes[-1]] * whole + _rest(rest, sizes)


def _rest(count: int, sizes: Sequence[int]) -> list[int]:
    if not count:
        return []
    ways = [[size] for size in sizes if size >= count][:1]
    if smaller := [size for size in sizes if size < count]:
        ways.append([smaller[-1], *_rest(count - smaller[-1], sizes)])
    # A part costs about as much as so many rows, however few it has.
    return min(ways, key=lambda way: sum(way) + ROWS * len(way))


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
) -> None:
    """Make `config.local_steps` private steps on `model` in place.

    Returns nothing: a training loss is a function of the records that no noise
    covers. Every step runs and adds its noise, an empty batch included.
    `loss` is that of the task. `correct` may add
    to the gradient of every step, once it is clipped and noised. `canaries`,
    `int64[k]`, are audit slots: records like the others, sampled and clipped with
    them, whose gradient lies on coordinates of their own. The sum of a step is scaled down to
    `step_norm`, where there is one, before its noise.

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
        _clipping(model, config, grid.inner_norm if grid else plan.clip_norm) as clip,
        _own_coins(model),
    ):
        for _ in range(config.local_steps):
            optimizer.zero_grad(set_to_none=True)
            for part in _batch(model, features, labels, config, plan, noise, loss, canaries):
                for sums in _added(part, clip):
                    _add(parameters, sums)
            optimizer.release()
    _put_back(model, still)


def grid_of(model: nn.Module, plan: ClippedSteps) -> Grid | None:
    """The grid of a step's sum; None where there is no noise to hide its gaps behind.

    The same with slots and without, so that an audit moves no bit of the model.
    """
    if not plan.noise_multiplier:
        return None
    of_model = of_slots = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_slot(name):
            of_slots += parameter.numel()
        else:
            of_model += parameter.numel()
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
    moved = [n for n, b in before.items() if n not in there or not _same(b, there[n])]
    for name in moved:
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner)._buffers[own] = before[name]
    if moved:
        log.warning("training changed %s, which no clip covers: put back", ", ".join(moved))


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

    Guarantees:
        bounded: adding or removing a record moves the sum by at most `plan.clip_norm`, whatever
            the weights of the model, the record and the others are, and replacing one by at
            most twice that. Exactly so but for rounding in float64: below 1e-4 of the norm for
            100,000 records of 128 positions. The random views of the other records are taken
            to be the same: they are secret and independent of who else is there.
        finite: a record without a finite gradient adds nothing.
        silent: nothing is raised for what records hold.
    """
    model.train()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    # Where the model is: to bring every part back would mean to wait for each.
    total = torch.zeros(layout_of(model).size, dtype=torch.float64, device=home(model))
    fast = replace(config, dp_engine="fast")
    with _clipping(model, fast, plan.clip_norm) as clip, _own_coins(model):
        for part in _batch(model, features, labels, config, plan, noise, loss, canaries):
            for sums in _added(part, clip):
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
) -> Iterator[BatchPart]:
    """One Poisson batch in parts: of records, and of canaries, drawn by the same coins."""
    canaries = no_canaries() if canaries is None else canaries
    records, slope = len(labels), _STEEPNESS * plan.clip_norm
    batch = poisson_batch(records + len(canaries), plan.sample_rate, noise)
    rng = _secret_coins(noise)
    _seed_torch(rng, model)
    device, sizes = home(model), _sizes(model, config)
    run = partial(losses_of, model, config.precision, loss)
    for rows, some in _dealt(batch[batch < records], sizes):
        seen = views(fetch(features, some, device), config, rng)
        yield BatchPart(inputs=(fetch(labels, some, device), *seen), run=run, rows=rows)
    probed = partial(canary_losses, model, slope=slope)
    for rows, some in _dealt(batch[batch >= records] - records, sizes):
        yield BatchPart(inputs=(send(canaries[some], device),), run=probed, rows=rows)


def _dealt(batch: NDArray[np.int64], sizes: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """The rows of every part, and which records are in it."""
    start = 0
    for rows in split(len(batch), sizes):
        yield rows, torch.from_numpy(batch[start : start + rows])
        start += rows


def losses_of(
    model: nn.Module, precision: Precision, loss: Loss, labels: Tensor, *seen: Tensor
) -> Tensor:
    """The loss of every record, the mean over its views.

    A layer is called once for each view; the engine adds up what a record owes to all of them.
    """
    return torch.stack([loss(forward(model, view, precision), labels) for view in seen]).mean(0)


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


Clip = Callable[[BatchPart], Sums]
"""The sum of the clipped gradients of the records of a part."""

_alike: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], tuple[int, ...]]] = WeakKeyDictionary()
"""What a trial has found of a model's sizes: those among which rows are alike; maybe none."""


def note_alike(model: nn.Module, sizes: tuple[int, ...], found: tuple[int, ...]) -> None:
    """Have `model` computed in parts of the sizes that were `found` alike; if none, one by one."""
    _alike.setdefault(model, {})[sizes] = found


def _sizes(model: nn.Module, config: Training) -> tuple[int, ...]:
    wanted = sizes_of(config, home(model))
    return _alike.get(model, {}).get(wanted, wanted) or (_ALONE,)


_ALONE: Final = 1
"""A part of one row: who else is there cannot matter."""


def _added(part: BatchPart, clip: Clip) -> Iterator[Sums]:
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
def _clipping(model: nn.Module, config: Training, clip_norm: float) -> Iterator[Clip]:
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
            case "ghost":
                hooked = GradSampleModuleFastGradientClipping(
                    model, strict=True, loss_reduction="sum", max_grad_norm=clip_norm
                )
                try:
                    yield partial(_by_ghost, hooked, model, parameters)
                finally:
                    hooked.remove_hooks()
    finally:
        _forget_marks(model)


@contextmanager
def rows_by(engine: Engine, model: nn.Module) -> Iterator[Callable[[Losses], tuple[Tensor, ...]]]:
    """What an engine makes of the records of a part before it adds them up: `[rows, ...]` each.

    Of Opacus' two ways those of its hooks, from which the norms of both are.
    """
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


def _by_ghost(
    hooked: GradSampleModuleFastGradientClipping,
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    part: BatchPart,
) -> Sums:
    """Opacus' ghost clipping: norms from one backward pass, the sum from a second (Li et al. 2022).

    For tests and benchmarks: where terms of its norms cancel in float32 they fall short.

    Raises:
        ArithmeticError: a gradient is not finite, which spoils the sum.
        NotImplementedError, RuntimeError: Opacus 1.6 cannot do it for this model, as where a
            parameter is used twice, or the gradient at a linear layer is a transposed view.
    """
    values = list(parameters.values())
    try:
        with _hooks_firing():
            of_part = part.losses()
            for parameter in values:  # one that this part does not reach keeps this norm
                parameter._norm_sample = of_part.new_zeros(len(of_part))  # type: ignore[attr-defined]
            of_part.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            factors = hooked.get_clipping_coef().detach()[: part.count]
            hooked.disable_hooks()
            counted = (factors * of_part[: part.count]).sum()
            sums = torch.autograd.grad(counted, values, allow_unused=True)
    finally:
        hooked.enable_hooks()
        _forget_pass(model)
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(values, sums, strict=True)]
    if not all(bool(g.isfinite().all()) for g in found):
        raise ArithmeticError("the gradient of a record is not finite")
    return dict(zip(parameters, found, strict=True))


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
        for name in ("summed_grad", "grad_sample", "_forward_counter", "_norm_sample"):
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
