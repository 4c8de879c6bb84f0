"""Opacus' optimizer adds its noise to, and scales, the sum that the engine leaves."""

from __future__ import annotations

import copy

import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from fedlearn.training.dp import ClippedGradients
from tests.fedlearn.training.dp.cases import losses_of, small_cnn


def _noise_seed() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_opacus__takes_the_same_step_from_our_sum_as_from_its_own() -> None:
    ours, theirs = small_cnn(), small_cnn()
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    x = torch.randn(10, 1, 10, 10, generator=torch.Generator().manual_seed(1))
    options = {"noise_multiplier": 0.7, "max_grad_norm": 0.5, "expected_batch_size": 10}

    engine = ClippedGradients(ours, clip_norm=0.5)
    optimizer = DPOptimizer(
        torch.optim.SGD(ours.parameters(), lr=0.1),
        loss_reduction="mean",
        generator=_noise_seed(),
        **options,
    )
    parts = [engine.step(lambda part=part: losses_of(ours(part))).sums for part in x.split(5)]  # type: ignore[misc]
    for name, parameter in ours.named_parameters():
        parameter.summed_grad = sum(part[name] for part in parts).float()  # type: ignore[union-attr]
    optimizer.add_noise()
    for parameter in ours.parameters():
        parameter.grad /= (
            10  # scale_grad counts batches by grad_sample, which the engine never makes
        )
    optimizer.original_optimizer.step()

    hooked = GradSampleModule(theirs, loss_reduction="sum")
    reference = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=0.1),
        loss_reduction="mean",
        generator=_noise_seed(),
        **options,
    )
    losses_of(hooked(x)).sum().backward()
    reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)
