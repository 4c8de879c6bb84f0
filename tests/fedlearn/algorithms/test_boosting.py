"""Boosting's step at the coordinator: against Adam as written, and what it knows of its noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedlearn.algorithms import Boosting, LocalSettings, RoundMean, State
from fedlearn.algorithms.boosting import SPREAD
from fedlearn.core.vector import Vector

SETTINGS = Boosting(
    fraction=1.0, min_sites=2, server_learning_rate=0.4, beta_1=0.5, beta_2=0.99, floor=3e-4,
    shrink=3.0,
)  # fmt: skip


def stepped(algorithm: Boosting, changes: NDArray[Any], noise: float = 0.0) -> tuple[Vector, State]:
    """After a round for each row of `changes`."""
    model, state = np.zeros(changes.shape[1], np.float32), dict[str, Any]()
    for number, change in enumerate(changes.astype(np.float32), start=1):
        mean = RoundMean(
            number=number, before=model, model=model + change, extra={}, share=1.0, noise=noise
        )
        model, found = algorithm.server(mean, state)
        state = dict(found)
    return model, state


def test_step_without_noise__is_that_of_torchs_adam() -> None:
    changes = np.random.default_rng(3).normal(size=(6, 4))
    ours, _ = stepped(SETTINGS, changes)
    weights = torch.zeros(4, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.4, betas=(0.5, 0.99), eps=SETTINGS.floor)
    for change in changes:
        weights.grad = torch.tensor(-change, dtype=torch.float32)
        adam.step()
    assert ours == pytest.approx(weights.detach().numpy(), rel=1e-3)


def test_value_that_is_all_noise__moves_little_and_one_that_is_not_moves_all_the_way() -> None:
    rng = np.random.default_rng(0)
    changes = 0.01 * rng.normal(size=(20, 2000))
    changes[:, 0] = 1.0
    moved, state = stepped(SETTINGS, changes, noise=0.01)
    assert moved[0] > 0.9 * 20 * 0.4
    found, expected = moved[1:].std(), np.sqrt(state[SPREAD][1:].mean())
    assert found < 0.1 * moved[0]
    assert found == pytest.approx(expected, rel=0.1), "no gradient answers: the deviation is exact"


def test_deviation__is_an_upper_bound_where_later_rounds_answer() -> None:
    """Runs that differ in their noise alone, on a loss with a minimum, as a bin's is."""
    rng, noise, ends, spreads = np.random.default_rng(1), 0.02, [], []
    curvature = np.linspace(0.05, 0.5, 40)
    for _ in range(60):
        model, state = np.zeros(40, np.float32), dict[str, Any]()
        for number in range(1, 21):
            change = -curvature * (model - 1) + noise * rng.normal(size=40)
            mean = RoundMean(
                number=number, before=model, model=np.asarray(model + change, np.float32),
                extra={}, share=1.0, noise=noise,
            )  # fmt: skip
            model, found = SETTINGS.server(mean, state)
            state = dict(found)
        ends.append(model)
        spreads.append(np.sqrt(state[SPREAD]))
    found, promised = np.std(ends, axis=0), np.mean(spreads, axis=0)
    assert (found < 1.3 * promised).all()
    assert (found > 0.1 * promised).all(), "and not an empty one"


def test_without_noise__there_is_no_deviation() -> None:
    _, state = stepped(SETTINGS, np.ones((3, 5)))
    assert not state[SPREAD].any()


@pytest.mark.parametrize(("optimizer", "momentum"), [("adam", 0.0), ("sgd", 0.9)])
def test_sites_that_hide_their_gradient__are_refused(optimizer: str, momentum: float) -> None:
    there = LocalSettings(optimizer=optimizer, momentum=momentum, shares_gradients=False)
    (problem,) = SETTINGS.problems(there)
    assert "Set training.optimizer=sgd training.momentum=0.0" in problem
