"""The coordinator's end of the sealed channels: one per site, for one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from fedlearn.core.errors import UnauthenticatedError
from fedlearn.crypto.sealed import Channel
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import large_bytes, read_large_bytes


@dataclass
class Sealing:
    """Seals what goes out and opens what comes back; `round` is that of the run."""

    channels: Mapping[str, Channel]
    max_bytes: int
    round: int = field(default=0)

    def seal(self, site: str, message: Message) -> Message:
        """See `fedlearn.flower.grid.Seals`."""
        kind = flower.MESSAGE_KINDS[message.metadata.message_type]
        plain = private.content_to_bytes(message.content)
        sealed = self.channels[site].seal(kind, self.round, plain)
        return private.with_content(message, RecordDict({"sealed": large_bytes("sealed", sealed)}))

    def open(self, site: str, message_type: str, reply: Message) -> Message:
        """See `fedlearn.flower.grid.Seals`."""
        kind = flower.MESSAGE_KINDS[message_type]
        sealed = read_large_bytes(reply.content, "sealed")
        if sealed is None:
            raise UnauthenticatedError
        channel = self.channels[site]
        opened = channel.open(kind, sealed, round_number=self.round, max_bytes=self.max_bytes)
        return private.with_content(reply, private.content_from_bytes(opened.data))
