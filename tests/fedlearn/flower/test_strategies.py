"""Flower's strategies, and those of users, at the coordinator of a run: they get the mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as theirs

from fedlearn.algorithms import FedAdam, FedAvgM, RoundMean, State, Step, give
from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import Vector
from fedlearn.flower import private
from fedlearn.flower.records import arrays_of, vector_of
from fedlearn.flower.strategies import given_strategy, step_of

D = 6
FULL = {"fraction": 1.0, "min_sites": 1}


@pytest.fixture(autouse=True)
def in_a_run() -> None:
    private.new_run(run_id=1)


def walked(step: Step, rounds: range, model: Vector, state: State) -> tuple[Vector, State]:
    for number in rounds:
        mean = np.random.default_rng(number).normal(size=D).astype(np.float32)
        found = RoundMean(number=number, before=model, model=mean, extra={}, share=1.0)
        model, state = step(found, state)
    return model, state


def test_strategy_of_flower__walks_as_ours_of_the_name() -> None:
    moments = {"beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}
    zero, rounds = np.zeros(D, np.float32), range(1, 5)
    adam = FedAdam(**FULL, server_learning_rate=0.1, **moments)
    momentum = FedAvgM(**FULL, server_learning_rate=0.5, server_momentum=0.9)
    pairs: list[tuple[Step, theirs.Strategy]] = [
        (adam.server, theirs.FedAdam(eta=0.1, **moments)),
        (momentum.server, theirs.FedAvgM(server_learning_rate=0.5, server_momentum=0.9)),
    ]
    for ours, strategy in pairs:
        one, _ = walked(ours, rounds, zero, {})
        other, _ = walked(step_of(strategy), rounds, zero, {})
        assert one.tobytes() == other.tobytes()


class Halved(theirs.FedAvg):
    """Somebody's own: half of the way, and a counter and a trace that it carries on."""

    def __init__(self) -> None:
        super().__init__(min_train_nodes=3, min_available_nodes=3)
        self.trace: list[np.ndarray[Any, Any]] = []
        self.rounds = np.zeros(1)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        self.rounds = self.rounds + 1
        self.trace = [*self.trace, vector_of(arrays)]
        half = sum(self.trace) / np.float32(2 * len(self.trace))
        return arrays_of(np.asarray(half)), metrics


def test_strategy_of_a_user__goes_on_from_its_arrays() -> None:
    zero = np.zeros(D, np.float32)
    straight, state = walked(step_of(Halved()), range(1, 6), zero, {})
    after, saved = walked(step_of(Halved()), range(1, 4), zero, {})
    resumed, again = walked(step_of(Halved()), range(4, 6), after, saved)
    assert straight.tobytes() == resumed.tobytes()
    assert again["rounds"].tolist() == state["rounds"].tolist() == [5]
    assert all("." not in name for name in state), "a checkpoint keeps what is before a dot"


@pytest.mark.parametrize("strategy", [theirs.FedMedian(), theirs.Krum(), theirs.FedTrimmedAvg()])
def test_strategy_of_flower__that_needs_single_replies_is_refused(
    strategy: theirs.Strategy,
) -> None:
    with pytest.raises(
        ConfigError, match=r"every single reply.*robust=\w+ is the same of Flower's"
    ):
        given_strategy(strategy)


def test_strategy_of_flower__with_noise_that_nobody_pays_for_is_refused() -> None:
    noisy = theirs.DifferentialPrivacyServerSideFixedClipping(theirs.FedAvg(), 1.0, 1.0, 2)
    with pytest.raises(ConfigError, match="in no plan and no ledger"):
        given_strategy(noisy)


def test_function__is_the_step_of_a_run_by_its_name() -> None:
    def stand(mean: RoundMean, state: State) -> tuple[Vector, State]:
        return mean.before, {"seen": mean.model}

    algorithm = give(stand, name="stand", min_sites=1)
    algorithm.prepare()
    model, state = walked(algorithm.server, range(1, 3), np.ones(D, np.float32), {})
    assert model.tolist() == [1] * D
    assert list(state) == ["seen"]


def test_function__that_is_not_here_is_named_before_the_run() -> None:
    given = type(give(lambda mean, state: (mean.model, state), name="here"))
    with pytest.raises(ConfigError, match=r"strategy\.name=elsewhere: was given from Python"):
        given(name="elsewhere", **FULL).prepare()
