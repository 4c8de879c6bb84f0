"""Everything between a coordinator and its sites, in the hands of a test.

A relay is Flower's network: it sees, changes, withholds and repeats whatever passes.
The apps at both ends are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Message, RecordDict

from clients.app import app as client
from clients.records import simulated_sites
from fedlearn.config import RunConfig, compose
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import large_bytes, read_large_bytes, read_small_bytes, small_bytes
from server.enrol import enrol, plan_for, secagg_driver
from server.federation import Federation
from server.run_state import Progress
from simulations.engines.local import FIRST_NODE, InProcessGrid, make_contexts

RUN_ID = bytes(range(16))
Step = tuple[str, str]
"""What is asked (`train`, `evaluate`, `share`, ...) and of which site."""


def config_of(out: Path, *overrides: str) -> RunConfig:
    """The heart experiment over two rounds, without privacy, but for what is given."""
    return replace(_composed(overrides), out=str(out))


@lru_cache
def _composed(overrides: tuple[str, ...]) -> RunConfig:
    return compose(["experiment=medical_heart", "rounds=2", "privacy=none", *overrides])


def kind_of(message: Message) -> str:
    """The step that a message belongs to, in one word."""
    return message.metadata.message_type.removeprefix("query.").removeprefix("secagg_")


class Relay(InProcessGrid):
    """`on_request` and `on_reply` return what travels on, or None where it is withheld.

    A withheld message is silence, or Flower's report of a lost node if `reports`.
    """

    def __init__(self, config: RunConfig, *, reports: bool = False) -> None:
        self.names = list(simulated_sites(config))
        contexts = make_contexts(len(self.names), flower.run_config_of(config))
        super().__init__(client, contexts)
        self.reports = reports
        self.on_request: Callable[[Step, Message], Message | None] = lambda step, message: message
        self.on_reply: Callable[[Step, Message], Message | None] = lambda step, message: message
        self.carried: list[bytes] = []
        """The bytes of everything that passed, as it passed."""
        self.asked: list[Step] = []
        """What reached a site."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            private.set_message_id(message, f"message-{next(self._ids)}")
            ids.append(message.metadata.message_id)
            reply = self._carry(message)
            if reply is None and self.reports:
                reply = private.error_reply(message, "the node is gone")
            if reply is not None:
                self._replies[ids[-1]] = reply
        return ids

    def _carry(self, message: Message) -> Message | None:
        step = (kind_of(message), self.names[message.metadata.dst_node_id - FIRST_NODE])
        self.carried.append(private.content_to_bytes(message.content))
        request = self.on_request(step, message)
        if request is None:
            return None
        self.asked.append(step)
        reply = self._answer(request)
        if not reply.has_error():
            self.carried.append(private.content_to_bytes(reply.content))
        return self.on_reply(step, reply)

    def lose(self, *steps: Step, late: bool = False) -> None:
        """Withhold these requests, or their replies: a site that is gone, or late."""
        gone = set(steps)
        keep = lambda step, message: None if step in gone else message  # noqa: E731
        self.on_request, self.on_reply = (self.on_request, keep) if late else (keep, self.on_reply)


def federate(config: RunConfig, relay: Relay) -> Federation:
    """The coordinator's real objects, with little patience."""
    enrolment = enrol(relay, config, lambda: False, RUN_ID)
    plan = plan_for(config, enrolment)
    enrolment.grid.timeout = 0.05
    summing = secagg_driver(enrolment, config, plan, RUN_ID)
    progress = Progress([], enrolment.initial)
    return Federation(config, plan, enrolment, progress, RUN_ID.hex(), summing)


def blob_of(content: RecordDict) -> tuple[str, bytes]:
    """The one record of bytes in a protected message: its name and the bytes."""
    for name in ("sealed", "contribution"):
        if (data := read_large_bytes(content, name)) is not None:
            return name, data
    data = read_small_bytes(content, "secagg")
    assert data is not None
    return "secagg", data


def with_blob(message: Message, change: Callable[[bytes], bytes]) -> Message:
    """The message with its protected bytes changed."""
    name, data = blob_of(message.content)
    changed = change(data)
    record = (
        RecordDict({name: large_bytes(name, changed)})
        if name != "secagg"
        else small_bytes(name, changed)
    )
    return private.with_content(message, RecordDict({**message.content, **record}))


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit flipped; counted from the end where negative."""
    bit %= 8 * len(data)
    changed = np.frombuffer(data, np.uint8).copy()
    changed[bit // 8] ^= 1 << bit % 8
    return changed.tobytes()
