"""What a protected Flower app of somebody's own and its server read of each other, as parsers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final
from unittest.mock import patch

from flwr.app import Message, RecordDict

from fedlearn.core.errors import FedlearnError, ProtocolError, UnauthenticatedError
from fedlearn.crypto.codec import Reader, Writer
from fedlearn.crypto.handshake import ServerOffer, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.sealed import Channel
from fedlearn.flower import Protection, private, protect
from fedlearn.flower.apps import mod, sealing
from fedlearn.flower.apps.enrolment import AppSites
from fedlearn.flower.apps.exchange import SESSION
from fedlearn.flower.apps.grid import _contribution
from fedlearn.flower.messages import read_refusal
from fedlearn.flower.records import large_bytes, read_large_bytes
from tests.attacks.asked import UNREADABLE, copied
from tests.attacks.fuzzing import Parser
from tests.attacks.parsers import LINK, ONE, identity
from tests.fedlearn.flower.small_apps import TappedGrid, make_client, run

NODE: Final = 1000


@cache
def _app() -> tuple[TappedGrid, dict[str, Message], Message]:
    """An app at several sites, what the first of them was sent in a run, and its greeting."""
    tapped = TappedGrid(make_client(protect()), 5)
    run(tapped, protection=Protection())
    sent = [m for m in tapped.ear.sent if m.metadata.dst_node_id == NODE]
    by_step = {sealing.read_clear(m.content) or "sealed": m for m in reversed(sent)}
    greeting = next(m for m in tapped.ear.came if m.metadata.src_node_id == NODE)
    return tapped, by_step, greeting


def _to_app(step: str) -> Parser:
    """A message of a server to a site of the app, before the site has joined its run."""

    def read(data: bytes, _: Path) -> RecordDict | None:
        tapped, sent, _greeting = _app()
        context = tapped.contexts[NODE]
        try:
            content = private.content_from_bytes(data)
        except ValueError:  # no records: nothing reaches the app
            return None
        for joined in (mod._RUN, SESSION):
            context.state.pop(joined, None)
        kind = sent[step].metadata.message_type
        message = private.set_message_id(Message(content, NODE, kind), "m")
        reply = tapped.app(message, context)
        if reply.has_error():
            assert reply.error.reason == mod._UNPROTECTED
            return None
        if refusal := read_refusal(reply.content):
            raise ProtocolError("", step, refusal.reason)
        return reply.content

    return Parser(
        f"app {step}", lambda _: private.content_to_bytes(_app()[1][step].content), read,
        (ProtocolError,),
    )  # fmt: skip


@cache
def _ends() -> tuple[bytes, Channel]:
    """The state of a site's channel, and the server's end of it, both fresh."""
    server = Identity.new()
    offer = ServerOffer(server, bytes(16), bytes(32), "server")
    channel, accepted = accept_offer(identity(ONE), LINK, server.public, offer.message)
    return channel.to_bytes(), offer.finish(ONE, identity(ONE).public, accepted)


def _sealed_content(_: Path) -> bytes:
    inner = private.content_to_bytes(RecordDict())
    return Writer().blob(b"train").blob(b"mask").blob(b"x" * 30).blob(inner).done()


def _unsealed(data: bytes, _: Path) -> object:
    """What a site makes of anything that its own server has sealed."""
    state, server = _ends()
    copy = Channel.from_bytes(server.to_bytes())
    sealed = copy.seal(sealing._KIND, 1, data)
    content = RecordDict({"sealed": large_bytes("sealed", sealed)})
    return sealing.unseal(Channel.from_bytes(state), "train", content)


# --- Behind the seal, in a run ---------------------------------------------------------------

HELD_BY_APP: Final = frozenset({"train mask", "evaluate ask"})
"""Messages whose content goes to the app."""


@dataclass
class SealedApp:
    """What an app's first site was sent in a run: what was sealed, by which channel, and when."""

    sent: dict[str, tuple[bytes, int, int, bytes, str, RecordDict]] = field(default_factory=dict)
    """By step: the server's channel before, kind, round, what it sealed, message type, state."""
    answered: dict[str, bytes] = field(default_factory=dict)
    """By step: the content of the site's answer."""
    grid: TappedGrid = field(init=False)

    @property
    def greeting(self) -> Message:
        """What the site said of itself."""
        return next(m for m in self.grid.ear.came if m.metadata.src_node_id == NODE)

    @classmethod
    def of(cls) -> SealedApp:
        """A run of five sites."""
        found, sealed = cls(), dict[bytes, tuple[bytes, int, int, bytes]]()
        seal, push = Channel.seal, TappedGrid.push_messages

        def noted(channel: Channel, kind: int, number: int, data: bytes) -> memoryview:
            before = channel.to_bytes()
            made = seal(channel, kind, number, data)
            sealed[bytes(made)] = before, kind, number, bytes(data)
            return made

        def pushed(grid: TappedGrid, messages: object) -> object:
            for message in (listed := list(messages)):  # type: ignore[call-overload]
                if message.metadata.dst_node_id == NODE and "sealed" in message.content:
                    found._note(sealed[_sealed_in(message)], message, grid)
            return push(grid, listed)

        found.grid = TappedGrid(make_client(protect()), 5)
        with (
            patch.object(Channel, "seal", noted),
            patch.object(TappedGrid, "push_messages", pushed),
        ):
            run(found.grid, protection=Protection())
        for message in found.grid.ear.came:
            if message.metadata.src_node_id == NODE and "sealed" in message.content:
                data = Reader(sealed[_sealed_in(message)][3])
                _, step, _ = data.blob(), data.blob().decode(), data.blob()
                found.answered.setdefault(step, data.blob())
        return found

    def _note(
        self, made: tuple[bytes, int, int, bytes], message: Message, grid: TappedGrid
    ) -> None:
        reader = Reader(made[3])
        kind, step = reader.blob().decode(), reader.blob().decode()
        state = copied(grid.contexts[NODE].state)
        self.sent.setdefault(f"{kind} {step}", (*made, kind, state))

    def ask(self, step: str, data: bytes) -> RecordDict | None:
        """What the site, as it was then, answers to other bytes that its server has sealed."""
        channel, kind, number, _, message_type, state = self.sent[step]
        sealed = Channel.from_bytes(channel).seal(kind, number, data)
        content = RecordDict({"sealed": large_bytes("sealed", sealed)})
        context = self.grid.contexts[NODE]
        context.state = copied(state)
        message = private.set_message_id(Message(content, NODE, message_type), "m")
        reply = self.grid.app(message, context)
        assert not reply.has_error()
        if refusal := read_refusal(reply.content):
            # What the app of somebody else makes of other records is its own affair.
            assert "failed" not in refusal.reason or step in HELD_BY_APP, refusal.reason
            raise ProtocolError("", step, refusal.reason)
        return reply.content


def _sealed_in(message: Message) -> bytes:
    data = read_large_bytes(message.content, "sealed")
    assert data is not None
    return bytes(data)


@cache
def _sealed_app() -> SealedApp:
    return SealedApp.of()


def _to_sealed_app(step: str) -> Parser:
    return Parser(
        f"app sealed {step}", lambda _: _sealed_app().sent[step][3],
        lambda data, _: _sealed_app().ask(step, data), (FedlearnError,),
    )  # fmt: skip


def _greeted(data: bytes, _: Path) -> str | None:
    """What the app's server makes of who a site says it is."""
    greeting = sealing.read_greeting(private.content_from_bytes(data))
    return _app_sites()._refusal(greeting)


@cache
def _app_sites() -> AppSites:
    return AppSites(_sealed_app().grid, Protection(), identity("server"), None, bytes(16), 3, 0.2)


_SUM = ("advertise", "share", "mask", "agree", "unmask")

APPS = [
    *map(_to_app, ("greet", "invite")),
    Parser(
        "app's greeting", lambda _: private.content_to_bytes(_app()[2].content),
        lambda data, _: sealing.read_greeting(private.content_from_bytes(data)), UNREADABLE,
    ),
    Parser("app's sealed content", _sealed_content, _unsealed,
           (UnauthenticatedError, ValueError, FedlearnError)),
    *(_to_sealed_app(f"train {step}") for step in _SUM),
    _to_sealed_app("evaluate ask"),
    Parser(
        "app's site", lambda _: private.content_to_bytes(_sealed_app().greeting.content), _greeted,
        UNREADABLE,
    ),
    Parser(
        "app's contribution", lambda _: _sealed_app().answered["mask"],
        lambda data, _: _contribution(private.content_from_bytes(data)), UNREADABLE,
    ),
]  # fmt: skip
