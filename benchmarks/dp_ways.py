"""The ways to make one step that `benchmarks/dp_step.py` compares, each as a closure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from dp_models import Case
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.training.dp import ClippedGradients

CLIP_NORM = 1.0
WAYS = ("plain", "fedlearn", "hooks", "ghost")
Step = Callable[[], dict[str, Tensor]]


def _prepared(case: Case, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The same model and batch every time."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(2)
        model = case.build()
    x = case.inputs(batch, generator)
    return model, x, torch.randint(0, case.classes, (batch,), generator=generator)


def step_of(way: str, case: Case, batch: int) -> Step:
    """A closure that runs one step and returns the clipped sums (nothing for plain SGD)."""
    model, x, y = _prepared(case, batch)
    match way:
        case "plain":
            return _plain(model, x, y)
        case "fedlearn":
            return _fedlearn(model, x, y)
        case "hooks":
            return _hooks(model, x, y)
        case "ghost":
            return _ghost(model, x, y)
    raise ValueError(f"way={way}: must be one of {', '.join(WAYS)}")


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    def step() -> dict[str, Tensor]:
        functional.cross_entropy(model(x), y).backward()
        for parameter in model.parameters():
            parameter.grad = None
        return {}

    return step


def _fedlearn(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    engine = ClippedGradients(model, clip_norm=CLIP_NORM)

    def step() -> dict[str, Tensor]:
        losses = engine.step(lambda: functional.cross_entropy(model(x), y, reduction="none"))
        return dict(losses.sums)

    return step


def _register_sample_parameter() -> None:
    from opacus.grad_sample import register_grad_sampler

    from fedlearn.training.dp import SampleParameter

    @register_grad_sampler(SampleParameter)
    def _(layer: nn.Module, _activations: list[Tensor], backprops: Tensor) -> dict[object, Tensor]:
        return {layer.value: backprops}


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _hooks(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    _register_sample_parameter()
    parameters = _trainable(model)
    hooked = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(parameters.values(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=len(x),
    )

    def step() -> dict[str, Tensor]:
        functional.cross_entropy(hooked(x), y, reduction="sum").backward()
        optimizer.clip_and_accumulate()
        sums = {name: p.summed_grad for name, p in parameters.items()}
        optimizer.zero_grad(set_to_none=True)
        return sums

    return step


def _ghost(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    _register_sample_parameter()
    parameters = _trainable(model)
    hooked = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=CLIP_NORM, use_ghost_clipping=True
    )

    def step() -> dict[str, Tensor]:
        losses = functional.cross_entropy(hooked(x), y, reduction="none")
        losses.sum().backward(retain_graph=True)
        factors = hooked.get_clipping_coef()
        for parameter in parameters.values():
            parameter.grad = None
        hooked.disable_hooks()
        (factors * losses).sum().backward()
        hooked.enable_hooks()
        sums = {}
        for name, parameter in parameters.items():
            sums[name] = parameter.grad
            parameter.grad = parameter.grad_sample = None
        return sums

    return step


def truth(case: Case, batch: int) -> dict[str, Tensor]:
    """The clipped sum from the gradients of every sample, their norms added up in float64.

    Opacus adds up norms in float32, where torch loses 1e-5 over a large layer.
    """
    from opacus import GradSampleModule

    _register_sample_parameter()
    model, x, y = _prepared(case, batch)
    parameters = _trainable(model)
    hooked = GradSampleModule(model, loss_reduction="sum")
    functional.cross_entropy(hooked(x), y, reduction="sum").backward()
    samples = {name: p.grad_sample.flatten(1).double() for name, p in parameters.items()}
    norms = torch.stack([one.norm(dim=1) for one in samples.values()]).norm(dim=0)
    factors = (CLIP_NORM / norms).clamp(max=1.0)
    return {name: (factors @ samples[name]).view_as(p) for name, p in parameters.items()}
