"""Small Flower apps that are not ours: what tests of the protection run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Result, Strategy
from numpy.typing import NDArray

from fedlearn.flower import Protection, private, protect, secure
from fedlearn.flower.apps.mod import SiteMod
from fedlearn.flower.apps.protection import STANDARD
from simulations.engines.local import InProcessGrid, make_contexts

Arrays = Mapping[str, NDArray[Any]]
Change = Callable[[RecordDict, Context], RecordDict]

START: Arrays = {
    "weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "bias": np.zeros(3, np.float32),
    "batches": np.array(7, np.int64),
}
"""The model that all runs start from: floats of two shapes, and a counter without one."""


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})


def numbers(arrays: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in arrays.items()}


def partition(context: Context) -> int:
    return int(str(context.node_config["partition-id"]))


def moved(arrays: Arrays, site: int) -> dict[str, NDArray[Any]]:
    """What site number `site` makes of a model: every value by an amount of its own."""
    return {
        "weight": arrays["weight"] + np.float32(0.01 * (site + 1)) * np.arange(12).reshape(3, 4),
        "bias": arrays["bias"] - np.float32(0.125 * site),
        "batches": np.asarray(np.rint(arrays["batches"]) + 3 + site, np.int64),
    }


@dataclass
class Seen:
    """What the app of every node was asked for."""

    trained: list[int] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    counters: list[str] = field(default_factory=list)
    """In which type the model's whole numbers came."""


def make_client(
    mod: SiteMod | None = None,
    *,
    seen: Seen | None = None,
    train: Change = lambda content, context: content,
    evaluate: Change = lambda content, context: content,
) -> ClientApp:
    """An app without torch; `train` and `evaluate` may change what it replies."""
    app, seen = ClientApp(mods=[mod] if mod else []), seen or Seen()

    @app.train()
    def fit(message: Message, context: Context) -> Message:
        site = partition(context)
        seen.trained.append(site)
        came = numbers(message.content.array_records["arrays"])
        seen.counters.append(came["batches"].dtype.name)
        arrays = moved(came, site)
        metrics = {"train_loss": 1.5 - 0.25 * site, "curve": [0.5 * site, 2.0]}
        weighed = MetricRecord({**metrics, "num-examples": 10 + 5 * site})
        content = RecordDict({"arrays": record(arrays), "metrics": weighed})
        return Message(train(content, context), reply_to=message)

    @app.evaluate()
    def test(message: Message, context: Context) -> Message:
        site = partition(context)
        seen.evaluated.append(site)
        metrics = MetricRecord({"eval_acc": 0.5 + site / 100, "num-examples": 4 + site})
        return Message(evaluate(RecordDict({"metrics": metrics}), context), reply_to=message)

    return app


@dataclass
class Listener:
    """Every message and reply that crosses the grid, as anybody on the way would see them."""

    sent: list[Message] = field(default_factory=list)
    came: list[Message] = field(default_factory=list)


class TappedGrid(InProcessGrid):
    """The in-process grid with a listener; `drop` loses messages, by node and number of push."""

    def __init__(self, app: ClientApp, nodes: int, **node_config: str) -> None:
        contexts = make_contexts(nodes, {})
        for context in contexts.values():
            context.node_config.update(node_config)
        self.ear, self.pushes = Listener(), 0
        self.drop: Callable[[int, Message], bool] = lambda push, message: False
        super().__init__(app, contexts, lost=lambda message: self.drop(self.pushes, message))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed, self.pushes = list(messages), self.pushes + 1
        self.ear.sent += pushed
        return super().push_messages(pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        arrived = list(super().pull_messages(message_ids))
        self.ear.came += arrived
        return arrived


# Where in a first round of training a push is: 1 and 2 enrol.
PUSH_OF = {"advertise": 3, "share": 4, "mask": 5, "agree": 6, "unmask": 7}


def lose(grid: TappedGrid, step: str, *sites: int) -> None:
    """From `step` of the first round on, some sites hear nothing any more."""
    gone = {node for i, node in enumerate(grid.contexts) if i in sites}
    grid.drop = lambda push, message: push >= PUSH_OF[step] and message.metadata.dst_node_id in gone


def run(
    grid: Grid,
    strategy: Strategy | None = None,
    protection: Protection | None = None,
    *,
    rounds: int = 1,
    **more: Any,
) -> Result:
    """What a ServerApp does with a strategy; without `protection` on the bare grid."""
    strategy = strategy or FedAvg()
    if protection is not None:
        more.setdefault("step_seconds", 0.2)
        grid = secure(grid, strategy, protection, **more)
    results: list[Result] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(
            strategy.start(grid, record(START), num_rounds=rounds, timeout=0.2 if more else 5)
        )

    private.new_run(run_id=1)
    app(grid, Context(1, 1, node_config={}, state=RecordDict(), run_config={}))
    return results[0]


def protected(
    nodes: int = 5,
    protection: Protection = STANDARD,
    *,
    strategy: Strategy | None = None,
    rounds: int = 1,
    mod: SiteMod | None = None,
    **client: Any,
) -> Result:
    """A whole run of the small app under one protection."""
    app = make_client(mod or protect(protection), **client)
    return run(TappedGrid(app, nodes), strategy, protection, rounds=rounds)


def plain(nodes: int = 5, *, strategy: Strategy | None = None, rounds: int = 1) -> Result:
    """The same run, without any."""
    return run(TappedGrid(make_client(), nodes), strategy, rounds=rounds)
