"""Scripted sites: real messages, grid and strategies, without data and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedlearn.config import RunConfig, compose
from fedlearn.flower import messages as flower
from fedlearn.privacy import Event
from fedlearn.rounds import Description, EvaluateReply, Hello, TrainReply
from fedlearn.tasks import ClassificationTask, TableInput
from simulations.engines.local import InProcessGrid, make_contexts

TASK = ClassificationTask(input=TableInput(numeric=2), classes=("no", "yes"))
NAMES = ("delta", "alpha", "charlie", "bravo")
"""Names of the sites in the order of their nodes: not the order of the names."""


def make_config(*overrides: str) -> RunConfig:
    base = ["model.architecture=linear", "rounds=3", "privacy=none", "reply_timeout=0.1"]
    return compose([*base, "secagg=off", *overrides])  # sites answer in clear


@dataclass
class Parties:
    """Sites whose answers a test writes; by default site i adds i + 1 to the model."""

    config: RunConfig
    event: Event | None = None
    """What a round costs at a site."""
    on_train: dict[str, Callable[[Message], RecordDict]] = field(default_factory=dict)
    on_afford: dict[str, Callable[[Message], RecordDict]] = field(default_factory=dict)
    on_evaluate: dict[str, Callable[[RecordDict], RecordDict]] = field(default_factory=dict)
    """What a site makes of its honest answer."""
    on_hello: dict[str, Callable[[], RecordDict]] = field(default_factory=dict)
    on_describe: dict[str, Callable[[], RecordDict]] = field(default_factory=dict)
    lost: set[tuple[str, str]] = field(default_factory=set)
    """(kind of message, site): what gets no answer."""
    spent: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    tested: list[str] = field(default_factory=list)

    def grid(self) -> InProcessGrid:
        app = ClientApp()
        app.query("hello")(self._hello)
        app.query("describe")(self._describe)
        app.query("afford")(self._afford)
        app.train()(self._train)
        app.evaluate()(self._evaluate)
        contexts = make_contexts(len(NAMES), flower.run_config_of(self.config))
        return InProcessGrid(app, contexts, lost=self._is_lost)

    def _is_lost(self, message: Message) -> bool:
        name = NAMES[message.metadata.dst_node_id - 1000]
        return (message.metadata.message_type.split(".")[0], name) in self.lost

    def _hello(self, message: Message, context: Context) -> Message:
        name = NAMES[int(context.node_config["partition-id"])]
        content = self.on_hello.get(name, lambda: flower.hello_reply(hello(name)))()
        return Message(content, reply_to=message)

    def _describe(self, message: Message, context: Context) -> Message:
        name = NAMES[int(context.node_config["partition-id"])]
        content = self.on_describe.get(name, lambda: flower.description_reply(description()))()
        return Message(content, reply_to=message)

    def _afford(self, message: Message, context: Context) -> Message:
        name = NAMES[int(context.node_config["partition-id"])]
        content = self.on_afford.get(name, lambda _: RecordDict())(message)
        return Message(content, reply_to=message)

    def _train(self, message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        name = NAMES[number]
        if name in self.on_train:
            return Message(self.on_train[name](message), reply_to=message)
        self.trained.append(name)
        if self.event is not None:
            self.spent[name] = (*self.spent.get(name, ()), self.event)
        model = flower.read_train_request(message).model + np.float32(number + 1)
        reply = TrainReply(site=name, model=model, weight=1.0, spent=self.spent.get(name, ()))
        return Message(flower.train_reply(reply), reply_to=message)

    def _evaluate(self, message: Message, context: Context) -> Message:
        name = NAMES[int(context.node_config["partition-id"])]
        self.tested.append(name)
        sums = TASK.sums(np.array([[0.2, 0.8], [0.7, 0.3]]), np.array([1, 1]))
        honest = flower.evaluate_reply(EvaluateReply(site=name, sums=sums))
        content = self.on_evaluate.get(name, lambda content: content)(honest)
        return Message(content, reply_to=message)


def hello(name: str) -> Hello:
    return Hello(site=name, public_key="")


def description(task: ClassificationTask = TASK) -> Description:
    return Description(
        task=task.form, data_sha256="00", train_records=5, test_records=2, real_noise=True
    )
