"""What is on its way between a run and its sites: whole messages, one at a time to each.

Used inside the SuperLink's process, by `server.relay`. Everything is done by calling the
functions behind Flower's API, so who may do what, what is stored and what is counted is
decided there. Two rules are ours:

- A message counts as delivered when its answer has come. A site that asks again
  without having answered gets the same message again: an answer of ours may have been
  lost with its connection.
- A new message to a site makes void what it has not answered: nobody waits for that any
  more, so it should cost no site a training round.

Uses private names of flwr 1.41 and 1.42; `tests/server/test_relay.py` fails loudly when
one of them changes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from starlette.concurrency import run_in_threadpool

from fedlearn.flower_parcel import names_in
from fedlearn.parcel import INLINE, Parcel

HOLD_SECONDS: Final = 2.0
"""How long a question is held; also how soon a site that was told to end does so."""

LOOK_SECONDS: Final = 0.25
"""How soon a held question is looked at again though nobody rang: Flower's own paths do not."""

MOST_TIMES: Final = 3
"""How often a message that is not answered is given out: one that ends its reader must not
do so for ever."""

Found = TypeVar("Found")


class Bell:
    """Wakes those who wait for something; used on one event loop."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Something has changed."""
        self._rung.set()
        self._rung = asyncio.Event()

    async def until(
        self, look: Callable[[], Found | None], wanted: Callable[[], bool] = lambda: True
    ) -> Found | None:
        """What `look` finds, or None after `HOLD_SECONDS`, or once it is not `wanted` any more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HOLD_SECONDS
        while wanted():
            rung = self._rung
            found = await run_in_threadpool(look)
            left = deadline - loop.time()
            if found is not None or left <= 0:
                return found
            with suppress(TimeoutError):
                await asyncio.wait_for(rung.wait(), min(left, LOOK_SECONDS))
        return None


@dataclass
class Handed:
    """A message that was given to a node; `times` says how often, `visit` when last."""

    answer: PullMessagesResponse
    run_id: int
    times: int
    visit: int

    @property
    def message_id(self) -> str:
        """The message's id, which is also that of its tree."""
        return str(self.answer.messages_list[0].metadata.message_id)


@dataclass
class Post:
    """What is on its way; one per SuperLink."""

    sites: Bell = field(default_factory=Bell)
    run: Bell = field(default_factory=Bell)
    # A message and its objects are stored in several steps: nobody may see half of them.
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _handed: dict[int, Handed] = field(default_factory=dict)
    _visits: dict[int, int] = field(default_factory=dict)

    def visit(self, node: int) -> int:
        """A node asks: whoever asked in its name before has lost its connection."""
        self._visits[node] = self._visits.get(node, 0) + 1
        return self._visits[node]

    def is_last(self, node: int, visit: int) -> bool:
        """Whether the node has not asked again since."""
        return self._visits.get(node) == visit

    # --- Sites --------------------------------------------------------------------

    def next_for(self, asked: PullMessagesRequest, visit: int, state: LinkState) -> Parcel | None:
        """The message that a node should answer next, or None."""
        node = int(asked.node.node_id)
        with self._turn:
            handed = self._handed.get(node)
            if handed is None or not self._again(handed, visit, state):
                answer = fleet_handlers.pull_messages(asked, state, state.object_store)
                if not answer.messages_list:
                    return None
                run_id = int(answer.messages_list[0].metadata.run_id)
                handed = Handed(answer=answer, run_id=run_id, times=0, visit=visit)
                self._handed[node] = handed
            handed.times, handed.visit = handed.times + 1, visit
            objects, _ = _inline(handed.answer.message_object_trees, handed.run_id, state)
            return Parcel(handed.answer.SerializeToString(), tuple(objects))

    def _again(self, handed: Handed, visit: int, state: LinkState) -> bool:
        """Whether the message has to be given out once more."""
        if handed.visit == visit or handed.times >= MOST_TIMES:
            return False
        # A site that has fetched a large message whole has told Flower to remove its objects.
        return state.get_object(handed.run_id, handed.message_id) is not None

    def answered(
        self, head: PushMessagesRequest, objects: Iterable[bytes], state: LinkState
    ) -> bytes:
        """Take in a node's answer; what is still missing is in Flower's own reply to it."""
        node = int(head.node.node_id)
        with self._turn:
            answer = fleet_handlers.push_messages(head, state)
            run_id = int(head.messages_list[0].metadata.run_id)
            missing = set(answer.objects_to_push)
            for content in objects:
                name = get_object_id(content)
                if name in missing:
                    missing.discard(name)
                    pushed = PushObjectRequest(
                        node=head.node, run_id=run_id, object_id=name, object_content=content,
                        session_id=answer.session_id,
                    )  # fmt: skip
                    fleet_handlers.push_object(pushed, state)
            handed = self._handed.get(node)
            if handed and handed.message_id == head.messages_list[0].metadata.reply_to_message_id:
                self._withdraw(node, state)
        del answer.objects_to_push[:]
        answer.objects_to_push.extend(missing)
        return bytes(answer.SerializeToString())

    def _withdraw(self, node: int, state: LinkState) -> None:
        handed = self._handed.pop(node, None)
        if handed is not None:
            state.object_store.delete(handed.message_id)

    # --- The run ------------------------------------------------------------------

    def sent(
        self,
        head: PushAppMessagesRequest,
        objects: Iterable[bytes],
        state: LinkState,
        task: Task,
    ) -> bytes:
        """Take in messages to nodes; what they have not answered before is void."""
        with self._turn:
            for message in head.messages_list:
                self._make_void(int(message.metadata.dst_node_id), int(task.run_id), state)
            answer = runtime_handlers.push_messages(head, state, task)
            missing = set(answer.objects_to_push)
            for content in objects:
                name = get_object_id(content)
                if name in missing:
                    missing.discard(name)
                    state.store_object(task.run_id, answer.session_id, name, content)
        del answer.objects_to_push[:]
        answer.objects_to_push.extend(missing)
        return bytes(answer.SerializeToString())

    def _make_void(self, node: int, run_id: int, state: LinkState) -> None:
        old = {m.metadata.message_id for m in state.get_message_ins(node, None, run_id=run_id)}
        if handed := self._handed.get(node):
            old.add(handed.message_id)
        self._withdraw(node, state)
        for name in old:
            state.object_store.delete(name)
        state.delete_messages(old)

    def collected(
        self, asked: PullAppMessagesRequest, state: LinkState, task: Task
    ) -> Parcel | None:
        """The replies that have come, or None; those that are in the parcel whole are removed."""
        with self._turn:
            answer = runtime_handlers.pull_messages(asked, state, task)
            if not answer.messages_list:
                return None
            trees = answer.message_object_trees
            objects, whole = _inline(trees, int(task.run_id), state)
            for tree in whole:
                state.object_store.delete(tree.object_id)
        return Parcel(answer.SerializeToString(), tuple(objects))


def _inline(
    trees: Iterable[ObjectTree], run_id: int, state: LinkState
) -> tuple[list[bytes], list[ObjectTree]]:
    """Objects of trees as far as they are there and fit, and the trees that are there whole."""
    found, whole, room = dict[str, bytes](), list[ObjectTree](), INLINE
    for tree in trees:
        complete = True
        for name in names_in([tree]):
            if name in found:
                continue
            content = state.get_object(run_id, name)
            if content and len(content) <= room:
                found[name], room = content, room - len(content)
            else:
                complete = False
        if complete:
            whole.append(tree)
    return list(found.values()), whole
