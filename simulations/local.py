"""Engine `local`: the real ServerApp and ClientApp in one process, without Ray and without sockets.

A grid hands every message straight to the ClientApp of its node, one after
another, and returns the replies in the order of the messages.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedlearn import flower_private

log = logging.getLogger(__name__)

FIRST_NODE = 1000
"""Node ids of the sites; only their order means something."""


class InProcessGrid(Grid):
    """A grid whose nodes are `contexts` in this process.

    A subclass because `Grid` is the seam that Flower's strategies and apps are
    written against. `lost` names the messages that get no answer: the way for
    tests to let a site fall silent.
    """

    def __init__(
        self,
        app: ClientApp,
        contexts: Mapping[int, Context],
        *,
        lost: Callable[[Message], bool] = lambda message: False,
    ) -> None:
        self.app, self.contexts, self.lost = app, contexts, lost
        self._run = flower_private.new_run(run_id=1)
        self._ids = itertools.count(1)
        self._replies: dict[str, Message] = {}

    def set_run(self, run: flower_private.FlowerRun) -> None:
        """Take over Flower's description of the run."""
        self._run = run

    @property
    def run(self) -> flower_private.FlowerRun:
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
        """Run the ClientApp on every message, now and in order."""
        ids = []
        for message in messages:
            message_id = f"message-{next(self._ids)}"
            flower_private.set_message_id(message, message_id)
            if not self.lost(message):
                self._replies[message_id] = self._answer(message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to `message_ids`, each once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The replies, in the order of `messages`; `timeout` never strikes, all have answered."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            context = self.contexts[message.metadata.dst_node_id]
            reply = self.app(flower_private.separate(message), context)
        except Exception as error:
            log.exception("the ClientApp failed")
            reply = flower_private.error_reply(message, f"{type(error).__name__}: {error}")
        return flower_private.set_message_id(reply, f"reply-{next(self._ids)}")


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


def run_locally(
    server: ServerApp,
    client: ClientApp,
    *,
    sites: int,
    run_config: dict[str, bool | float | int | str],
    only: int | None = None,
) -> None:
    """Run both apps to the end in this process; with `only`, that partition's site by itself."""
    contexts = make_contexts(sites, run_config)
    if only is not None:
        contexts = {FIRST_NODE + only: contexts[FIRST_NODE + only]}
    grid = InProcessGrid(client, contexts)
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    server(grid, context)
