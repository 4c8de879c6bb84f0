"""Whole messages between a run and a site, through a real SuperLink in a process of its own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.protobuf.client import ProtobufClient

from clients.supernode.fleet import Fleet, Incoming
from clients.supernode.refusals import RunOverError
from fedlearn.crypto.certificates import node_public_key, site_credential
from fedlearn.flower import private
from fedlearn.flower.envelope import (
    INLINE,
    MOST_HEAD,
    RUN_GIVE,
    RUN_TAKE,
    SITE_GIVE,
    SITE_TAKE,
    Capacity,
    Envelope,
)
from fedlearn.flower.envelopes import exchange, packing
from server.programs import superlink
from server.serverfile import ServerFile
from server.superlink import broker
from server.superlink.endpoint import SuperLink
from server.superlink.link_grid import LinkGrid

pytestmark = [
    pytest.mark.slow,
    # flwr reads .gitignore files with an old name of pathspec.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]


LIFETIME = 1800.0


@dataclass
class Line:
    """A run at one end, a site at the other; `paths` is what the site has called."""

    grid: LinkGrid
    link: SuperLink
    site: Fleet
    stranger: Fleet
    node: int
    run_id: int
    paths: list[str] = field(default_factory=list)

    def send(self, content: RecordDict) -> str:
        private.identify(run_id=self.run_id, node_id=1)
        [name] = self.grid.push_messages([Message(content, self.node, "query.hello")])
        return name

    def receive(self) -> Incoming:
        incoming = self.site.receive()
        assert incoming is not None
        return incoming

    def answer(self, incoming: Incoming, content: RecordDict) -> None:
        private.identify(run_id=self.run_id, node_id=self.node)
        self.site.reply(Message(content, reply_to=incoming.message), 0.1)


def gave_up(reason: str, final: bool) -> None:
    raise AssertionError(reason)


def fleet(link: SuperLink) -> tuple[Fleet, bytes]:
    key = site_credential("a", datetime.now(UTC))
    tls = ssl.create_default_context(cadata=link._authority.decode())
    return Fleet(link.address, key.key, tls, gave_up), node_public_key(key.certificate)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    nowhere = Path("unused")
    file = ServerFile(
        listen="127.0.0.1:1", keys=nowhere, roster=nowhere, introductions=nowhere, tls=nowhere,
        state=tmp_path_factory.mktemp("link"), wait_seconds=1.0, client_certificates=True,
    )  # fmt: skip
    with superlink(file) as link:
        (site, public), (stranger, other) = fleet(link), fleet(link)
        link.register(public, "a")
        link.register(other, "b")
        node, _ = site.activate(None), stranger.activate(None)
        run_id = link.start_run({"config": "{}", "overrides": ""})
        with link.carry_out(run_id, LIFETIME) as (grid, _):
            assert isinstance(grid, LinkGrid)
            made = Line(grid, link, site, stranger, node, run_id)
            hook = {"request": [lambda request: made.paths.append(request.url.path)]}
            site._client._client.event_hooks = hook
            yield made
        site.close()
        stranger.close()


def small(number: int) -> RecordDict:
    return RecordDict({"n": ConfigRecord({"n": number, "bytes": bytes(1000)})})


def large(size: int) -> RecordDict:
    data = np.random.default_rng(0).bytes(size)  # equal chunks would be one object
    array = Array(dtype="uint8", shape=(len(data),), stype="fedlearn.sealed", data=data)
    return RecordDict({"arrays": ArrayRecord({"sealed": array})})


def number_of(message: Message) -> int:
    return int(str(message.content.config_records["n"]["n"]))


def test_relay__moves_a_message_and_its_answer_in_a_request_each(line: Line) -> None:
    name = line.send(small(1))
    incoming = line.receive()
    assert (incoming.message.metadata.message_id, number_of(incoming.message)) == (name, 1)
    assert incoming.run_config == {"config": "{}", "overrides": ""}
    line.answer(incoming, small(2))
    [reply] = line.grid.pull_messages([name])
    assert number_of(reply) == 2
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == (name, line.node)
    calls = [path for path in line.paths if path.startswith("/fedlearn") or "object" in path]
    assert calls == [SITE_TAKE, SITE_GIVE]


def test_relay__moves_what_is_larger_than_a_parcel_both_ways(line: Line) -> None:
    sent = large(INLINE + 7 * 1024 * 1024)
    name = line.send(sent)
    incoming = line.receive()
    arrived = incoming.message.content.array_records["arrays"]["sealed"].data
    assert arrived == sent.array_records["arrays"]["sealed"].data
    line.answer(incoming, sent)
    [reply] = line.grid.pull_messages([name])
    assert reply.content.array_records["arrays"]["sealed"].data == arrived


def test_relay__gives_a_message_again_until_it_is_answered(line: Line) -> None:
    name = line.send(small(3))
    got = [line.receive() for _ in range(broker.MOST_TIMES)]
    assert {one.message.metadata.message_id for one in got} == {name}
    assert line.site.receive() is None, "one that ends its reader must not do so for ever"
    line.answer(got[0], small(4))
    assert [number_of(one) for one in line.grid.pull_messages([name])] == [4]
    assert line.site.receive() is None


def test_relay__makes_a_message_void_when_a_later_one_is_sent(line: Line) -> None:
    old = line.send(small(5))
    seen = line.receive()
    line.send(small(6))
    newest = line.send(small(7))
    incoming = line.receive()
    assert incoming.message.metadata.message_id == newest
    line.answer(seen, small(5))  # too late: nobody is told of it
    line.answer(incoming, small(8))
    assert [number_of(one) for one in line.grid.pull_messages([newest])] == [8]
    assert old not in {one.metadata.reply_to_message_id for one in line.grid.pull_messages([])}


def test_relay__lets_an_answer_be_repeated(line: Line) -> None:
    """A site whose answer was taken, but not confirmed to it, sends it once more."""
    name = line.send(small(9))
    incoming = line.receive()
    line.answer(incoming, small(10))
    line.answer(incoming, small(10))
    assert [number_of(one) for one in line.grid.pull_messages([name])] == [10]
    line.answer(incoming, small(10))


def test_relay__knows_who_asks_before_it_reads_what(line: Line) -> None:
    url = f"https://{line.link.address}"
    asked = Envelope(PullMessagesRequest(node=Node(node_id=line.node)).SerializeToString())
    context = ssl.create_default_context(cadata=line.link._authority.decode())
    with httpx.Client(verify=context, base_url=url) as nobody:
        for path in (SITE_TAKE, SITE_GIVE, RUN_TAKE):
            assert nobody.post(path, content=Envelope(b"").encode()).status_code == 401
            assert nobody.post(path, content=b"no parcel").status_code == 401
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        exchange(line.stranger._client, SITE_TAKE, asked)
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        exchange(line.site._client, SITE_TAKE, Envelope(b"\xff"))
    with pytest.raises(httpx.HTTPStatusError, match="413"):
        exchange(line.site._client, SITE_TAKE, Envelope(asked.head, (bytes(2000),)))
    with pytest.raises(httpx.HTTPStatusError, match="413"):
        exchange(line.site._client, SITE_GIVE, Envelope(bytes(MOST_HEAD + 1)))


def test_relay__says_by_when_an_answer_is_waited_for(line: Line) -> None:
    line.send(small(14))
    metadata = line.receive().message.metadata
    left = metadata.created_at + metadata.ttl - datetime.now(UTC).timestamp()
    assert LIFETIME - 600 < left < LIFETIME + 10


def lose_answers(patch: pytest.MonkeyPatch, client: ProtobufClient, *paths: str) -> set[str]:
    """One answer to a request for each path is lost with its connection; those left to lose."""
    left = set(paths)

    def hook(response: httpx.Response) -> None:
        path = response.request.url.path
        if path in left:
            left.remove(path)
            raise httpx.ReadError("the line is cut", request=response.request)

    patch.setattr(client._client, "event_hooks", {"response": [hook]})
    return left


def test_relay__loses_nothing_with_a_connection(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the tail of a large answer whose head was taken, nor what the run has collected."""
    monkeypatch.setattr(line.site, "_waiting", lambda reason, final: None)
    push = ("/v1/fleet/push-object", "/v1/runtime/push-object")
    by_site = lose_answers(monkeypatch, line.site._client, SITE_TAKE, SITE_GIVE, push[0])
    by_run = lose_answers(monkeypatch, line.grid._client, RUN_GIVE, RUN_TAKE, push[1])
    sent, answer = large(INLINE + 7 * 1024 * 1024), large(INLINE + 7 * 1024 * 1024)
    name = line.send(sent)
    incoming = line.receive()
    arrived = incoming.message.content.array_records["arrays"]["sealed"].data
    assert arrived == sent.array_records["arrays"]["sealed"].data
    line.answer(incoming, answer)
    [reply] = line.grid.pull_messages([name])
    arrived = reply.content.array_records["arrays"]["sealed"].data
    assert arrived == answer.array_records["arrays"]["sealed"].data
    assert not by_site | by_run, "each has been lost once"
    assert line.site.receive() is None


def test_relay__an_answer_that_cannot_be_read_fails_its_site_alone(line: Line) -> None:
    name = line.send(small(16))
    incoming = line.receive()
    private.identify(run_id=line.run_id, node_id=line.node)
    answer = Message(RecordDict(), reply_to=incoming.message)
    content = b"Message  3\x00\xff\xff\xff"  # of the form of an object, and no message
    root = sha256(content).hexdigest()
    answer.metadata.__dict__["_message_id"] = root
    head = PushMessagesRequest(
        node=line.site._node,
        messages_list=[message_to_proto(answer)],
        message_object_trees=[ObjectTree(object_id=root)],
    )
    line.site._exchange(SITE_GIVE, head.SerializeToString(), content)
    [reply] = line.grid.pull_messages([name])
    assert reply.metadata.reply_to_message_id == name
    assert reply.error.reason == "its reply cannot be read (DecodeError)"


def test_relay__believes_no_sender_but_the_one_that_it_knows(line: Line) -> None:
    """A node signs its request; what it writes into its message says nothing about it."""
    name = line.send(small(17))
    incoming = line.receive()
    private.identify(run_id=line.run_id, node_id=line.node)
    answer = Message(small(18), reply_to=incoming.message)
    assert line.stranger._node is not None
    for key, value in (
        ("_src_node_id", line.stranger._node.node_id),
        ("_reply_to_message_id", "f" * 64),
        ("_message_type", "query.other"),
    ):
        answer.metadata.__dict__[key] = value
    with packing() as packed:
        one = packed(answer)
        true = one.head.metadata
        true.src_node_id, true.reply_to_message_id = line.node, name
        true.message_type = incoming.message.metadata.message_type
        head = PushMessagesRequest(
            node=line.site._node, messages_list=[one.head], message_object_trees=[one.tree]
        )
        objects = list(one.inline(Capacity()))
    line.site._exchange(SITE_GIVE, head.SerializeToString(), *objects)
    [reply] = line.grid.pull_messages([name])
    metadata = reply.metadata
    assert (metadata.src_node_id, metadata.reply_to_message_id) == (line.node, name)
    assert (metadata.message_type, number_of(reply)) == ("query.hello", 18)


def test_relay__takes_no_answer_in_the_name_of_another_site(line: Line) -> None:
    name = line.send(small(11))
    incoming = line.receive()
    private.identify(run_id=line.run_id, node_id=line.node)
    forged = Message(RecordDict(), reply_to=incoming.message)
    forged.metadata.__dict__["_message_id"] = forged.object_id
    head = PushMessagesRequest(
        node=line.stranger._node,
        messages_list=[message_to_proto(forged)],
        message_object_trees=[get_object_tree(forged)],
    )
    with pytest.raises(RunOverError):
        line.stranger._exchange(SITE_GIVE, head.SerializeToString())
    line.answer(incoming, small(12))
    assert [number_of(one) for one in line.grid.pull_messages([name])] == [12]


def test_relay__leaves_flowers_own_paths_as_they_are(line: Line) -> None:
    name = line.send(small(13))
    client = line.site._client
    answer = client.PullMessages(PullMessagesRequest(node=Node(node_id=line.node)))
    assert [one.metadata.message_id for one in answer.messages_list] == [name]
