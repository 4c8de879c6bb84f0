"""Of a SuperLink's three APIs a site reaches one, through a proxy that changes no byte of it."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.router import router as fleet_router

from fedlearn.crypto.certificates import Credential, node_public_key, site_credential
from server.superlink.gateway import CLOCK_SECONDS, FLEET_PATHS, MAX_BODY, Clocks, Gateway, may_ask

SITE, OTHER = (site_credential(name, datetime.now(UTC)) for name in ("a", "b"))


def signed(site: Credential, now: datetime) -> dict[str, str]:
    """The head by which a node says who it is, as Flower's client writes it."""
    stamp = now.isoformat()
    return {
        "flwr-public-key": b64encode(node_public_key(site.certificate)).decode(),
        "flwr-signature": b64encode(sign_message(site.key, stamp.encode())).decode(),
        "flwr-timestamp": stamp,
    }


def unheard(event: str, site: str, **fields: object) -> None:
    """Nobody listens."""


def ask(
    method: str, path: str, body: bytes = b"", upstream: int = 200, **headers: str
) -> tuple[httpx.Response, list[httpx.Request]]:
    """One request through the gateway: the answer, and what the SuperLink saw of it."""
    seen: list[httpx.Request] = []

    def superlink(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if upstream == 0:
            raise httpx.ConnectError("down")
        extra = {"content-type": "application/x-protobuf", "flwr-a": "b", "server": "secret"}
        return httpx.Response(upstream, content=b"\x00answer", headers=extra)

    headers = signed(SITE, datetime.now(UTC)) | headers

    async def run() -> httpx.Response:
        inner = httpx.AsyncClient(transport=httpx.MockTransport(superlink))
        app: Any = Gateway(
            "https://127.0.0.1:1", inner, {node_public_key(SITE.certificate): "a"}, unheard
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            return await client.request(method, path, content=body, headers=headers)

    return asyncio.run(run()), seen


def test_gateway__knows_every_path_of_a_node_and_no_registration() -> None:
    there = {route.path for route in fleet_router.routes}  # type: ignore[attr-defined]
    registration = {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert there - registration == FLEET_PATHS, "flwr has changed: see server/superlink/gateway.py"


def test_gateway__is_closed_for_everything_else_that_a_superlink_serves() -> None:
    schema = create_app().openapi()["paths"]
    others = {path for path in schema if path not in FLEET_PATHS and path != "/health"}
    assert {p.split("/")[2] for p in others if p.startswith("/v1/")} >= {"control", "runtime"}
    for path in (*others, "/docs", "/openapi.json", "/", "/v1/fleet/../control/start-run"):
        answer, seen = ask("POST", path)
        assert (answer.status_code, seen) == (404, []), path


@pytest.mark.parametrize("path", sorted(FLEET_PATHS))
def test_gateway__passes_bodies_on_and_back_unchanged(path: str) -> None:
    body = bytes(range(256)) * 40
    answer, [seen] = ask("POST", path, body, **{"flwr-other": "s", "x-other": "o"})
    assert (seen.url.path, seen.content) == (path, body)
    assert seen.headers["flwr-other"] == "s"
    assert seen.headers["flwr-public-key"]
    assert "x-other" not in seen.headers
    assert answer.content == b"\x00answer"
    assert (answer.headers["content-type"], answer.headers["flwr-a"]) == (
        "application/x-protobuf",
        "b",
    )
    assert "server" not in answer.headers


STRANGE: Mapping[str, Callable[[], dict[str, str]]] = {
    "of another site": lambda: signed(OTHER, datetime.now(UTC)),
    "old": lambda: signed(SITE, datetime.now(UTC) - timedelta(minutes=6)),
    "of the future": lambda: signed(SITE, datetime.now(UTC) + timedelta(minutes=6)),
    "no key": lambda: {"flwr-public-key": "?"},
    "no time of day": lambda: {"flwr-timestamp": "2026-11-30"},
    "no zone": lambda: {"flwr-timestamp": "2026-11-30T00:00:00"},
    "no signature": lambda: {"flwr-signature": ""},
    "the signature of another": lambda: {
        "flwr-signature": signed(OTHER, datetime.now(UTC))["flwr-signature"]
    },
}


@pytest.mark.parametrize("what", STRANGE)
def test_gateway__reads_no_body_of_whom_it_does_not_know(what: str) -> None:
    answer, seen = ask("POST", "/v1/fleet/pull-messages", b"x", **STRANGE[what]())
    assert (answer.status_code, seen) == (401, [])


def test_head__on_a_certified_connection_is_of_that_certificate() -> None:
    mine, other = (node_public_key(one.certificate) for one in (SITE, OTHER))
    now = datetime.now(UTC)
    head = {name.encode(): value.encode() for name, value in signed(SITE, now).items()}
    assert may_ask(head, [mine, other], mine, now)
    assert not may_ask(head, [mine, other], other, now)
    assert not may_ask(head, [other], mine, now)
    assert not may_ask({}, [mine], mine, now)


def test_gateway__passes_a_refusal_back() -> None:
    answer, _ = ask("POST", "/v1/fleet/pull-messages", upstream=401)
    assert (answer.status_code, answer.content) == (401, b"\x00answer")


def test_gateway__refuses_a_body_that_is_too_large_and_other_methods() -> None:
    answer, seen = ask("POST", "/v1/fleet/push-object", b"x" * (MAX_BODY + 1))
    assert (answer.status_code, seen) == (413, [])
    answer, seen = ask("GET", "/v1/fleet/pull-messages")
    assert (answer.status_code, seen) == (404, [])


def test_gateway__says_when_the_superlink_is_down_and_is_healthy_itself() -> None:
    assert ask("POST", "/v1/fleet/pull-messages", upstream=0)[0].status_code == 503
    answer, seen = ask("GET", "/health")
    assert (answer.status_code, seen) == (200, [])


@pytest.mark.parametrize("ahead", [3600.0, 6.0, -3600.0, -310.0])
def test_clock__that_is_wrong_is_told_by_the_name_of_its_site_once_a_minute(ahead: float) -> None:
    told: list[tuple[str, float]] = []
    clocks, now = Clocks(lambda site, seconds: told.append((site, seconds))), datetime.now(UTC)
    for passed in (0.0, 1.0, CLOCK_SECONDS + 1):
        there = now + timedelta(seconds=passed)
        heads = signed(SITE, there + timedelta(seconds=ahead))
        clocks.look("a", {k.encode(): v.encode() for k, v in heads.items()}, there)
    assert told == [("a", pytest.approx(ahead))] * 2


@pytest.mark.parametrize("stamp", [b"", b"yesterday", b"\xff", b"2026-01-01T00:00:00"])
def test_clock__of_which_nothing_can_be_read_is_not_told(stamp: bytes) -> None:
    clocks = Clocks(lambda site, seconds: pytest.fail("told"))
    clocks.look("a", {b"flwr-timestamp": stamp}, datetime.now(UTC))
    heads = signed(SITE, datetime.now(UTC) - timedelta(seconds=200))
    clocks.look("a", {k.encode(): v.encode() for k, v in heads.items()}, datetime.now(UTC))
