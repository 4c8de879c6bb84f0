"""Bounds for the whole gradient, for each layer, for each parameter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedlearn.core.errors import ConfigError
from fedlearn.training.dp import ClippedGradients
from fedlearn.training.dp.clipping import clipping_of
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import losses_of, small_cnn


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


X = torch.linspace(-3, 3, 24, dtype=torch.float64).view(6, 4)


@pytest.mark.parametrize(
    "bounds",
    [
        {"0": 0.5, "2": 1.5},
        {"0.weight": 0.5, "0.bias": 0.25, "2.weight": 1.0, "2.bias": 2.0},
        {"": 1.0, "2.bias": 0.25},
    ],
    ids=["layers", "parameters", "rest"],
)
def test_clipping__bounds_each_group_on_its_own(bounds: dict[str, float]) -> None:
    model = _model()
    truth = oracle.gradients(model, losses_of, X)
    engine = ClippedGradients(model, clip_norm=bounds)
    clipped = engine.step(lambda: losses_of(model(X)))
    expected: dict[str, torch.Tensor] = {}
    for group, bound in bounds.items():
        members = [n for n in truth[0] if engine.clipping.group_of[n] == group]
        part = [{n: one[n] for n in members} for one in truth]
        expected |= oracle.clipped_sum(part, bound)
    assert oracle.difference(clipped.sums, {n: expected[n] for n in clipped.sums}) < 1e-12
    assert engine.sensitivity == pytest.approx(math.hypot(*bounds.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [1e-6, 1.0, 300.0])
def test_factors__keep_32_units_of_rounding_below_the_bound(
    dtype: torch.dtype, bound: float
) -> None:
    """Whatever norm, sum and product round away later; and never a factor above one."""
    generator = torch.Generator().manual_seed(1)
    norms = bound * torch.rand(2000, generator=generator, dtype=torch.float64).add(1e-3) * 10
    squared = norms.square().to(dtype)
    clipping = clipping_of(bound, ["weight"])
    factors = clipping.factors({"": squared}, torch.ones(2000, dtype=torch.bool))[""]
    assert factors.dtype == dtype
    assert factors.max() == 1
    lengths = factors.double() * squared.double().sqrt()
    unit = torch.finfo(dtype).eps
    assert lengths.max() <= bound * (1 - 29 * unit)
    assert lengths[factors < 1].min() >= bound * (1 - 35 * unit)


def test_factors__of_a_sample_that_does_not_count_are_zero() -> None:
    squared = torch.tensor([0.0, 4.0, math.inf, math.nan])
    finite = torch.tensor([False, False, False, False])
    assert clipping_of(1.0, ["weight"]).factors({"": squared}, finite)[""].tolist() == [0.0] * 4


def test_clipping__goes_by_whole_names_of_modules() -> None:
    """`head` is no part of `header`."""
    found = clipping_of({"head": 1.0, "head.0": 3.0, "": 2.0}, ["head.w", "head.0.w", "header.w"])
    assert found.group_of == {"head.w": "head", "head.0.w": "head.0", "header.w": ""}


def test_clipping__leaves_short_gradients_alone() -> None:
    model = _model()
    truth = oracle.gradients(model, losses_of, X)
    longest = max(oracle.norm(one) for one in truth)
    clipped = ClippedGradients(model, clip_norm=longest * 1.01).step(lambda: losses_of(model(X)))
    plain = {n: sum(one[n] for one in truth) for n in truth[0]}
    assert oracle.difference(clipped.sums, plain) < 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan, 1e-12])
def test_clipping__refuses_a_bound_that_is_no_positive_finite_number(bound: float) -> None:
    with pytest.raises(ConfigError, match=r"clip_norm=.* must be a finite number"):
        ClippedGradients(_model(), clip_norm=bound)


def test_clipping__names_every_problem_of_a_mapping() -> None:
    with pytest.raises(ConfigError) as caught:
        ClippedGradients(_model(), clip_norm={"0": -1.0, "7": 1.0})
    assert len(caught.value.problems) == 4
    text = str(caught.value)
    assert "clip_norm[0]=-1.0" in text
    assert "no bound for 2.weight" in text
    assert "clip_norm[7]: no trainable parameter" in text


def test_clipping__sums_over_micro_batches_are_the_sum_over_the_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    model = small_cnn()
    x = torch.randn(12, 1, 10, 10, generator=generator)
    engine = ClippedGradients(model, clip_norm=0.3)
    whole = engine.step(lambda: losses_of(model(x))).sums
    parts = [
        engine.step(lambda part=part: losses_of(model(part))).sums for part in x.split([5, 4, 3])
    ]  # type: ignore[misc]
    summed = {name: sum(part[name] for part in parts) for name in whole}
    assert oracle.difference(summed, whole) < 1e-6
