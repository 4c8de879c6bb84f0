"""How a protected Flower app's server and sites talk: greetings in clear, all else sealed.

A ClientApp answers only message types that its author has registered. So every message of
the protocol travels under the type of the app's own message that it serves, and says in a
record of its own which step it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from flwr.app import ConfigRecord, Message, RecordDict

from fedlearn.config import decode, encode
from fedlearn.core.errors import UnauthenticatedError
from fedlearn.crypto.codec import Reader, Writer
from fedlearn.crypto.identity import PUBLIC_BYTES
from fedlearn.crypto.sealed import Channel
from fedlearn.flower.apps.protection import Protection
from fedlearn.flower.private import content_from_bytes, content_to_bytes, with_content
from fedlearn.flower.records import config_record, large_bytes, read_large_bytes, read_small_bytes

Step = Literal["ask", "advertise", "share", "mask", "agree", "unmask"]
"""What a sealed message asks for: "ask" is the app's own message, without a sum."""

GREET: Final = "greet"
INVITE: Final = "invite"
"""The two messages before there is a channel."""

MAX_BYTES: Final = 4 * 2**30
"""The largest content that is opened."""

_NAME: Final = "fedlearn"
_KIND: Final = 16
"""The kind in the header of every sealed message of an app; its type and step are inside."""


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """How a site of a Flower app introduces itself."""

    site: str
    public_key: str
    version: str
    code: str
    protection: Protection


@dataclass(frozen=True)
class Sealed:
    """An opened message: which step it is, its round, its content, and the protocol's bytes."""

    step: Step
    round: int
    content: RecordDict
    protocol: bytes


# --- In clear ---------------------------------------------------------------------


def clear(step: str, data: bytes = b"") -> RecordDict:
    """The content of a message, or an answer, that comes before there is a channel."""
    return RecordDict({_NAME: ConfigRecord({"step": step, "bytes": data})})


def read_clear(content: RecordDict) -> str:
    """Which message before the channel this is; empty if it is none."""
    record = config_record(content, _NAME)
    return "" if record is None else str(record.get("step", ""))


def clear_bytes(content: RecordDict) -> bytes:
    """What such a message, or answer, carries."""
    return read_small_bytes(content, _NAME) or b""


def greeting_bytes(greeting: Greeting) -> bytes:
    """A greeting as the bytes of an answer."""
    return encode(greeting).encode()


def read_greeting(content: RecordDict) -> Greeting:
    """The inverse; ValueError or ConfigError for what is none."""
    greeting = decode(Greeting, clear_bytes(content).decode())
    if len(bytes.fromhex(greeting.public_key)) != PUBLIC_BYTES:
        raise ValueError("not a public key")
    return greeting


# --- Sealed -----------------------------------------------------------------------


def step_of(text: str) -> Step:
    """The step of that name; ValueError if there is none."""
    if text not in get_args(Step):
        raise ValueError(f"{text!r} is no step of the protocol")
    return cast(Step, text)


def seal(
    channel: Channel,
    message_type: str,
    round_number: int,
    step: Step,
    content: RecordDict,
    protocol: bytes = b"",
) -> RecordDict:
    """A content with the protocol's bytes beside it, sealed for the other end of `channel`."""
    writer = Writer().blob(message_type.encode()).blob(step.encode()).blob(protocol)
    data = channel.seal(_KIND, round_number, writer.blob(content_to_bytes(content)).done())
    return RecordDict({"sealed": large_bytes("sealed", data)})


def unseal(
    channel: Channel, message_type: str, content: RecordDict, round_number: int | None = None
) -> Sealed:
    """The inverse, for a message of that type, and of that round where one is given.

    Raises:
        UnauthenticatedError: the other end did not seal it, not as this, or it came before.
        ValueError: the other end has sealed something that is no message.
    """
    data = read_large_bytes(content, "sealed")
    if data is None:
        raise UnauthenticatedError
    opened = channel.open(_KIND, data, round_number=round_number, max_bytes=MAX_BYTES)
    reader = Reader(opened.data)
    kind, step, protocol = reader.blob().decode(), reader.blob().decode(), reader.blob()
    inner = reader.view(reader.uint(8))
    reader.end()
    if kind != message_type:
        raise UnauthenticatedError
    return Sealed(step_of(step), opened.round, content_from_bytes(inner), protocol)


@dataclass
class StepSealing:
    """The server's ends of all channels (`fedlearn.flower.grid.Seals`) for one step.

    `protocol` are the bytes for every site that go beside the content of its message.
    """

    channels: Mapping[str, Channel]
    round: int
    step: Step
    protocol: Mapping[str, bytes]

    def seal(self, site: str, message: Message) -> Message:
        """See `fedlearn.flower.grid.Seals`."""
        kind, data = message.metadata.message_type, self.protocol[site]
        channel = self.channels[site]
        sealed = seal(channel, kind, self.round, self.step, message.content, data)
        return with_content(message, sealed)

    def open(self, site: str, message_type: str, reply: Message) -> Message:
        """See `fedlearn.flower.grid.Seals`."""
        found = unseal(self.channels[site], message_type, reply.content, self.round)
        if found.step != self.step:
            raise UnauthenticatedError
        return with_content(reply, found.content)
