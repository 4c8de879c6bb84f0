"""Canaries in slots go through the mechanism and leave the trained model and the promise alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from fedlearn.algorithms.pull import pull
from fedlearn.core.vector import layout_of, to_vector
from fedlearn.mechanisms.distributed import DistributedPrivacy, Population, make_plan
from fedlearn.models.slots import attach, slot_values, trained
from fedlearn.privacy import SeededNoise, SystemNoise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import train
from fedlearn.training.private import clipped_gradient_sum, train_private
from tests.fedlearn.training.test_private import CONFIG, PLAN, network, records

SLOTS = 40
INSIDE = torch.tensor([3, 4, 11, 39])


def audited(architecture: str = "mlp") -> nn.Module:
    model = network(architecture)
    attach(model, SLOTS)
    return model


def slots_of(model: nn.Module) -> np.ndarray:
    return slot_values(layout_of(model), to_vector(model))


def same_model(model: nn.Module, plain: nn.Module) -> bool:
    return np.array_equal(trained(layout_of(model), to_vector(model)), to_vector(plain))


@pytest.mark.parametrize("engine", ["fast", "opacus"])
@pytest.mark.parametrize("max_batch", [1024, 3])
def test_canaries__are_clipped_to_the_clip_norm_on_their_slot(
    engine: Literal["fast", "opacus"], max_batch: int
) -> None:
    model, config = audited(), replace(CONFIG, dp_engine=engine, max_batch=max_batch)
    train_private(
        model, *records(), config, PLAN, loss=cross_entropy, noise=SystemNoise(), canaries=INSIDE
    )
    step = config.learning_rate * PLAN.clip_norm / config.nominal_records
    expected = np.zeros(SLOTS, np.float32)
    expected[INSIDE] = -step
    np.testing.assert_allclose(slots_of(model), expected, rtol=2e-5)


@pytest.mark.parametrize("engine", ["fast", "opacus"])
def test_canaries__do_not_move_the_privately_trained_model_by_a_bit(
    engine: Literal["fast", "opacus"],
) -> None:
    model, plain = audited(), network("mlp")
    config = replace(CONFIG, sample_rate=0.5, dp_engine=engine, weight_decay=0.1)
    plan = replace(PLAN, sample_rate=0.5, noise_multiplier=1.0)
    train_private(plain, *records(40), config, plan, loss=cross_entropy, noise=SeededNoise(b"one"))
    train_private(
        model, *records(40), config, plan,
        loss=cross_entropy, noise=SeededNoise(b"one"), canaries=INSIDE,
    )  # fmt: skip
    assert same_model(model, plain)
    assert np.count_nonzero(slots_of(model)) == SLOTS


def test_canaries__get_the_noise_of_every_other_coordinate() -> None:
    """False alarm below 1e-6: chi-squared bounds on 400 draws of the noise on 40 slots."""
    plan = replace(PLAN, noise_multiplier=1.5)
    step = CONFIG.learning_rate / CONFIG.nominal_records
    noise = []
    for _ in range(10):
        model = audited("linear")
        train_private(
            model,
            *records(),
            CONFIG,
            plan,
            loss=cross_entropy,
            noise=SystemNoise(),
            canaries=INSIDE,
        )
        signal = np.zeros(SLOTS)
        signal[INSIDE] = plan.clip_norm
        noise.append((-slots_of(model) / step - signal) / plan.noise_stddev)
    squares = float(np.square(noise).sum())
    assert chi2.ppf(2.5e-7, 10 * SLOTS) < squares < chi2.isf(2.5e-7, 10 * SLOTS)


def test_canaries__are_sampled_by_coins_of_the_same_rate() -> None:
    """False alarm below 1e-6: 2000 coins at .3, 5 standard deviations either way."""
    config, plan = replace(CONFIG, sample_rate=0.3), replace(PLAN, sample_rate=0.3)
    model = network("linear")
    attach(model, 2000)
    train_private(
        model, *records(), config, plan,
        loss=cross_entropy, noise=SystemNoise(), canaries=torch.arange(2000),
    )  # fmt: skip
    taken = np.count_nonzero(slots_of(model))
    assert abs(taken - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5


def test_canaries__add_one_clip_norm_to_a_sum_that_sites_share() -> None:
    plan = make_plan(
        DistributedPrivacy(epsilon=4.0, clip_norm=2.0),
        Population(num_clients=4, dimension=layout_of(audited()).size, records_per_step=100),
        sample_rate=1.0,
        rounds=1,
    )
    model, plain = audited(), network("mlp")
    noise = SystemNoise()
    total = clipped_gradient_sum(
        model, *records(), CONFIG, plan, loss=cross_entropy, noise=noise, canaries=INSIDE
    )
    without = clipped_gradient_sum(plain, *records(), CONFIG, plan, loss=cross_entropy, noise=noise)
    vector = total.astype(np.float32)
    assert np.array_equal(trained(layout_of(model), vector), without.astype(np.float32))
    expected = np.zeros(SLOTS)
    expected[INSIDE] = 2.0
    np.testing.assert_allclose(slot_values(layout_of(model), vector), expected, rtol=2e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_canaries__without_privacy_leave_the_model_alone_too(
    optimizer: Literal["sgd", "adam"], dropout: float
) -> None:
    model, plain = network("mlp", dropout=dropout), network("mlp", dropout=dropout)
    attach(model, SLOTS)
    config = replace(
        CONFIG, optimizer=optimizer, momentum=0.9, local_steps=6, sample_rate=0.5,
        weight_decay=0.01, learning_rate=0.05,
    )  # fmt: skip
    for one, canaries in ((plain, None), (model, INSIDE)):
        rng = np.random.default_rng(5)
        train(
            one,
            *records(),
            config,
            loss=cross_entropy,
            correct=pull(one, to_vector(one), 0.3),
            rng=rng,
            canaries=canaries,
        )
    assert same_model(model, plain)
    # Six batches of two of the four canaries, each over four records: three times each.
    expected = np.zeros(SLOTS, np.float32)
    expected[INSIDE] = -3 * config.learning_rate / 4
    np.testing.assert_allclose(slots_of(model), expected, rtol=1e-5)


def test_canaries__follow_plain_descent_under_adam_with_privacy() -> None:
    model = audited()
    config = replace(CONFIG, optimizer="adam", local_steps=3, weight_decay=0.1)
    plan = replace(PLAN, steps_per_round=3)
    train_private(
        model,
        *records(),
        config,
        plan,
        loss=cross_entropy,
        correct=pull(model, to_vector(model), 0.5),
        noise=SystemNoise(),
        canaries=INSIDE,
    )
    expected = np.zeros(SLOTS, np.float32)
    expected[INSIDE] = -3 * config.learning_rate * plan.clip_norm / config.nominal_records
    np.testing.assert_allclose(slots_of(model), expected, rtol=2e-5)
