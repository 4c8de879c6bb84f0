"""How long a site waits, and how much it says at a time, follow from its line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest
from flwr.supercore.protobuf.client import ProtobufRequestContext

from clients.supernode import pace as module
from clients.supernode.pace import FIRST_RATE, PART_SECONDS, SLOWEST_RATE, SMALLEST_PART, Pace
from fedlearn.flower.envelope import INLINE

MEGABYTE = 1_000_000


def asked(pace: Pace, size: int, seconds: float, patch: pytest.MonkeyPatch) -> float:
    """The time-out of a request of so many bytes, over a line that needs so many seconds for it."""
    clock = [0.0]
    patch.setattr(module.time, "monotonic", lambda: clock[0])
    extensions = {"timeout": {"read": 30.0}}
    request = httpx.Request("POST", "https://a", content=bytes(size), extensions=extensions)
    context = ProtobufRequestContext(rpc_method="", message=None, request=request)  # type: ignore[arg-type]

    def call(_: object) -> httpx.Response:
        clock[0] += seconds
        if seconds > request.extensions["timeout"]["read"]:
            raise httpx.ReadTimeout("late")
        return httpx.Response(200)

    send: Callable[[ProtobufRequestContext], httpx.Response] = call
    with suppress(httpx.ReadTimeout):
        pace.intercept(context, send)
    return float(request.extensions["timeout"]["read"])


def test_pace__waits_longer_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    assert asked(pace, 100, 0.1, monkeypatch) == pytest.approx(30.0, abs=0.1)
    assert asked(pace, MEGABYTE, 0.1, monkeypatch) > 30 + MEGABYTE / FIRST_RATE


@pytest.mark.parametrize("rate", [300, 12_000.0, 125_000.0, 10e6, 1e9])
def test_pace__finds_what_any_line_carries_and_gets_through(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On each line down to the slowest a part is through before it is given up, soon."""
    pace, late = Pace(), 0
    for _ in range(12):
        size = pace.part
        seconds = size / max(rate, SLOWEST_RATE)
        late = late + 1 if asked(pace, size, seconds, monkeypatch) < seconds else 0
    assert late == 0
    assert SMALLEST_PART <= pace.part <= INLINE
    assert pace.rate >= SLOWEST_RATE
    if SMALLEST_PART < pace.part < INLINE:
        assert pace.part / rate == pytest.approx(PART_SECONDS, rel=0.2)


def test_pace__says_less_at_a_time_where_a_connection_was_torn() -> None:
    pace = Pace()
    request = httpx.Request(
        "POST", "https://a", content=bytes(MEGABYTE), extensions={"timeout": {"read": 30.0}}
    )
    context = ProtobufRequestContext(rpc_method="", message=None, request=request)  # type: ignore[arg-type]

    def failing(error: httpx.TransportError) -> int:
        def call(_: object) -> httpx.Response:
            raise error

        with suppress(httpx.TransportError):
            pace.intercept(context, call)
        return pace.part

    before = pace.part
    assert failing(httpx.ConnectError("nobody is there")) == before
    assert failing(httpx.ReadError("torn")) == before // 2


def test_pace__of_small_requests_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    asked(pace, 500, 2.0, monkeypatch)
    assert pace.rate == FIRST_RATE
