"""How long a site waits for an answer, and how much it says at a time: as its line allows.

On a slow line a large request is on its way for longer than anybody would wait for an answer to a
small one. Bytes that a machine has written are in the buffers of its network, and long not at the
other end: a fixed time-out fires while they travel, and all of them are sent again, for ever. So
what is waited beyond Flower's own time-out follows from the size of a request, at the rate at which
requests have been answered, and no request is larger than the line carries in a while.
"""

from __future__ import annotations

import time
from typing import Final

import httpx
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from fedlearn.flower.envelope import INLINE

FIRST_RATE: Final = 128 * 1024.0
"""Bytes a second that a line is taken to carry before anything was sent: a megabit."""

SLOWEST_RATE: Final = 8 * 1024.0
"""No line is taken to be slower."""

PART_SECONDS: Final = 20.0
"""How long a request should be on its way, so that little is lost with a connection."""

SMALLEST_PART: Final = 256 * 1024
_MEASURED: Final = 64 * 1024
"""Bytes of a request that says something of the line; of less, the answer's own time counts."""

_MARGIN: Final = 2.0
"""Over the time that a request of its size took: two are on their way at once, with heartbeats."""


class Pace:
    """Stands between Flower's client and the network; knows the rate of one line."""

    def __init__(self) -> None:
        self.rate = FIRST_RATE
        """Bytes a second."""

    @property
    def part(self) -> int:
        """Bytes of objects that a site gives in one request, at most."""
        return int(min(INLINE, max(SMALLEST_PART, self.rate * PART_SECONDS)))

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """The answer to a request, waited for as long as a request of its size needs."""
        size = len(context.request.content)
        timeout = context.request.extensions["timeout"]
        timeout["read"] = (timeout["read"] or 0.0) + _MARGIN * size / self.rate
        began = time.monotonic()
        try:
            answer = call_next(context)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise  # nothing was on its way
        except httpx.TransportError:
            self._note(size, self.rate / 2)
            raise
        self._note(size, size / max(time.monotonic() - began, 1e-6))
        return answer

    def _note(self, size: int, rate: float) -> None:
        """Believe at once that a line is slow, and by and by that it is fast."""
        if size >= _MEASURED:
            rate = rate if rate < self.rate else (self.rate + rate) / 2
            self.rate = max(SLOWEST_RATE, rate)
