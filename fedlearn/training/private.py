"""DP-SGD at one site (Abadi et al. 2016, algorithm 1), on Opacus' clipping.

A step clips the gradient of every record of a Poisson batch to `clip_norm`,
sums, adds Gaussian noise of deviation `noise_multiplier * clip_norm` to the
sum, and divides by a public constant. The batch and the noise come from one
cryptographic source that only this site holds; both are part of the mechanism
that the accountant sees.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.privacy.noise import NoiseSource
from fedlearn.privacy.plan import DistributedPlan, RecordPlan
from fedlearn.training.local import add_proximal, make_optimizer, pieces, snapshot
from fedlearn.training.settings import Training
from fedlearn.vector import layout_of


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
        for parameter in self.params:
            grad = parameter.summed_grad
            if stddev:
                drawn = torch.from_numpy(self.noise.normal(grad.numel(), stddev))
                grad = grad + drawn.view_as(grad).to(grad.device)
            parameter.grad = grad.view_as(parameter)


def train_private(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    config: Training,
    plan: RecordPlan,
    *,
    proximal_mu: float,
    noise: NoiseSource,
) -> None:
    """Make `config.local_steps` private steps on `model` in place.

    Returns nothing: a training loss is a function of the records that no noise
    covers. Every step runs and adds its noise, an empty batch included.
    """
    model.train()
    wrapped = GradSampleModule(model, strict=True)
    optimizer = PrivateOptimizer(
        make_optimizer(model, config),
        noise=noise,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip_norm,
        expected_batch_size=config.sample_rate * config.nominal_records,
    )
    anchor = snapshot(model) if proximal_mu else {}
    optimizer.attach_step_hook(lambda _: add_proximal(model, anchor, proximal_mu))
    for _ in range(config.local_steps):
        batch = poisson_batch(len(labels), config.sample_rate, noise)
        _step(wrapped, optimizer, features, labels, pieces(batch, config.max_batch))
    wrapped.remove_hooks()
    _forget_samples(model)


def clipped_gradient_sum(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    config: Training,
    plan: DistributedPlan,
    *,
    noise: NoiseSource,
) -> NDArray[np.float64]:
    """The sum of the clipped gradients of one Poisson batch, without noise: `float64[d]`.

    In the order of the model's vector (`fedlearn.vector`); zero for buffers and for an
    empty batch. The model stays as it is. `noise` chooses the batch only: the sum
    must not leave the site before `fedlearn.privacy.encoding` has added its share.

    Guarantees: adding or removing a record moves the sum by at most `plan.clip_norm`,
    save for rounding of float64.
    """
    model.train()
    wrapped = GradSampleModule(model, strict=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters))
    batch = poisson_batch(len(labels), plan.sample_rate, noise)
    for rows in pieces(batch, config.max_batch):
        wrapped.zero_grad(set_to_none=True)
        # The mean over the part; Opacus multiplies it out again per record.
        _backward(functional.cross_entropy(wrapped(features[rows]), labels[rows]))
        total += _clipped_sum(parameters, plan.clip_norm)
    wrapped.remove_hooks()
    _forget_samples(model)
    return np.concatenate([total, np.zeros(layout_of(model).size - total.size)])


def _clipped_sum(parameters: list[nn.Parameter], clip_norm: float) -> NDArray[np.float64]:
    """Clipped and summed in float64: rounding of float32 could exceed the norm."""
    # Opacus hangs the gradient of every record on its parameter.
    parts: list[Tensor] = [vars(p)["grad_sample"] for p in parameters]
    samples = torch.cat([part.double().flatten(1) for part in parts], 1)
    norms = samples.norm(dim=1).clamp(min=1e-300)
    return np.asarray(((clip_norm / norms).clamp(max=1.0) @ samples).numpy())


def poisson_batch(n: int, rate: float, noise: NoiseSource) -> NDArray[np.int64]:
    """Indices of the records of a batch: each enters by its own secret coin, with chance `rate`."""
    if rate == 1.0:
        return np.arange(n)
    return np.flatnonzero(noise.bernoulli(n, rate))


def _step(
    wrapped: GradSampleModule,
    optimizer: PrivateOptimizer,
    features: Tensor,
    labels: Tensor,
    parts: list[Tensor],
) -> None:
    optimizer.zero_grad(set_to_none=True)
    if not parts:
        for parameter in optimizer.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimizer.step()
        return
    for rows in parts:
        optimizer.signal_skip_step(do_skip=rows is not parts[-1])
        # The mean over the part; Opacus multiplies it out again per record.
        loss = functional.cross_entropy(wrapped(features[rows]), labels[rows])
        _backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _backward(loss: Tensor) -> None:
    with warnings.catch_warnings():
        # Opacus hooks the first layer too, whose input has no gradient; the hook needs none.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        loss.backward()  # type: ignore[no-untyped-call]


def _forget_samples(model: nn.Module) -> None:
    """Drop what Opacus hangs on a model: nothing per record must outlive the step."""
    for module in model.modules():
        for name in ("activations", "max_batch_len"):
            vars(module).pop(name, None)
    for parameter in model.parameters():
        for name in ("grad_sample", "summed_grad", "_forward_counter"):
            if hasattr(parameter, name):
                delattr(parameter, name)
        parameter.grad = None
