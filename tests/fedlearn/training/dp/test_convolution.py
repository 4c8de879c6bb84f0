"""Convolutions of any shape, by each of the ways that their per-sample gradients are computed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.training.dp import ClippedGradients, convolution
from fedlearn.training.dp.layer import Call
from tests.effort import every, examples
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import Twice, losses_of

WAYS = {
    "ghost": {"_KEEP": 0.0},
    "grouped": {"_KEEP": math.inf, "_FEW_CHANNELS": 0},
    "unfolded": {"_KEEP": math.inf, "_FEW_CHANNELS": 1000},
}
"""What makes a rule take one of them, wherever it fits at all."""


def _drawn(seed: int) -> tuple[nn.Module, Tensor]:
    """A convolution of random kernel, stride, padding, dilation and groups, and five samples."""
    coins = torch.Generator().manual_seed(seed)

    def one(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=coins))

    axes, groups = one(1, 2), one(1, 3)
    inside, outside = groups * one(1, 3), groups * one(1, 3)
    # One of four has single pixels for patches, which need not be written out.
    kernel = tuple(one(1, 3) if seed % 4 else 1 for _ in range(axes))
    dilation = tuple(one(1, 2) for _ in range(axes))
    stride = tuple(one(1, 3) for _ in range(axes))
    padding = tuple(one(0, 2) if seed % 8 else 0 for _ in range(axes))
    sides = [one(d * (k - 1) + 1, 8) for k, d in zip(kernel, dilation, strict=True)]
    kind = (nn.Conv1d, nn.Conv2d)[axes - 1]
    model = kind(inside, outside, kernel, stride, padding, dilation, groups, bias=bool(seed % 2))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=coins))
    return model.double(), torch.randn(5, inside, *sides, generator=coins).double()


def _exact(model: nn.Module, x: Tensor) -> None:
    truth = oracle.gradients(model, losses_of, x)
    norms = [oracle.norm(one) for one in truth]
    bound = sorted(norms)[len(norms) // 2] or 1.0  # of pixels that all are padding
    found = ClippedGradients(model, clip_norm=bound, trial=False).step(lambda: losses_of(model(x)))
    assert oracle.difference(found.sums, oracle.clipped_sum(truth, bound)) < 1e-12
    assert found.norms.tolist() == pytest.approx(norms, rel=1e-9)


def _called(seed: int) -> tuple[convolution._Shape, Tensor, Tensor, Tensor]:
    """What a rule sees of such a call, with any gradient; and the truth by sample, flat."""
    model, x = _drawn(seed)
    out = model(x)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).double()
    truth = [
        torch.autograd.grad(model(x[i : i + 1]), model.weight, g[i : i + 1])[0].flatten()
        for i in range(len(x))
    ]
    return *convolution._in_two_dimensions(model, Call(inputs=(x,), gradient=g)), torch.stack(truth)


def _gap(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm().clamp_min(1))


def test_every_way__of_two_hundred_convolutions_is_autograds_by_sample() -> None:
    """Also where the rule would take another one."""
    ghosts = 0
    for seed in range(0, 200, every(3)):
        shape, x, g, truth = _called(seed)
        assert _gap(convolution._grouped(shape, x, g).flatten(1), truth) < 1e-12, seed
        assert _gap(convolution.per_sample(shape, x, g).flatten(1), truth) < 1e-12, seed
        if shape.groups > 1:
            continue
        ghosts += 1
        assert _gap(convolution._unfolded(shape, x, g).flatten(1), truth) < 1e-12, seed
        patches = functional.unfold(x, shape.kernel, shape.dilation, shape.padding, shape.stride)
        gram = convolution._patch_gram(shape, x, g.shape[2:])
        assert _gap(gram, patches.transpose(1, 2) @ patches) < 1e-12, seed
        one, factors = convolution._ghost("weight", shape, x, g), torch.linspace(0, 1, len(x))
        assert _gap(one.squared_norms, truth.square().sum(1)) < 1e-9, seed
        total = one.weighted_sum(factors.double(), None)
        assert _gap(total.flatten(), factors.double() @ truth) < 1e-12, seed
    assert ghosts > 50 / every(3)


class TwoTimes(nn.Module):
    """Calls one module on two inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x) + self.inner(torch.sin(3 * x))
        return y


@pytest.mark.parametrize("seed", range(examples(60)))
@pytest.mark.parametrize("way", WAYS)
def test_convolution__of_any_shape_by_any_way_is_that_of_single_samples(
    monkeypatch: pytest.MonkeyPatch, way: str, seed: int
) -> None:
    """Two samples at once, so that a batch is several of them and a rest."""
    monkeypatch.setattr(convolution, "_CHUNK", 2)
    for name, value in WAYS[way].items():
        monkeypatch.setattr(convolution, name, value)
    _exact(*_drawn(seed))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("uses", [TwoTimes, Twice])
def test_convolution__that_is_used_two_or_three_times(
    monkeypatch: pytest.MonkeyPatch, way: str, groups: int, uses: type[nn.Module]
) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setattr(convolution, name, value)
    inner = nn.Conv2d(4, 4, 3, padding=1, groups=groups)
    drawn = torch.Generator().manual_seed(groups)
    _exact(uses(inner).double(), torch.randn(5, 4, 3, 4, generator=drawn).double())
