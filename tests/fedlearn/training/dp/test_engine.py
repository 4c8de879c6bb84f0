"""Equal to a loop over samples, and to Opacus, on every layer that the engine handles."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedlearn.training.dp import ClippedGradients
from tests.effort import slow_but, thinned
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import CASES, Case, build, draw, losses_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

BATCH = 5


def _prepared(case: Case, dtype: torch.dtype) -> tuple[nn.Module, Tensor, list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(7)
    model = build(case, generator, dtype)
    x = draw(case, BATCH, generator)
    x = x if case.ids else x.to(dtype)
    exact = copy.deepcopy(model).double()
    inputs = x if case.ids else x.double()
    truth = oracle.gradients(exact, lambda y: losses_of(y, case.axis), inputs, case.axis)
    return model, x, truth


def _middle(truth: list[dict[str, Tensor]]) -> float:
    """A bound that clips some samples and leaves others."""
    return sorted(oracle.norm(one) for one in truth)[BATCH // 2]


@pytest.mark.parametrize(
    "case",
    slow_but(lambda case: case.name != "attention with learned key", CASES),
    ids=lambda case: case.name,
)
def test_engine__equals_a_loop_over_samples_in_double_precision(case: Case) -> None:
    model, x, truth = _prepared(case, torch.float64)
    bound = _middle(truth)
    engine = ClippedGradients(model, clip_norm=bound)
    clipped = engine.step(lambda: losses_of(model(x), case.axis))
    assert oracle.difference(clipped.sums, oracle.clipped_sum(truth, bound)) < 1e-12
    for found, one in zip(clipped.norms, truth, strict=True):
        assert float(found) == pytest.approx(oracle.norm(one), rel=1e-9)
    assert len(engine.fallbacks) == case.fallbacks


@pytest.mark.parametrize("case", thinned(CASES), ids=lambda case: case.name)
def test_engine__is_within_1e_5_of_the_truth_in_single_precision(case: Case) -> None:
    model, x, truth = _prepared(case, torch.float32)
    bound = _middle(truth)
    clipped = ClippedGradients(model, clip_norm=bound).step(lambda: losses_of(model(x), case.axis))
    assert oracle.difference(clipped.sums, oracle.clipped_sum(truth, bound)) < 1e-5


@pytest.mark.parametrize("case", [c for c in CASES if c.opacus], ids=lambda case: case.name)
def test_engine__equals_opacus(case: Case) -> None:
    model, x, truth = _prepared(case, torch.float32)
    bound = _middle(truth)
    names = {id(p): name for name, p in model.named_parameters()}
    clipped = ClippedGradients(model, clip_norm=bound).step(lambda: losses_of(model(x), case.axis))
    hooked = GradSampleModule(model, loss_reduction="sum")
    losses_of(hooked(x), case.axis).sum().backward()
    samples = {names[id(p)]: p.grad_sample for p in model.parameters() if p.requires_grad}
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in samples.values()]).norm(dim=0)
    factors = (bound / (norms + 1e-6)).clamp(max=1.0)
    expected = {name: torch.einsum("i,i...", factors, g) for name, g in samples.items()}
    assert oracle.difference(clipped.sums, expected) < 1e-5
    hooked.remove_hooks()


@pytest.mark.parametrize("case", thinned(CASES), ids=lambda case: case.name)
def test_engine__is_exact_for_a_batch_of_one(case: Case) -> None:
    model, x, truth = _prepared(case, torch.float64)
    one = x.narrow(case.axis, 0, 1)
    clipped = ClippedGradients(model, clip_norm=1e6).step(lambda: losses_of(model(one), case.axis))
    assert oracle.difference(clipped.sums, truth[0]) < 1e-12


@pytest.mark.parametrize("case", thinned(CASES), ids=lambda case: case.name)
def test_engine__gives_zeros_for_an_empty_batch(case: Case) -> None:
    model, _, _ = _prepared(case, torch.float32)
    clipped = ClippedGradients(model, clip_norm=1.0).step(lambda: torch.zeros(0))
    assert clipped.sums.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(not value.any() for value in clipped.sums.values())
    assert clipped.norms.shape == clipped.losses.shape == clipped.dropped.shape == (0,)


@pytest.mark.parametrize("case", thinned(CASES), ids=lambda case: case.name)
def test_engine__leaves_the_model_as_it_was(case: Case) -> None:
    model, x, _ = _prepared(case, torch.float32)

    def state() -> list[object]:
        return [
            (type(m), sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks), m.training)
            for m in model.modules()
        ] + [(p.requires_grad, p.grad, p._version, p.is_leaf) for p in model.parameters()]

    before = state()
    ClippedGradients(model, clip_norm=1.0).step(lambda: losses_of(model(x), case.axis))
    assert state() == before


class _Groups(TorchDispatchMode):
    """Notes how many groups of how many samples a group norm's backward pass is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_group_norm_backward.default:
            self.seen.append((args[5], args[8]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("batch", "folded"), [(16_383, True), (16_384, False)])
def test_group_norm__is_folded_as_far_as_a_gpu_has_room_for_groups(
    batch: int, folded: bool
) -> None:
    """CUDA lays the groups of a sample along an axis of 65,535, or fails."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(4, 4))
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(batch, 1, 1, 3, generator=generator)
    pull = torch.randn(batch, 4, 1, 3, generator=generator)
    engine = ClippedGradients(model, clip_norm=1e6, trial=False)
    with _Groups() as groups:
        clipped = engine.step(lambda: (model(x) * pull).sum((1, 2, 3)))
    assert groups.seen == [(1, batch * 4) if folded else (batch, 4)]
    (model(x) * pull).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(clipped.sums[name].float(), parameter.grad, rtol=1e-4, atol=1e-2)
