"""What a coordinator's answers mean to a site, and the private names of flwr behind them."""

from __future__ import annotations

import ssl
import time
from email.utils import formatdate

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.proto import fleet_pb2
from flwr.supercore.error import ApiErrorCode

from clients.fleet import HEARTBEAT_SECONDS, Fleet
from clients.refusals import NotEnrolledError, RunOverError

CHANGED = "flwr has changed: mend clients/fleet.py"


class GaveUpError(Exception):
    """The test has seen enough attempts."""


def fleet(answer: httpx.MockTransport, attempts: int = 0) -> tuple[Fleet, list[str]]:
    said: list[str] = []

    def waiting(reason: str, final: bool) -> None:
        said.append(reason)
        if len(said) > attempts:
            raise GaveUpError

    made = Fleet(
        "coordinator:1", ec.generate_private_key(ec.SECP384R1()), ssl.create_default_context(),
        waiting,
    )  # fmt: skip
    made._client._client = httpx.Client(transport=answer)
    return made, said


def refusing(status: int, code: int | None = None, **headers: str) -> httpx.MockTransport:
    body = {"code": code, "detail": "no"} if code else {}
    return httpx.MockTransport(lambda _: httpx.Response(status, json=body, headers=headers))


def test_fleet__signs_every_request_with_its_node_key() -> None:
    seen: list[httpx.Request] = []

    def coordinator(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = fleet_pb2.ActivateNodeResponse(node_id=9)
        return httpx.Response(200, content=answer.SerializeToString())

    made, _ = fleet(httpx.MockTransport(coordinator))
    assert made.activate(None) == 9, CHANGED
    made.close()
    assert str(seen[0].url) == "https://coordinator:1/v1/fleet/activate-node", CHANGED
    assert {"flwr-public-key", "flwr-signature", "flwr-timestamp"} <= set(seen[0].headers), CHANGED
    request = fleet_pb2.ActivateNodeRequest.FromString(seen[0].content)
    assert request.heartbeat_interval == HEARTBEAT_SECONDS >= HEARTBEAT_MIN_INTERVAL, CHANGED


def test_fleet__tells_a_wrong_clock_from_a_wrong_key() -> None:
    hour_ago = formatdate(time.time() - 3600, usegmt=True)
    made, _ = fleet(refusing(401, date=hour_ago))
    with pytest.raises(NotEnrolledError, match=r"clock is 3\d\d\d seconds ahead of"):
        made.activate(None)
    later = formatdate(time.time() + 3600, usegmt=True)
    made, _ = fleet(refusing(401, date=later))
    with pytest.raises(NotEnrolledError, match="seconds behind"):
        made.activate(None)
    made, _ = fleet(refusing(401, date=formatdate(usegmt=True)))
    with pytest.raises(NotEnrolledError, match=r"does not recognise this node$"):
        made.activate(None)


def test_fleet__tells_an_unknown_key_from_a_run_that_is_over() -> None:
    made, _ = fleet(refusing(412, int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED)))
    with pytest.raises(NotEnrolledError, match="not enrolled"):
        made.activate(None)
    made, _ = fleet(refusing(412, int(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED)))
    with pytest.raises(RunOverError):
        made.activate(None)


def test_fleet__after_a_crash_says_goodbye_for_the_node_that_counts_as_online() -> None:
    paths: list[str] = []

    def coordinator(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("heartbeat"):
            return httpx.Response(200, content=b"")  # it comes when it comes
        paths.append(request.url.path.rpartition("/")[2])
        if len(paths) == 1:
            code = int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED)
            return httpx.Response(412, json={"code": code, "detail": "no"})
        return httpx.Response(200, content=b"")

    made, _ = fleet(httpx.MockTransport(coordinator))
    made.activate(9)
    made.close()
    assert paths == ["activate-node", "deactivate-node", "activate-node"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), "Connection refused"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] x"), "certificate is not valid here"),
        (httpx.ReadError("[SSL: TLSV1_ALERT_UNKNOWN_CA] x"), "does not accept this site's"),
        (httpx.RemoteProtocolError("Server disconnected"), "taken off the roster, or expired"),
    ],
)
def test_fleet__tries_again_and_says_why(error: httpx.TransportError, said: str) -> None:
    def down(request: httpx.Request) -> httpx.Response:
        raise error

    made, reasons = fleet(httpx.MockTransport(down), attempts=3)
    with pytest.raises(GaveUpError):
        made.activate(None)
    assert len(reasons) == 4
    assert said in reasons[0]


def test_fleet__waits_for_a_coordinator_that_is_starting() -> None:
    made, reasons = fleet(refusing(503), attempts=1)
    with pytest.raises(GaveUpError):
        made.activate(None)
    assert reasons == ["the coordinator answers 503"] * 2
