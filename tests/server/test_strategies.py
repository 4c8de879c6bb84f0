"""Each strategy against its formula in plain numpy, over rounds and over a restart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from fedlearn import flower
from fedlearn.algorithms import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy
from fedlearn.core.vector import Vector
from fedlearn.flower import private
from fedlearn.rounds import TrainReply
from server.grid import CohortGrid
from server.strategies import make_strategy, restore_strategy, strategy_state

CASES: list[Strategy] = [
    FedAvg(fraction=1.0, min_sites=1),
    FedProx(fraction=1.0, min_sites=1, proximal_mu=0.3),
    FedAvgM(fraction=1.0, min_sites=1, server_learning_rate=0.7, server_momentum=0.9),
    FedAdam(fraction=1.0, min_sites=1, server_learning_rate=0.1, beta_1=0.8, beta_2=0.95, tau=0.01),
    FedYogi(fraction=1.0, min_sites=1, server_learning_rate=0.1, beta_1=0.8, beta_2=0.95, tau=0.01),
]
every = pytest.mark.parametrize("config", CASES, ids=lambda config: config.kind)
WEIGHTS = [1.0, 3.0, 6.0]
D = 20


class Nodes(CohortGrid):
    """A grid of three nodes on which nothing is sent."""

    def __init__(self) -> None:
        private.new_run(run_id=1)
        self.node_ids = [5, 6, 7]


def site_models(number: int) -> list[Vector]:
    rng = np.random.default_rng(number)
    return [rng.normal(size=D).astype(np.float32) for _ in WEIGHTS]


def one_round(strategy: object, number: int, model: Vector) -> tuple[Vector, list[Message]]:
    arrays = flower.arrays_of(model)
    sent = list(strategy.configure_train(number, arrays, ConfigRecord(), Nodes()))  # type: ignore[attr-defined]
    replies = [
        Message(
            flower.train_reply(TrainReply(site=f"{i}", model=m, weight=w, spent=())),
            reply_to=private.set_message_id(message, f"m{i}"),
        )
        for i, (message, m, w) in enumerate(zip(sent, site_models(number), WEIGHTS, strict=True))
    ]
    averaged, _ = strategy.aggregate_train(number, replies)  # type: ignore[attr-defined]
    return flower.vector_of(averaged), sent


def formula(config: Strategy) -> Callable[[int, np.ndarray], np.ndarray]:  # type: ignore[type-arg]
    """The next model from the round and the model, as the papers (and flwr for Adam) write it."""
    moments = [np.zeros(D), np.zeros(D)]

    def step(number: int, model: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        mean = np.average(np.float64(site_models(number)), axis=0, weights=WEIGHTS)
        if isinstance(config, (FedAvg, FedProx)):
            return np.asarray(mean)
        delta = mean - model
        if isinstance(config, FedAvgM):
            moments[0] = config.server_momentum * moments[0] + delta
            return np.asarray(model + config.server_learning_rate * moments[0])
        m = config.beta_1 * moments[0] + (1 - config.beta_1) * delta
        rate = config.server_learning_rate
        if isinstance(config, FedAdam):
            v = config.beta_2 * moments[1] + (1 - config.beta_2) * delta**2
            # flwr's warm-up counts rounds from 1, and takes the power of round + 1.
            rate *= np.sqrt(1 - config.beta_2 ** (number + 1)) / (1 - config.beta_1 ** (number + 1))
        else:
            v = moments[1] - (1 - config.beta_2) * delta**2 * np.sign(moments[1] - delta**2)
        moments[:] = [m, v]
        return np.asarray(model + rate * m / (np.sqrt(v) + config.tau))

    return step


@every
def test_strategy__equals_its_formula_for_three_rounds(config: Strategy) -> None:
    strategy, expected_next = make_strategy(config), formula(config)
    model = np.zeros(D, np.float32)
    expected = np.zeros(D)
    for number in (1, 2, 3):
        model, _ = one_round(strategy, number, model)
        expected = expected_next(number, expected)
        assert model.dtype == np.float32
        np.testing.assert_allclose(model, expected, rtol=1e-4, atol=1e-6)


@every
def test_strategy__asks_every_node_it_sees(config: Strategy) -> None:
    _, sent = one_round(make_strategy(config), 2, np.zeros(D, np.float32))
    assert sorted(message.metadata.dst_node_id for message in sent) == [5, 6, 7]
    notes = [message.content.config_records["config"] for message in sent]
    assert all(note["server-round"] == 2 for note in notes)
    expected = config.proximal_mu if isinstance(config, FedProx) else 0.0
    assert all(note.get("proximal-mu", 0.0) == expected for note in notes)


@every
def test_strategy__restored_from_its_state_goes_on_bit_for_bit(config: Strategy) -> None:
    straight = make_strategy(config)
    after_one, _ = one_round(straight, 1, np.zeros(D, np.float32))
    state = {key: array.copy() for key, array in strategy_state(straight).items()}
    assert bool(state) == isinstance(config, (FedAvgM, FedAdam, FedYogi))
    after_two, _ = one_round(straight, 2, after_one)
    resumed = make_strategy(config)
    restore_strategy(resumed, state)
    again, _ = one_round(resumed, 2, after_one)
    assert (again == after_two).all()
    if state:
        forgotten, _ = one_round(make_strategy(config), 2, after_one)
        assert (forgotten != after_two).any()
