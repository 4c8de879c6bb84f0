"""What a site reads of a coordinator's answers: no more than it has room for, and no refusal that
cannot be read.

A coordinator that answers without end, or with kilobytes that unpack to gigabytes, would take a
data owner's machine down: `httpx` reads and unpacks whatever comes. And what reads the text of a
refusal in Flower's client believes its head, which names how it is written, and follows brackets
as deep as they go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import httpx
from flwr.supercore.error import FlowerError
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from fedlearn.flower.envelope import INLINE, MOST_HEAD, MOST_OBJECTS

MOST_ANSWER: Final = INLINE + MOST_HEAD + 16 * MOST_OBJECTS
"""Bytes of one answer: the largest envelope with the lengths of its parts, and larger than
Flower's own chunks of 5 MiB."""


def bound(client: httpx.Client) -> None:
    """Let `client` take answers up to `MOST_ANSWER` bytes, as they are, and follow no redirects.

    What is larger, or packed, is a ValueError where the answer is read. Redirects would make a
    site send requests to others, in its own network.
    """
    client.follow_redirects = False
    client.headers["accept-encoding"] = "identity"
    client.event_hooks = {"response": [_bounded]}


def _bounded(response: httpx.Response) -> None:
    """Called with an answer's head, before its body is read."""
    packed = response.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise ValueError("an answer that is packed, which nobody has asked for")
    if isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _Counted(response.stream)


class _Counted(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        left = MOST_ANSWER
        for part in self._stream:
            left -= len(part)
            if left < 0:
                raise ValueError(f"an answer of more than {MOST_ANSWER} bytes")
            yield part

    def close(self) -> None:
        self._stream.close()


class Readable:
    """Stands between Flower's client and the network: hands on no refusal that cannot be read."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """The answer to a request; of a refusal the status, the date, and Flower's own error."""
        answer = call_next(context)
        if not answer.is_error:
            return answer
        content = answer.content if flower_error(answer.content) else b""
        heads = {"date": answer.headers.get("date", "")}
        return httpx.Response(
            answer.status_code, headers=heads, content=content, request=answer.request
        )


def flower_error(content: bytes) -> FlowerError | None:
    """Flower's error in the body of a refusal, if there is one, in UTF-8."""
    try:
        return FlowerError.from_json(content.decode())
    except (ValueError, RecursionError):  # a number too long; brackets without end
        return None
