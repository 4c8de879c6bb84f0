"""What is on its way between a run and its sites: whole messages, one at a time to each.

Used inside the SuperLink's process, by `server.superlink.relay`. Everything is done by calling the
functions behind Flower's API, so who may do what, what is stored and what is counted is
decided there. Four rules are ours:

- A message counts as delivered when its answer has come. A site that asks again
  without having answered gets the same message again: an answer of ours may have been
  lost with its connection. It does not get what nobody waits for any more: that would cost
  it a training round.
- A new message to a site makes void what went to it before, answered or not.
- Nobody sees an answer before it is whole, whichever way its objects come: who collects it
  would wait for its sender.
- Collected replies are kept until the run asks for others: our answer may be lost, too.

Flower's own state can be asked for replies, but marks as delivered what it tells; it tells of a
reply as soon as its head has come; and it drops a message without its objects. So this looks
into it, instead of keeping books beside it that could say something else.

Uses private names of flwr 1.41 and 1.42; `tests/server/superlink/test_relay.py` fails loudly when
one of them changes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from flwr.app.metadata import Metadata
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
)
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.date import now
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

from fedlearn.flower.envelope import Capacity, Envelope
from fedlearn.flower.envelopes import names_in

HOLD_SECONDS: Final = 2.0
"""How long a question is held; also how soon a site that was told to end does so."""

LOOK_SECONDS: Final = 0.25
"""How soon a held question is looked at again though nobody notified: Flower's own paths do not."""

MOST_TIMES: Final = 3
"""How often a message that is not answered is given out: one that ends its reader must not
do so for ever."""

_THREADS: Final = 8

Found = TypeVar("Found")
Did = TypeVar("Did")


class Executor:
    """Threads for what takes turns: Flower's own calls, heartbeats above all, keep theirs."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "broker")

    async def run(self, work: Callable[[], Did]) -> Did:
        """What `work` returns."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class Notifier:
    """Wakes those who wait for something; used on one event loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def until(
        self, look: Callable[[], Found | None], wanted: Callable[[], bool] = lambda: True
    ) -> Found | None:
        """What `look` finds, or None after `HOLD_SECONDS`, or once it is not `wanted` any more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HOLD_SECONDS
        while wanted():
            event = self._event
            found = await self._executor.run(look)
            left = deadline - loop.time()
            if found is not None or left <= 0:
                return found
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), min(left, LOOK_SECONDS))
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


@dataclass(frozen=True)
class Collected:
    """Replies that were given to a run, and the messages of the run that they answer."""

    answered: frozenset[str]
    envelope: Envelope


class Broker:
    """What is on its way; one per SuperLink."""

    def __init__(self) -> None:
        self.executor = Executor()
        self.sites, self.run = Notifier(self.executor), Notifier(self.executor)
        # A message is stored in several steps: nobody may see, or take away, half of them.
        self._turn = threading.Lock()
        self._handed: dict[int, Handed] = {}
        self._visits: dict[int, int] = {}
        self._collected: Collected | None = None

    def visit(self, node: int) -> int:
        """A node asks: whoever asked in its name before has lost its connection."""
        self._visits[node] = self._visits.get(node, 0) + 1
        return self._visits[node]

    def is_last(self, node: int, visit: int) -> bool:
        """Whether the node has not asked again since."""
        return self._visits.get(node) == visit

    # --- Sites --------------------------------------------------------------------

    def next_for(
        self, asked: PullMessagesRequest, visit: int, state: InMemoryLinkState
    ) -> Envelope | None:
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
            return Envelope(handed.answer.SerializeToString(), tuple(objects))

    def _again(self, handed: Handed, visit: int, state: InMemoryLinkState) -> bool:
        """Whether the message has to be given out once more."""
        if handed.visit == visit or handed.times >= MOST_TIMES:
            return False
        if not is_waited_for(state, handed.message_id):
            return False
        # A site that has fetched a large message whole has told Flower to remove its objects.
        return state.get_object(handed.run_id, handed.message_id) is not None

    def answered(
        self, head: PushMessagesRequest, envelope: Envelope, state: InMemoryLinkState
    ) -> bytes:
        """Take in a node's answer; what is still missing is in Flower's own reply to it."""
        objects, metadata = envelope.by_id(), head.messages_list[0].metadata
        node, run_id = int(head.node.node_id), int(metadata.run_id)
        with self._turn:
            make_room(state, metadata)
            answer = fleet_handlers.push_messages(head, state)
            handed = self._handed.get(node)
            if handed and handed.message_id == metadata.reply_to_message_id:
                del self._handed[node]
                state.object_store.delete(handed.message_id)
        missing = set(answer.objects_to_push)
        for name in missing & objects.keys():
            pushed = PushObjectRequest(
                node=head.node, run_id=run_id, object_id=name, object_content=objects[name],
                session_id=answer.session_id,
            )  # fmt: skip
            if fleet_handlers.push_object(pushed, state).stored:
                missing.discard(name)
        del answer.objects_to_push[:]
        answer.objects_to_push.extend(missing)
        return bytes(answer.SerializeToString())

    # --- The run ------------------------------------------------------------------

    def sent(
        self, head: PushAppMessagesRequest, envelope: Envelope, state: InMemoryLinkState, task: Task
    ) -> bytes:
        """Take in messages to nodes; what went to these nodes before is void."""
        objects = envelope.by_id()
        with self._turn:
            self._make_void(head, state)
            answer = runtime_handlers.push_messages(head, state, task)
            missing = set(answer.objects_to_push)
            for name in missing & objects.keys():
                if state.store_object(task.run_id, answer.session_id, name, objects[name]):
                    missing.discard(name)
        del answer.objects_to_push[:]
        answer.objects_to_push.extend(missing)
        return bytes(answer.SerializeToString())

    def _make_void(self, head: PushAppMessagesRequest, state: InMemoryLinkState) -> None:
        """Forget all that nodes were sent before; a message that is repeated is not void."""
        fresh = {str(message.metadata.message_id) for message in head.messages_list}
        for node in {int(message.metadata.dst_node_id) for message in head.messages_list}:
            old = messages_to(state, node)
            if handed := self._handed.get(node):
                old.add(handed.message_id)
                if handed.message_id not in fresh:
                    del self._handed[node]
            remove(state, old - fresh)

    def collected(
        self, asked: PullAppMessagesRequest, state: InMemoryLinkState, task: Task
    ) -> Envelope | None:
        """The replies that have come whole, or None.

        Those that the envelope has room for are removed; of others their receiver says when.
        """
        run_id, wanted = int(task.run_id), frozenset(map(str, asked.message_ids))
        with self._turn:
            if self._collected and self._collected.answered & wanted:
                return self._collected.envelope
            self._collected = None
            replies = {name: reply_to(state, name) for name in wanted}
            ready = [
                name
                for name, reply in replies.items()
                if reply is None or is_whole(state, run_id, reply)
            ]
            found = PullAppMessagesRequest(message_ids=ready)
            answer = runtime_handlers.pull_messages(found, state, task)
            if not answer.messages_list:
                return None
            trees = answer.message_object_trees
            objects, whole = _inline(trees, run_id, state)
            for tree in whole:
                state.object_store.delete(tree.object_id)
            self._forget(answer, replies, state)
            envelope = Envelope(answer.SerializeToString(), tuple(objects))
            answered = (str(one.metadata.reply_to_message_id) for one in answer.messages_list)
            self._collected = Collected(frozenset(answered), envelope)
            return envelope

    def _forget(
        self,
        answer: PullAppMessagesResponse,
        replies: dict[str, str | None],
        state: InMemoryLinkState,
    ) -> None:
        """Remove the objects of messages that count as answered, as Flower has done with them.

        Flower itself answers for a node that is gone, also if that has answered.
        """
        for one in answer.messages_list:
            message_id = str(one.metadata.reply_to_message_id)
            state.object_store.delete(message_id)
            reply = replies.get(message_id)
            if reply and reply != one.metadata.message_id:
                state.object_store.delete(reply)
            for node in [n for n, h in self._handed.items() if h.message_id == message_id]:
                del self._handed[node]


def _inline(
    trees: Iterable[ObjectTree], run_id: int, state: InMemoryLinkState
) -> tuple[list[bytes], list[ObjectTree]]:
    """Objects of trees as far as they are there and fit, and the trees that are there whole."""
    found, whole, room = dict[str, bytes](), list[ObjectTree](), Capacity()
    for tree in trees:
        complete = True
        for name in names_in([tree]):
            if name in found:
                continue
            content = state.get_object(run_id, name)
            if content and room.take(content):
                found[name] = content
            else:
                complete = False
        if complete:
            whole.append(tree)
    return list(found.values()), whole


# --- what a SuperLink that keeps everything in memory knows of messages --------------


def messages_to(state: InMemoryLinkState, node: int) -> set[str]:
    """Ids of all messages to a node that the run has not collected an answer to."""
    with state.lock:
        stored = state.message_ins_store.items()
        return {name for name, one in stored if one.metadata.dst_node_id == node}


def is_waited_for(state: InMemoryLinkState, message_id: str) -> bool:
    """Whether an answer to a message can still reach its run."""
    message = state.message_ins_store.get(message_id)
    if message is None:
        return False  # collected, or counted as unanswered because its node was offline
    return message.metadata.created_at + message.metadata.ttl > now().timestamp()


def reply_to(state: InMemoryLinkState, message_id: str) -> str | None:
    """The id of the reply to a message, which may be on its way still."""
    return state.message_ins_id_to_message_res_id.get(message_id)


def is_whole(state: InMemoryLinkState, run_id: int, message_id: str) -> bool:
    """Whether all objects of a message are there.

    A reply that has been on its way for too long is forgotten by being asked for.
    """
    try:
        names = names_in([state.object_store.get_object_tree(message_id)])
    except NoObjectInStoreError:
        return False
    return all(state.get_object(run_id, name) for name in names)


def remove(state: InMemoryLinkState, message_ids: Iterable[str]) -> None:
    """Forget messages to nodes, what was answered to them, and all objects of both."""
    names = set(message_ids)
    with state.lock:
        replies = {reply for name in names if (reply := reply_to(state, name))}
        state.delete_messages(names)
    for name in names | replies:
        state.object_store.delete(name)


def make_room(state: InMemoryLinkState, answer: Metadata) -> None:
    """Forget a reply that is not whole, where its sender has another to the same message.

    It had to begin anew. Without this the first counts, until Flower gives it up.
    """
    with state.lock:
        old = reply_to(state, answer.reply_to_message_id)
        if old is None or old == answer.message_id:
            return
        same_sender = state.message_res_store[old].metadata.src_node_id == answer.src_node_id
    if same_sender and not is_whole(state, int(answer.run_id), old):
        state._on_push_session_expired({old})
        state.object_store.delete(old)
