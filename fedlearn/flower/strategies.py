"""A strategy of Flower's, or a subclass of one, as the step of a run of ours at the coordinator.

A strategy that begins with the mean of the replies works: it gets one reply, which is that
mean, after masks, noise and all. So what it does with the mean is done; what else a strategy
may do is not:

- whom it invites (`strategy.fraction` and the run's seed decide), and what it writes into the
  messages to sites: they get the model, and nothing that is not in the run's config;
- single replies and metrics of its own: there are none. The classes of Flower's that need them
  (`NEEDS_REPLIES`) are refused, and so are those that add noise which no plan knows of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray

from fedlearn.algorithms import ALGORITHMS, Algorithm, RoundMean, State
from fedlearn.algorithms.given import GivenStep, Step, give
from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import Vector
from fedlearn.flower.private import set_message_id
from fedlearn.flower.records import arrays_of, vector_of
from fedlearn.flower.replies import WEIGHT

NEEDS_REPLIES: Final = (
    flower.Bulyan,
    flower.FedMedian,
    flower.FedTrimmedAvg,
    flower.FedXgbBagging,
    flower.FedXgbCyclic,
    flower.Krum,
    flower.MultiKrum,
    flower.QFedAvg,
)
ADDS_NOISE: Final = (
    flower.DifferentialPrivacyClientSideAdaptiveClipping,
    flower.DifferentialPrivacyClientSideFixedClipping,
    flower.DifferentialPrivacyServerSideAdaptiveClipping,
    flower.DifferentialPrivacyServerSideFixedClipping,
)


def given_strategy(
    strategy: flower.Strategy, *, fraction: float = 1.0, min_sites: int = 2
) -> GivenStep:
    """A run's algorithm from a strategy of Flower's.

    Args:
        strategy: one that begins with the mean of the replies; it is used by one run at a time.
        fraction: share of the sites that a round invites.
        min_sites: a round with fewer replies ends the run.

    Raises:
        ConfigError: it needs single replies, or adds noise of its own.
    """
    name = type(strategy).__qualname__
    if isinstance(strategy, NEEDS_REPLIES):
        raise ConfigError(
            [f"strategy={name}: needs every single reply, and a run has their mean alone"]
        )
    if isinstance(strategy, ADDS_NOISE):
        raise ConfigError(
            [f"strategy={name}: its noise is in no plan and no ledger; choose privacy=client"]
        )
    return give(step_of(strategy), name=name, fraction=fraction, min_sites=min_sites)


def algorithm_of(given: Any) -> Any:
    """What was given as a run's strategy, as the settings of one; a name stays what it is.

    An object of a class of one's own (`fedlearn.algorithms.Algorithm`) makes it an option.

    Raises:
        ConfigError: it is a strategy of Flower's that a run has no place for.
    """
    if isinstance(given, flower.Strategy):
        return given_strategy(given)
    if isinstance(given, Algorithm):
        ALGORITHMS.add(type(given))
    return given


def step_of(strategy: flower.Strategy) -> Step:
    """What `strategy` makes of the mean of a round; arrays that it carries on are the state."""
    wanted = [getattr(strategy, f"min_{what}_nodes", 1) for what in ("train", "available")]
    nodes = cast(Grid, _Nodes(max(1, *wanted)))

    def step(mean: RoundMean, state: State) -> tuple[Vector, State]:
        _restore(strategy, state)
        before = arrays_of(mean.before)
        sent = list(strategy.configure_train(mean.number, before, ConfigRecord(), nodes))
        content = RecordDict(
            {"arrays": arrays_of(mean.model), "metrics": MetricRecord({WEIGHT: 1.0})}
        )
        reply = Message(content, reply_to=set_message_id(sent[0], "mean"))
        arrays, _ = strategy.aggregate_train(mean.number, [reply])
        if arrays is None:
            raise ConfigError(
                [f"strategy={type(strategy).__qualname__}: makes no model of one reply, the mean"]
            )
        return vector_of(arrays), dict(_arrays(strategy))

    return step


class _Nodes:
    """What a strategy asks of a grid: who is there. As many as it waits for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_node_ids(self) -> list[int]:
        """Their ids."""
        return list(range(1, 1 + self.count))


def _arrays(strategy: flower.Strategy) -> Iterator[tuple[str, NDArray[Any]]]:
    """The attributes that are arrays, lists or dictionaries of arrays: `name/key`."""
    for name, value in vars(strategy).items():
        match value:
            case np.ndarray():
                yield name, value
            case dict():
                held = {f"{name}/{key}": array for key, array in value.items()}
                yield from ((key, a) for key, a in held.items() if isinstance(a, np.ndarray))
            case list():
                held = {f"{name}/#{i}": array for i, array in enumerate(value)}
                yield from ((key, a) for key, a in held.items() if isinstance(a, np.ndarray))


def _restore(strategy: flower.Strategy, state: State) -> None:
    """Give a strategy back what `_arrays` took from it."""
    held: dict[str, dict[str, NDArray[Any]]] = {}
    for key, array in state.items():
        name, _, inner = key.partition("/")
        held.setdefault(name, {})[inner] = array
    for name, arrays in held.items():
        value: Any = arrays
        if "" in arrays:
            value = arrays[""]
        elif all(key.startswith("#") for key in arrays):
            value = [arrays[f"#{i}"] for i in range(len(arrays))]
        setattr(strategy, name, value)
