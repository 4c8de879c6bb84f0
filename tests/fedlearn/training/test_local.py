"""Plain local training, against autograd on the whole loss."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.algorithms.pull import pull
from fedlearn.core.vector import to_vector
from fedlearn.tasks import ClassificationTask, TableInput
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import batches, diverged, predict, train
from fedlearn.training.settings import Training

TASK = ClassificationTask(input=TableInput(numeric=4), classes=("a", "b", "c"))
CONFIG = Training(
    optimizer="sgd", learning_rate=0.3, momentum=0.0, weight_decay=0.0, local_steps=4,
    sample_rate=0.25, nominal_records=1, dp_engine="fast", max_batch=1024,
)  # fmt: skip


def network(dropout: float = 0.0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(1)
    layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return layers


def records(n: int = 20) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32))
    return features, torch.from_numpy(rng.integers(0, 3, n))


def rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def trained(config: Training, *, mu: float = 0.0, seed: int = 5) -> np.ndarray:  # type: ignore[type-arg]
    model = network()
    train(
        model,
        *records(),
        config,
        loss=cross_entropy,
        correct=pull(model, to_vector(model), mu),
        rng=rng(seed),
    )
    return to_vector(model)


def test_batches__pass_over_all_records_before_any_comes_again() -> None:
    found = list(batches(20, replace(CONFIG, local_steps=8), rng()))
    assert [len(batch) for batch in found] == [5] * 8
    first, second = np.concatenate(found[:4]), np.concatenate(found[4:])
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(
    ("n", "rate", "size"), [(20, 0.25, 5), (20, 0.01, 1), (1, 0.5, 1), (7, 0.5, 4), (7, 1.0, 7)]
)
def test_batches__hold_the_rounded_share_of_the_records_and_at_least_one(
    n: int, rate: float, size: int
) -> None:
    found = list(batches(n, replace(CONFIG, sample_rate=rate, local_steps=9), rng()))
    assert len(found) == 9
    assert all(len(set(batch.tolist())) == size for batch in found)


def test_batches__of_the_whole_set_keep_its_order() -> None:
    whole = replace(CONFIG, sample_rate=1.0)
    assert all((batch == np.arange(20)).all() for batch in batches(20, whole, rng()))


def test_batches__end_a_pass_when_too_few_records_are_left() -> None:
    found = list(batches(7, replace(CONFIG, sample_rate=3 / 7, local_steps=4), rng()))
    assert not set(found[0]) & set(found[1])
    assert not set(found[2]) & set(found[3])


def test_batches__repeat_with_their_seed() -> None:
    one, same, other = (np.stack(list(batches(20, CONFIG, rng(s)))) for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("max_batch", [1, 3, 5])
def test_train__in_parts_equals_whole_batches(max_batch: int) -> None:
    whole = trained(replace(CONFIG, sample_rate=0.9))
    parts = trained(replace(CONFIG, sample_rate=0.9, max_batch=max_batch))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_train__repeats_bit_for_bit() -> None:
    assert (trained(CONFIG) == trained(CONFIG)).all()
    assert (trained(CONFIG) != trained(CONFIG, seed=6)).any()


def test_train__with_dropout_repeats_bit_for_bit_and_leaves_the_global_generator() -> None:
    found = []
    for seed in (5, 5, 6):
        model = network(dropout=0.5)
        before = torch.get_rng_state()
        config = replace(CONFIG, sample_rate=1.0)  # so that only dropout differs
        train(model, *records(), config, loss=cross_entropy, rng=rng(seed))
        assert torch.equal(torch.get_rng_state(), before)
        found.append(to_vector(model))
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_train__equals_a_loop_over_the_written_out_loss(kind: str, mu: float) -> None:
    """Momentum, Adam and weight decay by hand; the proximal term by autograd of its loss."""
    config = replace(
        CONFIG, optimizer=kind, learning_rate=0.05, weight_decay=0.01,
        momentum=0.9 if kind == "sgd" else 0.0,
    )  # type: ignore[arg-type]  # fmt: skip
    model, anchor = network().double(), network().double()
    features, labels = records()
    state = {id(p): [torch.zeros_like(p)] * 2 for p in model.parameters()}
    losses = []
    for steps, batch in enumerate(batches(20, config, rng()), start=1):
        loss = functional.cross_entropy(model(features[batch].double()), labels[batch])
        losses.append(loss.item())
        distance = sum(
            ((p - a.detach()) ** 2).sum()
            for p, a in zip(model.parameters(), anchor.parameters(), strict=True)
        )
        gradients = torch.autograd.grad(loss + mu / 2 * distance, list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            g = gradient + 0.01 * parameter.detach()
            m, v = state[id(parameter)]
            if kind == "sgd":
                m = 0.9 * m + g
                step = m
            else:
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                step = m / (1 - 0.9**steps) / ((v / (1 - 0.999**steps)).sqrt() + 1e-8)
            state[id(parameter)] = [m, v]
            parameter.data -= 0.05 * step
    ours = network()
    mean_loss = train(
        ours,
        *records(),
        config,
        loss=cross_entropy,
        correct=pull(ours, to_vector(ours), mu),
        rng=rng(),
    )
    np.testing.assert_allclose(to_vector(ours), to_vector(model), rtol=2e-4, atol=2e-5)
    assert mean_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_train__with_a_proximal_term_stays_closer_to_where_it_began() -> None:
    start = to_vector(network())
    free, held = (np.linalg.norm(trained(CONFIG, mu=mu) - start) for mu in (0.0, 2.0))
    assert 0 < held < 0.9 * free


def test_train__leaves_frozen_parameters_and_takes_a_single_record() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    before = copy.deepcopy(model[3].weight)
    train(
        model,
        *records(1),
        CONFIG,
        loss=cross_entropy,
        correct=pull(model, to_vector(model), 0.5),
        rng=rng(),
    )
    assert torch.equal(model[0].weight, frozen)
    assert not torch.equal(model[3].weight, before)


def test_train__keeps_no_optimiser_state_between_rounds() -> None:
    config = replace(CONFIG, momentum=0.9, local_steps=1, sample_rate=1.0)
    model = network()
    for _ in range(2):
        train(model, *records(), config, loss=cross_entropy, rng=rng())
    plain = network()
    train(
        plain,
        *records(),
        replace(config, momentum=0.0, local_steps=2),
        loss=cross_entropy,
        rng=rng(),
    )
    np.testing.assert_allclose(to_vector(model), to_vector(plain), rtol=1e-6)


@pytest.mark.parametrize("max_batch", [1, 7, 100])
def test_predict__gives_probabilities_whatever_the_batch(max_batch: int) -> None:
    model, (features, _) = network(dropout=0.5), records()
    found = predict(model, TASK, features, max_batch)
    assert found.dtype == np.float64
    assert found.shape == (20, 3)
    assert found.sum(1) == pytest.approx(np.ones(20), abs=1e-12)
    expected = torch.softmax(model.eval()(features), 1).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_predict__of_no_records_is_empty() -> None:
    assert predict(network(), TASK, torch.empty((0, 4)), 10).shape == (0, 3)


@pytest.mark.parametrize(
    "values",
    [[np.nan, 0], [np.inf, 0], [-np.inf, np.inf], [np.finfo(np.float32).max] * 4],
)
def test_diverged__finds_what_is_not_finite_and_nothing_else(values: list[float]) -> None:
    vector = np.array(values, np.float32)
    assert diverged(vector) == (not np.isfinite(vector).all())


def test_train__in_bf16_is_near_fp32_and_leaves_weights_and_evaluation_in_fp32() -> None:
    exact, near = trained(CONFIG), trained(replace(CONFIG, precision="bf16"))
    assert near.dtype == np.float32
    apart = np.abs(near - exact).max() / np.abs(exact).max()
    assert 0 < apart < 0.05
