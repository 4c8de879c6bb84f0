"""What public records alone teach, and the model that is held to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clients.records import simulated_task
from fedlearn.algorithms.algorithm import RoundMean, State
from fedlearn.config import compose
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector, to_vector
from fedlearn.data import load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.report.export import read_model
from fedlearn.results.reading import read_result
from server.public import PublicRecords
from server.public_training import PublicTraining
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests.effort import examples
from tests.simulations.small import table

ROUNDS = 4
CLIP = 0.1


def training_of(folder: Path, *words: str, clip_norm: float | None = CLIP) -> PublicTraining:
    """Of a small table, under momentum at the coordinator."""
    momentum = ("strategy=fedavgm", "strategy.server_momentum=0.9", "training.learning_rate=0.5")
    words = (*table(folder), "robust=fltrust", "secagg=masked", "robust.public=0.5", *words)
    config = compose([*words, *momentum, f"out={folder / 'run'}"])
    task = load_pool(config.scenario, Streams(config.seed), default_cache({})).task
    records = PublicRecords.of(config, task, deployed=False)
    assert records is not None
    initial = to_vector(records.learner.model)
    return PublicTraining(records, config.strategy, initial, clip_norm=clip_norm)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> PublicTraining:
    return training_of(tmp_path_factory.mktemp("public"))


def clipped_step(records: PublicRecords, model: Vector, clip_norm: float) -> NDArray[np.float64]:
    """A step of the mean of gradients that are clipped one by one, with torch alone."""
    net = records.learner.model
    load_vector(net, model)
    total = np.zeros(model.size)
    for features, label in zip(records.inputs, records.targets, strict=True):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(features[None]), label[None]).backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([p.grad.reshape(-1) for p in net.parameters() if p.grad is not None])
        one = gradient.double().numpy()
        total += one * min(1.0, clip_norm / np.linalg.norm(one))
    return np.asarray(-records.config.training.learning_rate * total / len(records))


def test_public_records__are_clipped_one_by_one_as_those_of_sites_are(
    training: PublicTraining,
) -> None:
    model = np.random.default_rng(0).normal(size=training.initial.size).astype(np.float32)
    found = training.change(model, 1)
    assert found == pytest.approx(clipped_step(training.records, model, CLIP), abs=1e-6)
    unclipped = training.records.change(model, 1)
    assert np.linalg.norm(unclipped) > 2 * np.linalg.norm(found)


def test_change__is_no_longer_than_that_of_a_site(training: PublicTraining) -> None:
    long = training.change(training.initial, 1)
    bounded = PublicTraining(
        training.records, training.algorithm, training.initial, training.clip_norm, most=1e-3
    )
    short = bounded.change(training.initial, 1)
    assert np.linalg.norm(short) == pytest.approx(1e-3)
    assert short == pytest.approx(long * 1e-3 / np.linalg.norm(long))


def test_worth__is_what_two_halves_lose_on_each_other(training: PublicTraining) -> None:
    """By momentum as Flower's FedAvgM has it, over an independent loop."""
    records, beta = training.records, 0.9
    order = Streams(records.config.seed).get("public", "halves").permutation(len(records))
    rows = [np.sort(order[0::2]), np.sort(order[1::2])]

    def taught(seen: PublicRecords) -> Vector:
        model = training.initial.astype(np.float64)
        speed = np.zeros_like(model)
        for _ in range(ROUNDS):
            speed = beta * speed + clipped_step(seen, model.astype(np.float32), CLIP)
            model = model + speed
        return model.astype(np.float32)

    halves = [taught(records.some(mine)) for mine in rows]
    lost = [records.some(other).loss(m) for m, other in zip(halves, rows[::-1], strict=True)]
    mean = np.average(lost, weights=[len(other) for other in rows[::-1]])
    own = records.loss(taught(records))
    assert training.worth(ROUNDS) == pytest.approx(max(mean, own), rel=1e-4)


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3, 1e30]), st.integers(1, ROUNDS))
def test_model__whatever_it_is_loses_no_more_than_public_records_alone_are_worth(
    training: PublicTraining, seed: int, size: float, number: int
) -> None:
    rng = np.random.default_rng(seed)
    model = (size * rng.normal(size=training.initial.size)).astype(np.float32)
    held = training.held(model, number)
    assert training.records.loss(held) <= training.worth(number)
    if training.records.loss(model) <= training.worth(number):
        assert held is model


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_model__that_is_no_number_gives_way_to_that_of_the_public_records(
    training: PublicTraining, value: float
) -> None:
    held = training.held(np.full_like(training.initial, value), 3)
    assert np.isfinite(held).all()
    assert training.records.loss(held) <= training.worth(3)


def test_model__goes_no_further_than_it_must(training: PublicTraining) -> None:
    """It keeps half of what it had where half of it will do."""
    alone = training.held(np.full_like(training.initial, np.nan), ROUNDS)
    most = training.worth(ROUNDS)
    away = np.random.default_rng(1).normal(size=alone.size).astype(np.float32)
    steps = np.geomspace(1e-3, 1e3, 400)
    beyond = next(s for s in steps if training.records.loss(alone + np.float32(s) * away) > most)
    held = training.held(alone + np.float32(1.05 * beyond) * away, ROUNDS)
    assert held == pytest.approx(alone + 0.525 * beyond * away, rel=1e-4, abs=1e-5)


def test_rounds__that_are_taken_back_are_learned_again_as_they_were(tmp_path: Path) -> None:
    training = training_of(tmp_path)
    before = [training.worth(number) for number in (2, 5)]
    training.worth(7)
    assert [training.worth(number) for number in (2, 5)] == before


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_records__are_enough_to_go_by(training: PublicTraining, count: int) -> None:
    few = PublicTraining(
        training.records.some(np.arange(count)), training.algorithm, training.initial, CLIP
    )
    assert np.isfinite(few.worth(4))
    held = few.held(np.full_like(training.initial, 1e4), 4)
    assert few.records.loss(held) <= few.worth(4)


def test_public_training__that_diverges_stands_still(tmp_path: Path) -> None:
    training = training_of(tmp_path, "training.local_steps=9")
    config = training.records.config
    wild = replace(config, training=replace(config.training, learning_rate=1e38))
    lost = PublicTraining(
        replace(training.records, config=wild), training.algorithm, training.initial
    )
    assert np.array_equal(lost.change(training.initial, 1), np.zeros(training.initial.size))
    assert np.array_equal(lost.held(training.initial, 2), training.initial)


def lied_to(training: PublicTraining, *, held: bool) -> float:
    """Public loss after rounds in which a liar says all that goes across the direction.

    The rule of a round gives its least along the direction; the liar takes all that it is let
    across, always the same way; the server optimiser remembers.
    """
    model = training.initial
    state: State = {}
    aim = np.random.default_rng(7).normal(size=model.size)
    for number in range(1, 31):
        direction = training.change(model, number)
        lie = np.linalg.norm(direction) * (aim - direction)
        change = training.records.config.robust.combined(1e3 * lie[None], direction)
        after = np.asarray(model + change, np.float32)
        found = RoundMean(number=number, before=model, model=after, extra={}, share=1.0)
        model, state = training.algorithm.server(found, state)
        model = training.held(model, number) if held else model
    return training.records.loss(model)


@pytest.mark.slow
def test_liar_across_the_direction__is_carried_on_by_momentum_unless_the_model_is_held(
    tmp_path: Path,
) -> None:
    """Every round keeps within the rule for rounds, and the model is spoiled all the same."""
    training = training_of(tmp_path)
    assert lied_to(training, held=True) <= training.worth(30)
    assert lied_to(training, held=False) > training.records.loss(training.initial)


def test_run__that_is_held_in_every_round_ends_with_what_the_public_records_alone_teach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the real programs, for a rule that finds no model good enough."""
    monkeypatch.setattr(PublicTraining, "worth", lambda self, number: -1.0)
    sites = ("alder", "birch", "cedar")
    words = [*table(tmp_path, sites=sites), "robust=fltrust", "secagg=ring", "robust.public=0.5"]
    momentum = ["strategy=fedavgm", "strategy.server_momentum=0.9", "evaluation=none"]
    config = compose([*words, *momentum, "privacy=none", f"out={tmp_path / 'run'}"])
    simulate(config, Silent(), Stop())
    result = read_result(tmp_path / "run")
    records = PublicRecords.of(config, simulated_task(config), deployed=False)
    assert records is not None
    initial = to_vector(records.learner.model)
    training = PublicTraining(records, config.strategy, initial, most=config.robust.change_norm)
    alone = training.held(initial, len(result.rounds))
    assert not np.array_equal(alone, initial)
    assert np.array_equal(read_model(tmp_path / "run", result), alone)
