"""A site's process: what is on the disk before an answer leaves, and how it comes back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.supernode.fleet import Incoming, head_bytes, headless
from clients.supernode.memory import Memory
from clients.supernode.node import PAUSE_SECONDS, Node
from clients.supernode.refusals import NotEnrolledError, RunOverError
from fedlearn.core.errors import ProtocolError
from fedlearn.flower import private

RUN = 77


class Wire:
    """The seam to the coordinator: messages in, replies out, and the calls that a test breaks."""

    def __init__(self, stop: threading.Event, *messages: Message) -> None:
        self.stop, self.messages = stop, list(messages)
        self.replies: list[Message] = []
        self.activations: list[int | None] = []
        self.refusals: list[Exception] = []
        self.over = False

    def activate(self, last_node: int | None) -> int:
        self.activations.append(last_node)
        if self.refusals:
            raise self.refusals.pop(0)
        return 5

    def receive(self) -> Incoming | None:
        if not self.messages:
            self.stop.set()
            return None
        return Incoming(message=self.messages.pop(0), run_id=RUN, run_config={"config": "c"})

    def reply(self, message: Message, seconds: float) -> None:
        if self.over:
            raise RunOverError
        self.replies.append(message)

    def leave(self) -> None:
        pass

    def forget(self) -> None:
        self.messages.clear()

    def close(self) -> None:
        pass


def message(number: int) -> Message:
    private.identify(run_id=RUN, node_id=1)
    content = RecordDict({"n": ConfigRecord({"n": number})})
    made = Message(content, dst_node_id=5, message_type="query.count")
    return private.set_message_id(made, f"m{number}")


def counting(crash_at: int = 0) -> ClientApp:
    """An app that remembers the last number; at one it dies as a killed process does."""
    app = ClientApp()

    @app.query("count")
    def count(message: Message, context: Context) -> Message:
        number = int(str(message.content.config_records["n"]["n"]))
        if number == crash_at:
            raise KeyboardInterrupt
        if number < 0:
            raise ValueError("a record of a patient")
        context.state["last"] = ConfigRecord({"n": number})
        return Message(RecordDict({"seen": ConfigRecord({"n": number})}), reply_to=message)

    return app


def node(folder: Path, app: ClientApp, *messages: Message) -> tuple[Node, Wire]:
    stop = threading.Event()
    made = Node(
        config={"site-file": str(folder / "site.yaml")},
        app=app,
        stop=stop,
        memory=Memory(folder / "runtime"),
    )
    wire = Wire(stop, *messages)
    made.fleet = wire  # type: ignore[assignment]
    return made, wire


def test_node__has_its_state_on_the_disk_before_the_answer_leaves(tmp_path: Path) -> None:
    served, wire = node(tmp_path, counting(), message(1), message(2))
    at_reply = []
    send = wire.reply

    def reply(answer: Message, seconds: float) -> None:
        state = Memory(tmp_path / "runtime").state(RUN)
        at_reply.append(state.config_records["last"]["n"])
        assert Memory(tmp_path / "runtime").open_message() is not None
        send(answer, seconds)

    wire.reply = reply  # type: ignore[method-assign]
    served.serve()
    assert at_reply == [1, 2]
    assert served.memory.open_message() is None
    assert wire.activations == [None]


def test_node__that_died_says_which_message_it_will_not_answer(tmp_path: Path) -> None:
    served, wire = node(tmp_path, counting(crash_at=2), message(1), message(2))
    with pytest.raises(KeyboardInterrupt):
        served.serve()
    assert len(wire.replies) == 1

    again, wire = node(tmp_path, counting(), message(3))
    again.serve()
    assert wire.activations == [5], "the node that still counts as online is named"
    given_up, answered = wire.replies
    assert given_up.has_error()
    assert given_up.metadata.reply_to_message_id == "m2"
    assert not answered.has_error()
    assert again.memory.state(RUN).config_records["last"]["n"] == 3


def test_node__tells_the_kind_of_a_failure_and_nothing_of_its_text(tmp_path: Path) -> None:
    served, wire = node(tmp_path, counting(), message(-1), message(1))
    served.serve()
    failed, answered = wire.replies
    assert failed.error.reason == "ValueError"
    assert not answered.has_error()


def test_node__does_not_answer_when_it_cannot_remember(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, wire = node(tmp_path, counting(), message(1))

    def full(self: Memory, run_id: int, state: RecordDict) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Memory, "set_state", full)
    served.serve()
    assert wire.replies[0].error.reason == "OSError"


def test_node__waits_for_room_on_its_disk_before_it_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, says goodbye each time, and comes back by itself."""
    caplog.set_level("INFO")
    served, wire = node(tmp_path, counting(), message(1))
    monkeypatch.setattr(served.stop, "wait", lambda seconds: None)
    write, full, left = Memory.set_node, [True, True], list[int]()

    def set_node(self: Memory, node_id: int) -> None:
        if full:
            full.pop()
            raise OSError(28, "No space left on device")
        write(self, node_id)

    monkeypatch.setattr(Memory, "set_node", set_node)
    wire.leave = lambda: left.append(len(wire.activations))  # type: ignore[method-assign]
    served.serve()
    assert wire.activations == [None, 5, 5], "its goodbye may have been lost: it says whom it was"
    assert left[:2] == [1, 2]
    assert not wire.replies[0].has_error()
    reasons = [
        one.fields["reason"]
        for one in caplog.records
        if hasattr(one, "fields") and "reason" in one.fields
    ]
    assert reasons == [f"{served.memory.folder} cannot be written to (No space left on device)"]


def test_node__goes_on_when_nobody_waits_for_its_answer(tmp_path: Path) -> None:
    served, wire = node(tmp_path, counting(), message(1))
    wire.over = True
    served.serve()
    assert served.memory.open_message() is None


def test_node__takes_a_breath_after_a_message_that_it_cannot_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator may give the same one again at once, large as it is."""
    served, wire = node(tmp_path, counting(), message(1))
    receive, gone = wire.receive, [True]
    pauses: list[float | None] = []
    monkeypatch.setattr(served.stop, "wait", lambda seconds: pauses.append(seconds))

    def taken_back() -> Incoming | None:
        if gone:
            gone.pop()
            raise RunOverError("the coordinator took the message back")
        return receive()

    wire.receive = taken_back  # type: ignore[method-assign]
    served.serve()
    assert PAUSE_SECONDS in pauses
    assert len(wire.replies) == 1


def test_node__that_was_never_enrolled_ends_with_the_reason(tmp_path: Path) -> None:
    served, wire = node(tmp_path, counting())
    wire.refusals = [NotEnrolledError("has not enrolled this node's key")]
    with pytest.raises(ProtocolError, match="has not enrolled") as caught:
        served.serve()
    assert caught.value.exit_code == 4


def test_node__comes_back_when_the_coordinator_has_forgotten_it(tmp_path: Path) -> None:
    served, wire = node(tmp_path, counting(), message(1))
    receive = wire.receive
    forgotten = [True]

    def once() -> Incoming | None:
        if forgotten:
            forgotten.pop()
            raise NotEnrolledError("does not recognise this node")
        return receive()

    wire.receive = once  # type: ignore[method-assign]
    served.serve()
    assert wire.activations == [None, 5]


def test_head__is_enough_to_answer_with_an_error() -> None:
    original = message(9)
    found = headless(head_bytes(original))
    assert found.metadata.message_id == "m9"
    assert list(found.content) == []
    reply = private.error_reply(found, "gone")
    assert reply.metadata.reply_to_message_id == "m9"
