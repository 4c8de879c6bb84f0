"""What a protected Flower app of somebody's own and its server read of each other, as parsers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from flwr.app import Message, RecordDict

from fedlearn.core.errors import FedlearnError, ProtocolError, UnauthenticatedError
from fedlearn.crypto.codec import Writer
from fedlearn.crypto.handshake import ServerOffer, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.sealed import Channel
from fedlearn.flower import Protection, private, protect
from fedlearn.flower.apps import mod, sealing
from fedlearn.flower.messages import read_refusal
from fedlearn.flower.records import large_bytes
from tests.attacks.asked import UNREADABLE
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
        for joined in (mod._RUN, mod._SESSION):
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


APPS = [
    *map(_to_app, ("greet", "invite")),
    Parser(
        "app's greeting", lambda _: private.content_to_bytes(_app()[2].content),
        lambda data, _: sealing.read_greeting(private.content_from_bytes(data)), UNREADABLE,
    ),
    Parser("app's sealed content", _sealed_content, _unsealed,
           (UnauthenticatedError, ValueError, FedlearnError)),
]  # fmt: skip
