"""Engine `local`: the real ServerApp and ClientApp on one machine, without Ray and without sockets.

A grid hands every message to the ClientApp of its node, in this process or in
one of its workers (`simulations.engines.worker_pool`), and returns the replies in the order of
the messages. Where a site is answered for changes nothing of the answer.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedlearn.config import RunConfig
from fedlearn.config.engine import LocalEngine
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import size_of
from fedlearn.training.device import CPU, Device, device_of, gpus, keep_freed_memory, touched
from fedlearn.training.settings import Training
from simulations.engines.forks import at_a_time, cores
from simulations.engines.worker_pool import Died, Done, Job, Outcome, WorkerPool

log = logging.getLogger(__name__)

FIRST_NODE = 1000
"""Node ids of the sites; only their order means something."""

PAYS: Final = 2e6
"""Samples of a site's round times parameters from which workers are worth their start: some 20 ms.

An estimate and not a measurement, so that the same run starts the same processes.
"""

NO_FORK: Final = (
    "one process answers for all sites, where %d were meant to: this one has used the driver of a "
    "GPU (to count the slices of a divided one, it must), and no process that is forked from it "
    "could. engine=ray starts processes of its own"
)

HEAVY: Final = ("train", "evaluate")
"""Messages that take as long as the records of a site are many."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who answers: `workers` processes, or this one alone.

    They start with the first round in which a site has `pays` to do; or,
    `at_once`, before anything is computed here: torch must not have used
    threads of its own, or a GPU, before a fork that will use them. `work` says how
    many samples a round takes at a node.
    """

    workers: int = 1
    pays: float = PAYS
    at_once: bool = False
    work: Callable[[int], float] = lambda node: 0.0
    device: Device = "auto"


class InProcessGrid(Grid):
    """A grid whose nodes are `contexts` in this process.

    A subclass because `Grid` is the seam that Flower's strategies and apps are
    written against. `lost` names the messages that get no answer: the way for
    tests to let a site fall silent.
    """

    window = 64
    """A grid of named sites asks so many at a time: replies need not be held for all."""

    def __init__(
        self,
        app: ClientApp,
        contexts: Mapping[int, Context],
        *,
        lost: Callable[[Message], bool] = lambda message: False,
        staff: Workers | None = None,
    ) -> None:
        self.app, self.contexts, self.lost = app, contexts, lost
        self._staff, self._pool = staff or Workers(), WorkerPool(self._answer_from)
        self._run = private.new_run(run_id=1)
        self._ids = itertools.count(1)
        self._replies: dict[str, Message] = {}
        self._reported = False

    def set_run(self, run: private.FlowerRun) -> None:
        """Take over Flower's description of the run."""
        self._run = run

    @property
    def run(self) -> private.FlowerRun:
        """Flower's description of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Deprecated by Flower; kept because the interface has it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, in the order of their partition."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the ClientApp on every message, now."""
        pushed = list(messages)
        for message in pushed:
            private.set_message_id(message, f"message-{next(self._ids)}")
        asked = [message for message in pushed if not self.lost(message)]
        for message, reply in zip(asked, self._answers(asked), strict=True):
            self._replies[message.metadata.message_id] = reply
        return [message.metadata.message_id for message in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to `message_ids`, each once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The replies, in the order of `messages`; `timeout` never strikes, all have answered."""
        return self.pull_messages(self.push_messages(messages))

    def close(self) -> None:
        """End the workers, if there are any."""
        self._pool.close()

    def _answers(self, messages: Sequence[Message]) -> list[Message]:
        if not self._pool.forked and self._pays(messages):
            self._pool.fork(self._staff.workers)
        tasks = [self._task(message) for message in messages]
        return [
            # Here, where there are no workers or none is left.
            self._answer(message) if outcome is None else self._reply(message, outcome)
            for message, outcome in zip(messages, self._pool.outcomes(tasks), strict=True)
        ]

    def _pays(self, messages: Sequence[Message]) -> bool:
        """Whether to start workers for `messages`."""
        if self._staff.workers == 1 or len(messages) == 1:
            return False
        heavy = [m for m in messages if m.metadata.message_type in HEAVY]
        works = [size_of(m) / 4 * self._staff.work(m.metadata.dst_node_id) for m in heavy]
        pays = self._staff.at_once or max(works, default=-1.0) >= self._staff.pays
        if not pays or not touched(self._staff.device):
            return pays
        if heavy and not self._reported:  # before the first of them no run has a log
            log.warning(NO_FORK, self._staff.workers)
            self._reported = True
        return False

    def _task(self, message: Message) -> Job:
        node = message.metadata.dst_node_id
        return Job(message, self.contexts[node].state, self._staff.work(node))

    def _reply(self, message: Message, outcome: Outcome) -> Message:
        match outcome:
            case Done():
                if outcome.state is not None:
                    self.contexts[message.metadata.dst_node_id].state = outcome.state
                reply = outcome.reply
            case Died():
                log.error("%s", outcome.reason)
                reply = private.error_reply(message, outcome.reason)
        return private.set_message_id(reply, f"reply-{next(self._ids)}")

    def _answer_from(self, message: Message, state: RecordDict) -> tuple[Message, RecordDict]:
        """In a worker: the answer of a site that remembers `state`."""
        context = self.contexts[message.metadata.dst_node_id]
        context.state = state
        return self._answer(message), context.state

    def _answer(self, message: Message) -> Message:
        try:
            context = self.contexts[message.metadata.dst_node_id]
            reply = self.app(private.separate(message), context)
        except Exception as error:
            log.exception("the ClientApp failed")
            reply = private.error_reply(message, f"{type(error).__name__}: {error}")
        return private.set_message_id(reply, f"reply-{next(self._ids)}")


def make_contexts(
    sites: int, run_config: dict[str, bool | float | int | str]
) -> dict[int, Context]:
    """One fresh context per site, as Flower's simulation would make them."""
    return {
        FIRST_NODE + i: Context(
            run_id=1,
            node_id=FIRST_NODE + i,
            node_config={"partition-id": i, "num-partitions": sites},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        for i in range(sites)
    }


def workers_of(engine: LocalEngine, training: Training, sizes: Sequence[int]) -> Workers:
    """Who answers for sites with `sizes` training records."""
    # A run of a comparison shares the cores with its fellows; where there is no fork, one works.
    alone = multiprocessing.parent_process() is not None or sys.platform != "linux"
    fits = at_a_time(cores() // engine.threads, training.device)
    asked = fits if engine.workers == "auto" else engine.workers
    workers = 1 if alone else min(asked, len(sizes))
    # Though it trains on the CPU: its first backward pass starts torch's threads for the GPU.
    beside_gpu = device_of(training.device) != CPU or gpus() > 0
    return Workers(
        workers=workers,
        pays=PAYS if engine.workers == "auto" else 0.0,
        at_once=workers > 1 and (engine.threads > 1 or beside_gpu),
        work=lambda node: samples_of_round(training, sizes[node - FIRST_NODE]),
        device=training.device,
    )


def samples_of_round(training: Training, records: int) -> float:
    """How many samples a site with so many records trains on between two rounds."""
    return training.local_steps * max(1.0, training.sample_rate * records)


def run_apps(
    server: ServerApp,
    client: ClientApp,
    nodes: int,
    run_config: dict[str, bool | float | int | str],
) -> None:
    """Run two Flower apps of any kind to the end in this process, with so many nodes."""
    grid = InProcessGrid(client, make_contexts(nodes, run_config))
    state = RecordDict()
    server(grid, Context(1, 1, node_config={}, state=state, run_config=dict(run_config)))


def run_locally(
    server: ServerApp,
    client: ClientApp,
    config: RunConfig,
    engine: LocalEngine,
    *,
    sizes: Sequence[int],
    only: int | None = None,
) -> None:
    """Run both apps to the end on this machine, for one site for each of `sizes`.

    With `only`, that partition's site by itself.
    """
    keep_freed_memory()
    run_config = flower.run_config_of(config)
    contexts = make_contexts(len(sizes), run_config)
    if only is not None:
        contexts = {FIRST_NODE + only: contexts[FIRST_NODE + only]}
    grid = InProcessGrid(client, contexts, staff=workers_of(engine, config.training, sizes))
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    try:
        server(grid, context)
    finally:
        grid.close()
