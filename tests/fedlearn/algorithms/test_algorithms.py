"""Each algorithm's step at the coordinator: its formula, and Flower's class to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as peers
from numpy.typing import NDArray

from fedlearn.algorithms import (
    Algorithm,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    RoundMean,
    State,
    cohort_size,
)
from fedlearn.core.vector import Vector
from fedlearn.flower import private
from fedlearn.flower.records import arrays_of, vector_of

D = 20
HALF = {"fraction": 1.0, "min_sites": 1}
MOMENTS = {"server_learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}
PEER_MOMENTS = {"eta": 0.1, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}

CASES: list[tuple[Algorithm, type[peers.FedAvg], dict[str, Any]]] = [
    (FedAvg(**HALF), peers.FedAvg, {}),
    (FedProx(**HALF, proximal_mu=0.3), peers.FedProx, {"proximal_mu": 0.3}),
    *(
        (
            FedAvgM(**HALF, server_learning_rate=rate, server_momentum=momentum),
            peers.FedAvgM,
            {"server_learning_rate": rate, "server_momentum": momentum},
        )
        for rate, momentum in ((0.7, 0.9), (0.7, 0.0), (1.0, 0.9), (1.0, 0.0))
    ),
    (FedAdam(**HALF, **MOMENTS), peers.FedAdam, PEER_MOMENTS),
    (FedYogi(**HALF, **MOMENTS), peers.FedYogi, PEER_MOMENTS),
]
every = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].kind}-{case[2]}")


class Nodes:
    """A grid of one node on which nothing is sent."""

    def get_node_ids(self) -> list[int]:
        return [5]


def means() -> Iterator[Vector]:
    rng = np.random.default_rng(3)
    while True:
        yield rng.normal(size=D).astype(np.float32)


def of_ours(algorithm: Algorithm, rounds: int) -> list[Vector]:
    model, state, found = np.zeros(D, np.float32), dict[str, Any](), list[Vector]()
    for number, mean in zip(range(1, rounds + 1), means(), strict=False):
        model, state = algorithm.server(round_mean(number, model, mean), state)
        assert model.dtype == np.float32
        found.append(model)
    return found


def round_mean(number: int, before: Vector, mean: Vector) -> RoundMean:
    return RoundMean(number=number, before=before, model=mean, extra={}, share=1.0)


def of_flower(strategy: peers.FedAvg, rounds: int) -> list[Vector]:
    model, found = np.zeros(D, np.float32), list[Vector]()
    private.new_run(run_id=1)
    for number, mean in zip(range(1, rounds + 1), means(), strict=False):
        arrays = arrays_of(model)
        (sent,) = strategy.configure_train(number, arrays, ConfigRecord(), Nodes())  # type: ignore[arg-type]
        metrics = MetricRecord({"num-examples": 1.0})
        content = RecordDict({"arrays": arrays_of(mean), "metrics": metrics})
        reply = Message(content, reply_to=private.set_message_id(sent, "m"))
        averaged, _ = strategy.aggregate_train(number, [reply])
        assert isinstance(averaged, ArrayRecord)
        model = vector_of(averaged)
        found.append(model)
    return found


@every
def test_step__is_that_of_flowers_class_to_the_bit(
    case: tuple[Algorithm, type[peers.FedAvg], dict[str, Any]],
) -> None:
    ours, peer, settings = case
    nodes = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    theirs = of_flower(peer(**nodes, **settings), 5)
    for number, (one, other) in enumerate(zip(of_ours(ours, 5), theirs, strict=True), start=1):
        assert one.tobytes() == other.tobytes(), f"round {number}"


def formula(config: Algorithm) -> Callable[[int, NDArray[Any], NDArray[Any]], NDArray[Any]]:
    """The next model from round, model and mean, as the papers write it, in float64."""
    moments = [np.zeros(D), np.zeros(D)]

    def step(number: int, model: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
        if isinstance(config, (FedAvg, FedProx)):
            return mean
        delta = mean - model
        if isinstance(config, FedAvgM):
            moments[0] = config.server_momentum * moments[0] + delta
            return np.asarray(model + config.server_learning_rate * moments[0])
        assert isinstance(config, (FedAdam, FedYogi))
        m = config.beta_1 * moments[0] + (1 - config.beta_1) * delta
        rate = config.server_learning_rate
        if isinstance(config, FedAdam):
            v = config.beta_2 * moments[1] + (1 - config.beta_2) * delta**2
            # Flower's warm-up counts rounds from 1, and takes the power of round + 1.
            rate *= np.sqrt(1 - config.beta_2 ** (number + 1)) / (1 - config.beta_1 ** (number + 1))
        else:
            v = moments[1] - (1 - config.beta_2) * delta**2 * np.sign(moments[1] - delta**2)
        moments[:] = [m, v]
        return np.asarray(model + rate * m / (np.sqrt(v) + config.tau))

    return step


@every
def test_step__is_that_of_the_paper(
    case: tuple[Algorithm, type[peers.FedAvg], dict[str, Any]],
) -> None:
    expected_next, expected = formula(case[0]), np.zeros(D)
    found = zip(range(1, 6), means(), of_ours(case[0], 5), strict=False)
    for number, mean, model in found:
        expected = expected_next(number, expected, mean.astype(np.float64))
        np.testing.assert_allclose(model, expected, rtol=1e-4, atol=1e-6)


@every
def test_state__is_all_that_the_next_round_needs(
    case: tuple[Algorithm, type[peers.FedAvg], dict[str, Any]],
) -> None:
    algorithm = case[0]
    source, zero, nothing = means(), np.zeros(D, np.float32), dict[str, Any]()
    first, second = next(source), next(source)
    model, state = algorithm.server(round_mean(1, zero, first), nothing)
    assert nothing == {}, "a state is never changed in place"
    saved: State = {key: array.copy() for key, array in state.items()}
    straight, _ = algorithm.server(round_mean(2, model, second), state)
    resumed, _ = algorithm.server(round_mean(2, model, second), saved)
    assert straight.tobytes() == resumed.tobytes()
    if state:
        forgotten, _ = algorithm.server(round_mean(2, model, second), {})
        assert (forgotten != straight).any()


@pytest.mark.parametrize(
    ("fraction", "least", "sites", "size"),
    [(1.0, 1, 4, 4), (0.5, 1, 4, 2), (0.5, 1, 5, 3), (0.1, 3, 10, 3), (0.3, 1, 10, 3)],
)
def test_cohort__is_the_fraction_rounded_up_and_never_below_the_fewest(
    fraction: float, least: int, sites: int, size: int
) -> None:
    assert cohort_size(FedAvg(fraction=fraction, min_sites=least), sites) == size
