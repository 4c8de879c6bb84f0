"""Flower's own strategies from our settings, and the state that a checkpoint must keep."""

from __future__ import annotations

from typing import Any, assert_never

import numpy as np
from flwr.serverapp import strategy as flower

from fedlearn.algorithms import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy
from fedlearn.flower import WEIGHT

MOMENTS = ("m_t", "v_t", "momentum_vector")
"""What FedAdam and FedYogi, and FedAvgM, carry from round to round."""


def make_strategy(config: Strategy) -> flower.FedAvg:
    """The Flower strategy that `config` describes.

    Who takes part in a round is decided by `server.grid`, which shows the
    strategy only the cohort; so every strategy here takes all it sees.
    """
    everyone: dict[str, Any] = {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
        "weighted_by_key": WEIGHT,
    }
    match config:
        case FedAvg():
            return flower.FedAvg(**everyone)
        case FedProx():
            return flower.FedProx(**everyone, proximal_mu=config.proximal_mu)
        case FedAvgM():
            return flower.FedAvgM(
                **everyone,
                server_learning_rate=config.server_learning_rate,
                server_momentum=config.server_momentum,
            )
        case FedAdam():
            return flower.FedAdam(**everyone, **_adaptive(config))
        case FedYogi():
            return flower.FedYogi(**everyone, **_adaptive(config))
        case _:
            assert_never(config)


def _adaptive(config: FedAdam | FedYogi) -> dict[str, Any]:
    return {
        "eta": config.server_learning_rate,
        "beta_1": config.beta_1,
        "beta_2": config.beta_2,
        "tau": config.tau,
    }


def strategy_state(strategy: flower.FedAvg) -> dict[str, np.ndarray[Any, Any]]:
    """The moments of an adaptive strategy as named arrays; empty for the others."""
    return {
        f"{moment}.{name}": array
        for moment in MOMENTS
        for name, array in _named(getattr(strategy, moment, None)).items()
    }


def restore_strategy(strategy: flower.FedAvg, state: dict[str, np.ndarray[Any, Any]]) -> None:
    """Give `strategy` back what `strategy_state` took from it."""
    for moment in MOMENTS:
        arrays = {
            key.removeprefix(f"{moment}."): array
            for key, array in state.items()
            if key.startswith(f"{moment}.")
        }
        if arrays:
            listed = isinstance(strategy, flower.FedAvgM)
            setattr(
                strategy, moment, [arrays[k] for k in sorted(arrays, key=int)] if listed else arrays
            )


def _named(moment: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays by name: FedAvgM keeps a list of them."""
    if isinstance(moment, list):
        return {str(i): array for i, array in enumerate(moment)}
    return moment or {}
