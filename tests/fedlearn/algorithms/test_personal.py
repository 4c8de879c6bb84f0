"""What lambda does to a site's own model: where it ends, and what is left of noise in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn.algorithms import LocalRound, MrMtl
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.models.slots import trained_values

MANY, RATE, WEIGHT = 500, 0.05, 1.5
ALGORITHM = MrMtl(fraction=1.0, min_sites=1, proximal_lambda=WEIGHT)
CURVATURE = np.repeat([0.0, 0.5, 2.0, 8.0], MANY)
SHARED = np.repeat(np.array([1.0, -1.0, 2.0, 0.5], np.float32), MANY)
ALONE = np.repeat([3.0, 1.0, -2.0, 4.0], MANY)
D = len(CURVATURE)


def stepped(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """The site's model after as many steps on a quadratic loss, whose gradients have this noise."""
    model = nn.Linear(D, 1, bias=False)
    load_vector(model, SHARED)
    here = LocalRound(
        start=SHARED,
        received={},
        own={},
        trained=trained_values(model),
        steps=len(noise),
        learning_rate=RATE,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    correct = ALGORITHM.correction(model, here)
    assert correct is not None
    for drawn in noise:
        gradient = CURVATURE * (to_vector(model) - ALONE) + drawn
        model.weight.grad = torch.from_numpy(gradient).float().reshape(1, -1)
        correct(model)
        optimizer.step()
    return to_vector(model)


def test_own_model__ends_between_the_shared_one_and_where_it_would_be_alone() -> None:
    """By the closed form; where its records say nothing, it is the shared one."""
    end = stepped(np.zeros((300, D), np.float32))
    share = CURVATURE / (CURVATURE + WEIGHT)
    np.testing.assert_allclose(end, SHARED + share * (ALONE - SHARED), atol=1e-4)
    assert (end[:MANY] == SHARED[:MANY]).all()


def test_noise__that_is_left_in_an_own_model_is_what_the_guide_says_at_most() -> None:
    deviation = 2.0
    noise = np.random.default_rng(2).normal(0, deviation, (100, D)).astype(np.float32)
    spread = np.var(stepped(noise).reshape(4, MANY), axis=1)
    most = RATE**2 * deviation**2 / (1 - (1 - RATE * WEIGHT) ** 2)
    assert spread[0] == pytest.approx(most, rel=0.2), "without curvature it is that"
    assert (spread < 1.2 * most).all()
    assert spread[3] < 0.5 * most
