"""Two processes under one key are noticed, at both ends; one that is started anew is none."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from flwr.proto import fleet_pb2
from hypothesis import given
from hypothesis import strategies as st

from clients.supernode.fleet import Fleet
from fedlearn.crypto.certificates import node_public_key, site_credential
from fedlearn.flower.envelope import PROCESS_HEADER, Envelope
from server.superlink.callers import Caller
from server.superlink.copies import AGAIN_SECONDS, Copies
from server.superlink.gateway import Gateway

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def noticed(numbers: Sequence[int], seconds: float = 1.0) -> tuple[list[str], bool]:
    """Who is told of after requests of processes by their numbers, and what the last one hears."""
    told: list[str] = []
    copies, heard = Copies(told.append), False
    for i, number in enumerate(numbers):
        headers = {PROCESS_HEADER.encode(): b"%d" % number}
        heard = copies.look("a", headers, NOW + timedelta(seconds=i * seconds))
    return told, heard


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_process__that_is_started_anew_again_and_again_is_no_copy(times: list[int]) -> None:
    asked = [number for number, count in enumerate(times) for _ in range(count)]
    assert noticed(asked) == ([], False)


@given(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=60))
def test_two_processes__are_noticed_once_each_has_come_back_and_told_of_once_a_minute(
    numbers: list[int],
) -> None:
    changes = sum(one != two for one, two in itertools.pairwise(numbers))
    told, heard = noticed(numbers)
    assert (told, heard) == ((["a"], True) if changes >= 3 else ([], False))


def test_two_processes__are_told_of_again_while_it_lasts_and_not_afterwards() -> None:
    told, heard = noticed([1, 2] * 70)
    assert told == ["a"] * 3
    assert heard
    told, heard = noticed([1, 2, 1, 2, *[2] * 5], seconds=AGAIN_SECONDS / 4)
    assert (told, heard) == (["a"], False)


def test_number__that_is_none_is_not_kept() -> None:
    copies = Copies(lambda site: pytest.fail("told"))
    for number in (b"1" * 65, b"2" * 65) * 4:
        assert not copies.look("a", {PROCESS_HEADER.encode(): number}, NOW)
    assert not copies.look("a", {}, NOW)
    assert copies._spoken == {}


def test_site__whose_folder_was_copied_and_started_hears_of_it_at_both_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two connections as sites make them, through the gateway that stands before a SuperLink."""
    site = site_credential("a", datetime.now(UTC))
    key, told = node_public_key(site.certificate), list[tuple[str, str]]()
    link = httpx.AsyncClient(transport=httpx.MockTransport(_superlink))
    gateway = Gateway("https://127.0.0.1:1", link, {key: "a"}, lambda *of: told.append(of[:2]))

    async def certified(scope: Any, receive: Any, send: Any) -> None:
        await gateway({**scope, "state": {"caller": Caller("a", key)}}, receive, send)

    def through(request: httpx.Request) -> httpx.Response:
        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(certified)) as client:
                return await client.request(
                    request.method, request.url, content=request.content, headers=request.headers
                )

        answer = asyncio.run(asked())
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    def process() -> Fleet:
        made = Fleet("gateway:1", site.key, ssl.create_default_context(), lambda *_: None)
        made._client._client._transport = httpx.MockTransport(through)
        made.activate(None)
        return made

    with caplog.at_level(logging.WARNING):
        one = process()
        one._stop_beating()
        one.receive()
        assert told == []
        two = process()
        two._stop_beating()
        for _ in range(2):
            one.receive()
            two.receive()
    assert told == [("copied", "a")]
    (said,) = {record.message for record in caplog.records if record.name.endswith("copies")}
    assert said == "copied"
    one.close()
    two.close()


def _superlink(request: httpx.Request) -> httpx.Response:
    assert PROCESS_HEADER not in request.headers, "it is the gateway's alone"
    if request.url.path.endswith("activate-node"):
        answer = fleet_pb2.ActivateNodeResponse(node_id=9).SerializeToString()
    else:
        answer = Envelope(b"").encode()
    return httpx.Response(200, content=answer)
