"""What the broker shows to whom, and what it leaves behind, over Flower's own state in memory."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import cast

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.superlink.config_loader import (
    get_federation_manager,
    get_objectstore_linkstate_factories,
)
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.concurrency import run_in_threadpool

from fedlearn.flower import envelopes, private
from fedlearn.flower.envelope import Capacity, Envelope
from fedlearn.flower.envelopes import Packed
from server.superlink.broker import MOST_TIMES, Broker


@dataclass
class World:
    """A SuperLink's state with one run and two nodes; both ends speak to the broker directly."""

    broker: Broker = field(default_factory=Broker)
    keys: tuple[bytes, bytes] = (b"a", b"b")

    def __post_init__(self) -> None:
        _, factory = get_objectstore_linkstate_factories(
            FLWR_IN_MEMORY_DB_NAME, get_federation_manager()
        )
        self.state = cast(InMemoryLinkState, factory.state())
        self.nodes = [self._node(name) for name in self.keys]
        self.run_id = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        [run] = self.state.get_run_info(run_ids=[self.run_id])
        assert run.primary_task_id is not None
        token = self.state.claim_task(run.primary_task_id)
        assert token is not None
        self.state.activate_task(run.primary_task_id)
        task = self.state.get_task_by_token(token)
        assert task is not None
        self.task = task

    def _node(self, key: bytes) -> int:
        node = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0)
        self.state.activate_node(node, 1000.0)
        return node

    @property
    def stored(self) -> dict[str, int]:
        """Sizes of all objects that are kept."""
        store = cast(InMemoryObjectStore, self.state.object_store).store
        return {name: len(entry.content) for name, entry in store.items()}

    def message(self, node: int, content: RecordDict) -> Message:
        private.identify(run_id=self.run_id, node_id=1)
        return Message(content, node, "query.hello")

    def send(self, *messages: Message) -> list[str]:
        with envelopes.packing() as packed:
            all_packed = [packed(message) for message in messages]
            head = PushAppMessagesRequest(
                messages_list=[one.head for one in all_packed],
                message_object_trees=[one.tree for one in all_packed],
            )
            objects = tuple(c for one in all_packed for c in one.inline(Capacity()))
        said = self.broker.sent(head, Envelope(b"", objects), self.state, self.task)
        return list(PushAppMessagesResponse.FromString(said).message_ids)

    def ask(self, node: int, content: RecordDict) -> str:
        [name] = self.send(self.message(node, content))
        return name

    def take(self, node: int) -> Message | None:
        asked = PullMessagesRequest(node=Node(node_id=node))
        envelope = self.broker.next_for(asked, self.broker.visit(node), self.state)
        if envelope is None:
            return None
        answer = PullMessagesResponse.FromString(envelope.head)
        [head], [tree] = answer.messages_list, answer.message_object_trees
        return envelopes.unpacked(head, tree, envelope.by_id(), no_pull)

    def reply(self, node: int, question: Message, content: RecordDict) -> Message:
        private.identify(run_id=self.run_id, node_id=node)
        return Message(content, reply_to=question)

    def give(self, node: int, reply: Message, room: Capacity | None = None) -> PushMessagesResponse:
        """Send a reply, or as much of it as there is room for."""
        one = pack(reply)
        objects = tuple(one.inline(room or Capacity()))
        return self.give_objects(node, pack(reply), objects)

    def give_objects(
        self, node: int, one: Packed, objects: tuple[bytes, ...]
    ) -> PushMessagesResponse:
        said = self.broker.answered(push(node, one), Envelope(b"", objects), self.state)
        return PushMessagesResponse.FromString(said)

    def push_rest(self, node: int, reply: Message, answer: PushMessagesResponse) -> None:
        """As a site does with what did not fit: by Flower's own path."""
        one = pack(reply)
        for name in answer.objects_to_push:
            pushed = PushObjectRequest(
                node=Node(node_id=node), run_id=self.run_id, object_id=name,
                object_content=one.objects[name].deflate(), session_id=answer.session_id,
            )  # fmt: skip
            assert fleet_handlers.push_object(pushed, self.state).stored

    def collect(self, *names: str) -> list[Message]:
        asked = PullAppMessagesRequest(message_ids=names)
        envelope = self.broker.collected(asked, self.state, self.task)
        if envelope is None:
            return []
        answer, at_hand = PullAppMessagesResponse.FromString(envelope.head), envelope.by_id()
        pairs = zip(answer.messages_list, answer.message_object_trees, strict=True)
        return [envelopes.unpacked(*pair, at_hand, no_pull) for pair in pairs]


def no_pull(name: str) -> bytes:
    raise AssertionError(f"{name} is not in the parcel")


def pack(message: Message) -> Packed:
    with envelopes.packing() as packed:
        return packed(message)


def push(node: int, one: Packed) -> PushMessagesRequest:
    return PushMessagesRequest(
        node=Node(node_id=node), messages_list=[one.head], message_object_trees=[one.tree]
    )


def small(number: int) -> RecordDict:
    return RecordDict({"n": ConfigRecord({"n": number})})


def large(number: int) -> RecordDict:
    data = bytes([number]) * 5000
    array = Array(dtype="uint8", shape=(len(data),), stype="x", data=data)
    return RecordDict({"n": ConfigRecord({"n": number}), "a": ArrayRecord({"x": array})})


def numbers(messages: list[Message]) -> list[object]:
    return [message.content.config_records["n"]["n"] for message in messages]


def received(message: Message | None) -> Message:
    assert message is not None
    return message


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("path", ["ours", "flowers"])
def test_broker__shows_no_answer_before_it_is_whole(world: World, path: str) -> None:
    """Whichever way its head came; who gets half of one would wait for the rest."""
    a, b = world.nodes
    names = world.send(world.message(a, small(1)), world.message(b, small(2)))
    to_a, to_b = received(world.take(a)), received(world.take(b))
    half, other = world.reply(a, to_a, large(3)), world.reply(b, to_b, small(4))
    if path == "ours":
        answer = world.give(a, half, Capacity(size=1024))
        assert 0 < len(answer.objects_to_push) < len(pack(half).objects)
    else:
        answer = fleet_handlers.push_messages(push(a, pack(half)), world.state)
    assert world.collect(*names) == []
    world.give(b, other)
    assert numbers(world.collect(*names)) == [4], "one that is late holds up nobody else"
    world.push_rest(a, half, answer)
    assert numbers(world.collect(names[0])) == [3]
    assert world.collect() == []
    assert world.stored == {}


def test_broker__tells_what_is_missing_as_often_as_it_is_asked(world: World) -> None:
    """Its answer was lost: the site says its own once more, while the run asks for it."""
    a, _ = world.nodes
    name = world.ask(a, small(1))
    reply = world.reply(a, received(world.take(a)), large(2))
    first = world.give(a, reply, Capacity(size=1024))
    assert world.collect(name) == []
    again = world.give(a, reply, Capacity(size=1024))
    assert set(again.objects_to_push) == set(first.objects_to_push) != set()
    world.push_rest(a, reply, again)
    assert numbers(world.collect(name)) == [2]


def test_broker__takes_another_answer_where_the_first_was_cut_off(world: World) -> None:
    a, b = world.nodes
    name = world.ask(a, small(1))
    question = received(world.take(a))
    world.give(a, world.reply(a, question, large(2)), Capacity(size=1024))
    foreign = world.reply(b, question, small(9))
    foreign.metadata.__dict__["_src_node_id"] = b
    world.give(b, foreign)
    assert world.state.num_message_res() == 1, "another site's is none, and ends none"
    world.give(a, world.reply(a, question, small(3)))
    assert numbers(world.collect(name)) == [3]
    world.collect()
    assert world.stored == {}


def test_broker__counts_as_missing_what_was_not_stored(world: World) -> None:
    """An object that Flower refuses is not there, though it came under the name it has."""
    a, _ = world.nodes
    name = world.ask(a, small(1))
    one = pack(world.reply(a, received(world.take(a)), small(2)))
    broken = b"no object of Flower's"
    one.tree.children[0].object_id = next(iter(Envelope(b"", (broken,)).by_id()))
    del one.tree.children[0].children[:]
    answer = world.give_objects(a, one, (broken,))
    assert one.tree.children[0].object_id in answer.objects_to_push
    assert world.collect(name) == []


def test_broker__gives_no_message_that_the_run_was_told_is_lost(world: World) -> None:
    """A connection broke, and the node was offline for a while: the run goes on without it."""
    a, _ = world.nodes
    name = world.ask(a, small(1))
    received(world.take(a))
    world.state.deactivate_node(a)
    [told] = world.collect(name)
    assert told.has_error()
    world.state.activate_node(a, 1000.0)
    assert world.take(a) is None, "its answer would cost a round that nobody counts"
    world.collect()
    assert world.stored == {}


@pytest.mark.parametrize("handed", [False, True])
def test_broker__gives_no_message_whose_time_has_passed(world: World, handed: bool) -> None:
    a, _ = world.nodes
    name = world.ask(a, small(1))
    if handed:
        received(world.take(a))
    world.state.message_ins_store[name].metadata.ttl = -1.0
    assert world.take(a) is None


def test_broker__keeps_no_answer_that_nobody_collects(world: World) -> None:
    a, _ = world.nodes
    for number in range(4):
        world.ask(a, small(number))
        question = received(world.take(a))
        world.give(a, world.reply(a, question, large(number)))
        assert sum(world.stored.values()) < 2 * 5000, "of the last one alone"
    world.ask(a, small(9))
    assert sum(world.stored.values()) < 1000
    assert world.state.num_message_res() == 0


def test_broker__gives_replies_again_until_others_are_asked_for(world: World) -> None:
    """What it said may have been lost on its way to the run."""
    a, b = world.nodes
    names = world.send(world.message(a, small(1)), world.message(b, small(2)))
    world.give(a, world.reply(a, received(world.take(a)), large(3)))
    assert numbers(world.collect(*names)) == [3]
    world.give(b, world.reply(b, received(world.take(b)), small(4)))
    assert numbers(world.collect(*names)) == [3]
    assert numbers(world.collect(names[1])) == [4]


def test_broker__takes_a_message_that_is_sent_twice_as_one(world: World) -> None:
    """The run did not hear that it was taken; a site that has it must not get it anew."""
    a, _ = world.nodes
    message = world.message(a, small(1))
    [name] = world.send(message)
    question = received(world.take(a))
    assert world.send(message) == [name]
    assert received(world.take(a)).metadata.message_id == name
    for _ in range(MOST_TIMES):
        world.take(a)
    assert world.take(a) is None
    world.give(a, world.reply(a, question, small(2)))
    assert numbers(world.collect(name)) == [2]


def test_broker__leaves_flowers_own_threads_alone(world: World) -> None:
    """However many sites wait for their turn, a heartbeat gets through."""
    over = threading.Event()

    async def burst() -> str:
        waiting = [asyncio.create_task(world.broker.executor.run(over.wait)) for _ in range(100)]
        waiting += [asyncio.create_task(world.broker.sites.until(over.wait)) for _ in range(100)]
        await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(run_in_threadpool(lambda: "a beat"), 60)
        finally:
            over.set()
            await asyncio.gather(*waiting)

    assert asyncio.run(burst()) == "a beat"
