"""A message of Flower's as one HTTP body, instead of one request for each of its objects.

Flower takes a message apart into a tree of objects (records, arrays, chunks of arrays)
and moves every object in a request of its own, each of which is signed, checked, and
passed through a dozen layers. What sites and coordinator of a deployment say to each
other has three objects when it is small. A `Envelope` holds Flower's own request or
answer, and behind it the objects that belong to it; `server.superlink.relay` reads and writes
envelopes in front of Flower's own handlers. An object's name is its SHA-256, so an envelope
need not say which is which, and an altered one belongs to nothing.

Bytes alone; `fedlearn.flower.envelopes` knows Flower.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from fedlearn.crypto.codec import Reader, Writer

INLINE: Final = 24 * 1024 * 1024
"""Bytes of objects in one envelope, at most: below the gateway's limit of a request."""

PART: Final = 1024 * 1024
"""Bytes of an object, at most: what has arrived whole is not sent again after a line was torn.
Flower's own parts of an array are of five times that, and it takes a request for five minutes after
it was signed: a slow line may never get such a part through."""

MOST_OBJECTS: Final = 16_384
"""Objects in one envelope, at most: an empty one costs its sender eight bytes."""

MOST_HEAD: Final = 8 * 1024 * 1024
"""Bytes of the head of a request, at most; the server reads it before it can refuse it."""

SITE_TAKE: Final = "/fedlearn/site/take"
SITE_GIVE: Final = "/fedlearn/site/give"
RUN_TAKE: Final = "/fedlearn/run/take"
RUN_GIVE: Final = "/fedlearn/run/give"
"""Where a SuperLink of ours takes and gives envelopes: for sites, and for who carries a run out."""

PROCESS_HEADER: Final = "fedlearn-process"
"""In a site's requests: a number that its process has drawn at its start."""
COPIED_HEADER: Final = "fedlearn-copied"
"""In answers to a site: another process asks under its key."""


@dataclass(frozen=True)
class Envelope:
    """`head` is a protobuf message of Flower's, `objects` are deflated objects of its messages."""

    head: bytes
    objects: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The body: every part behind its length."""
        writer = Writer()
        for part in (self.head, *self.objects):
            writer.blob(part)
        return writer.done()

    @staticmethod
    def decode(body: bytes) -> Envelope:
        """The inverse of `encode`.

        Raises:
            ValueError: the bytes are no envelope, or hold more than `MOST_OBJECTS`.
        """
        reader = Reader(body)
        head, objects = reader.blob(), list[bytes]()
        while reader.left:
            if len(objects) == MOST_OBJECTS:
                raise ValueError("too many objects in an envelope")
            objects.append(reader.blob())
        return Envelope(head, tuple(objects))

    def by_id(self) -> dict[str, bytes]:
        """The objects by the names that Flower gives them."""
        return {hashlib.sha256(one).hexdigest(): one for one in self.objects}


@dataclass
class Capacity:
    """What still fits into an envelope that is being filled."""

    size: int = INLINE
    objects: int = MOST_OBJECTS

    def take(self, content: bytes) -> bool:
        """Whether an object fits; if so, its room is taken."""
        if len(content) > self.size or self.objects == 0:
            return False
        self.size -= len(content)
        self.objects -= 1
        return True
