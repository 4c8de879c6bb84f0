"""What a strategy of Flower's, or a subclass of one, makes of a mean and of nothing else.

In an app of Flower's own under `fedlearn.flower.secure` it gets the mean of a round in the place
of the replies: `averaging_problems` says what would get wrong numbers out of that.

In a run of ours it is the step at the coordinator (`given_strategy`). One that begins with the
mean of the replies works: it gets one reply, which is that mean, after masks, noise and all. So
what it does with the mean is done; what else a strategy may do is not:

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
from fedlearn.flower.apps.protection import Protection
from fedlearn.flower.messages import WEIGHT
from fedlearn.flower.private import average_of_metrics, set_message_id
from fedlearn.flower.records import arrays_of, vector_of

AS_RULES: Final = {
    flower.Bulyan: "robust=bulyan",
    flower.FedMedian: "robust=median",
    flower.FedTrimmedAvg: "robust=trimmed_mean",
    flower.Krum: "robust=krum",
    flower.MultiKrum: "robust=krum (and robust.selected)",
}
"""Strategies of Flower's against poisoning, and the rule of a run that is the same arithmetic."""
NEEDS_REPLIES: Final = (
    *AS_RULES,
    flower.FedXgbBagging,
    flower.FedXgbCyclic,
    flower.QFedAvg,
)
ADDS_NOISE: Final = (
    flower.DifferentialPrivacyClientSideAdaptiveClipping,
    flower.DifferentialPrivacyClientSideFixedClipping,
    flower.DifferentialPrivacyServerSideAdaptiveClipping,
    flower.DifferentialPrivacyServerSideFixedClipping,
)

_AVERAGING: Final = tuple(
    kind.aggregate_train
    for kind in (
        flower.FedAvg,
        flower.FedAvgM,
        flower.FedAdagrad,
        flower.FedAdam,
        flower.FedYogi,
    )
)
"""The aggregations of Flower's that look at nothing but the weighted mean."""


def nodes_wanted(strategy: flower.Strategy, protection: Protection) -> int:
    """The fewest nodes that the strategy, or what its sums must hide among, waits for."""
    asked = [getattr(strategy, f"min_{what}_nodes", 0) for what in ("available", "train")]
    return max(protection.min_cohort if protection.masked else 1, *asked)


def averaging_problems(
    strategy: flower.Strategy, protection: Protection, averages: bool
) -> list[str]:
    """Why a strategy would get wrong numbers out of a mean, where its user does not deny it."""
    name, found = type(strategy).__name__, []
    key = getattr(strategy, "weighted_by_key", protection.weighted_by)
    if protection.masked and key != protection.weighted_by:
        found.append(
            f"{name}(weighted_by_key={key!r}): the sum weighs by "
            f"protection.weighted_by={protection.weighted_by!r}; set both to the same"
        )
    if not protection.masked or averages:
        return found
    if type(strategy).aggregate_train not in _AVERAGING:
        found.append(
            f"{name}: needs every site's update, and under masks there is only their weighted "
            "mean. Choose FedAvg, FedProx, FedAvgM, FedAdam, FedYogi or FedAdagrad; or set "
            "Protection(masked=False) on both sides, and the server sees every update; or, if "
            f"{name} is your own and uses nothing but the mean, set secure(averages=True)"
        )
    for what in ("train", "evaluate"):
        own = getattr(strategy, f"{what}_metrics_aggr_fn", average_of_metrics)
        if own is not average_of_metrics and protection.sums(what):
            found.append(
                f"{name}({what}_metrics_aggr_fn=...): would get the mean of the metrics alone. "
                "Leave it out, or if it only averages, set secure(averages=True)"
            )
    return found


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
            f"strategy={name}: needs every single reply, and a run has their mean alone"
            f"{_as_rule(strategy)}"
        )
    if isinstance(strategy, ADDS_NOISE):
        raise ConfigError(
            f"strategy={name}: its noise is in no plan and no ledger; choose privacy=client"
        )
    return give(step_of(strategy), name=name, fraction=fraction, min_sites=min_sites)


def _as_rule(strategy: flower.Strategy) -> str:
    """What does the same, where there is one."""
    rule = next((rule for kind, rule in AS_RULES.items() if type(strategy) is kind), "")
    return f". {rule} is the same of Flower's, where updates come one by one" if rule else ""


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
                f"strategy={type(strategy).__qualname__}: makes no model of one reply, the mean"
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
