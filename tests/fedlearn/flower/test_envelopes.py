"""Messages go into parcels and come out as they were; and the private names of flwr behind it."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.protobuf.client import ProtobufClient

from fedlearn.flower import envelopes, private
from fedlearn.flower.envelope import Capacity, Envelope

CHANGED = "flwr has changed: mend fedlearn/flower/envelopes.py"
CHUNK = 5 * 1024 * 1024


@pytest.fixture(autouse=True)
def identity() -> None:
    private.new_run(run_id=1)


def message(size: int) -> Message:
    data = np.random.default_rng(0).bytes(size)  # equal chunks would be one object
    array = Array(dtype="uint8", shape=(len(data),), stype="fedlearn.sealed", data=data)
    note = ConfigRecord({"name": "a", "bytes": b"\x00"})
    return Message(RecordDict({"model": ArrayRecord({"m": array}), "note": note}), 7, "train")


def missing(name: str) -> bytes:
    raise ObjectPullError(name, "not there")


@pytest.mark.parametrize("size", [256, 2 * CHUNK])
def test_unpacked__is_what_was_packed(size: int) -> None:
    sent = message(size)
    with envelopes.packing() as packed:
        one = packed(sent)
        envelope = Envelope(one.head.SerializeToString(), tuple(one.inline(Capacity())))
    assert one.objects == {}, "all of it has left"
    assert envelope.by_id().keys() == set(envelopes.names_in([one.tree])), CHANGED
    at_hand = Envelope.decode(envelope.encode()).by_id()
    got = envelopes.unpacked(one.head, one.tree, at_hand, missing)
    assert got.content == sent.content, CHANGED
    assert (got.metadata.message_id, got.metadata.dst_node_id) == (sent.object_id, 7)


def test_unpacked__refuses_objects_that_are_no_message() -> None:
    with envelopes.packing() as packed:
        one = packed(message(256))
        at_hand = Envelope(b"", tuple(one.inline(Capacity()))).by_id()
    with pytest.raises(ValueError, match=r"Error$"):
        envelopes.unpacked(one.head, one.tree.children[0], at_hand, missing)


def test_packed__keeps_what_does_not_fit_to_be_fetched() -> None:
    sent = message(2 * CHUNK)
    with envelopes.packing() as packed:
        one = packed(sent)
        inline = tuple(one.inline(Capacity(CHUNK + 4096)))
        left = {name: thing.deflate() for name, thing in one.objects.items()}
    assert inline, CHANGED
    assert left, CHANGED
    at_hand = Envelope(b"", inline).by_id()
    asked: list[str] = []

    def pull(name: str) -> bytes:
        asked.append(name)
        return left[name]

    assert envelopes.unpacked(one.head, one.tree, at_hand, pull).content == sent.content
    assert set(asked) == set(left)
    with pytest.raises(ObjectPullError):
        envelopes.unpacked(one.head, one.tree, at_hand, missing)


def test_failed__stands_for_the_reply_of_its_sender() -> None:
    asked = private.set_message_id(message(256), "m1")
    reply = Message(RecordDict(), reply_to=asked)
    with envelopes.packing() as packed:
        head = packed(reply).head
    made = envelopes.failed(head, "cut off")
    assert made.error.reason == "cut off"
    assert (made.metadata.reply_to_message_id, made.metadata.src_node_id) == ("m1", 7), CHANGED
    head.ClearField("content")
    made = envelopes.failed(head, "neither a content nor an error")
    assert made.metadata.reply_to_message_id == "m1"


def test_exchange__passes_bytes_through_flowers_client() -> None:
    import httpx

    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=Envelope(b"yes", (b"1",)).encode())

    client = ProtobufClient("https://coordinator")
    client._client = httpx.Client(transport=httpx.MockTransport(answer))
    got = envelopes.exchange(client, "/there", Envelope(b"head", (b"object",)))
    assert got == Envelope(b"yes", (b"1",)), CHANGED
    assert str(seen[0].url) == "https://coordinator/there", CHANGED
    assert Envelope.decode(seen[0].content) == Envelope(b"head", (b"object",)), CHANGED
    client._client.close()
