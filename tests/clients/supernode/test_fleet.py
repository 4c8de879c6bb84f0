"""What a coordinator's answers mean to a site, and the private names of flwr behind them."""

from __future__ import annotations

import gzip
import ssl
import time
from collections.abc import Iterator
from email.utils import formatdate

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.proto import fleet_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.error import ApiErrorCode

from clients.supernode.answers import MOST_ANSWER
from clients.supernode.fleet import HEARTBEAT_SECONDS, Fleet
from clients.supernode.pace import FIRST_RATE, PART_SECONDS
from clients.supernode.refusals import NotEnrolledError, RunOverError
from fedlearn.flower import envelopes, private
from fedlearn.flower.envelope import (
    INLINE,
    MOST_HEAD,
    MOST_OBJECTS,
    SITE_GIVE,
    SITE_TAKE,
    Capacity,
    Envelope,
)

CHANGED = "flwr has changed: mend clients/supernode/fleet.py"


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
    made._client._client._transport = answer
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


def test_fleet__goes_nowhere_else_though_it_is_told_to() -> None:
    """A redirect could make it send what it has into the site's own network."""
    seen: list[str] = []

    def coordinator(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(307, headers={"location": "http://127.0.0.1/intranet"})

    made, _ = fleet(httpx.MockTransport(coordinator))
    with pytest.raises(NotEnrolledError, match="answered 307"):
        made.activate(None)
    assert seen == ["coordinator"]


def answering(response: httpx.Response) -> Fleet:
    made, _ = fleet(httpx.MockTransport(lambda _: response))
    made._node = node_pb2.Node(node_id=1)
    return made


def test_fleet__ends_at_no_answer_that_cannot_be_read() -> None:
    made = answering(httpx.Response(200, content=b"\xff"))
    with pytest.raises(NotEnrolledError, match="cannot be read"):
        made.activate(None)
    with pytest.raises(RunOverError, match="cannot be read"):
        made.receive()
    made.leave()


class Endless(httpx.SyncByteStream):
    """An answer that goes on; `given` is how many MiB of it were taken."""

    given = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.given += 1
            yield bytes(2**20)


def test_fleet__reads_no_answer_without_end() -> None:
    endless = Endless()
    with pytest.raises(RunOverError, match="more than"):
        answering(httpx.Response(200, stream=endless)).receive()
    assert endless.given == MOST_ANSWER // 2**20 + 1
    endless.given = 0
    with pytest.raises(RunOverError, match="more than"):  # nor a refusal
        answering(httpx.Response(412, stream=endless)).receive()
    assert endless.given == MOST_ANSWER // 2**20 + 1


def test_fleet__unpacks_no_answer() -> None:
    """A kilobyte that was packed may be a gigabyte."""
    packed = Envelope(gzip.compress(bytes(2**20))).encode()
    heads = {"content-encoding": "gzip"}
    with pytest.raises(RunOverError, match="packed"):
        answering(httpx.Response(200, stream=httpx.ByteStream(packed), headers=heads)).receive()


def test_largest_answer__holds_the_largest_envelope() -> None:
    objects = (bytes(INLINE // MOST_OBJECTS),) * MOST_OBJECTS
    assert len(Envelope(bytes(MOST_HEAD), objects).encode()) <= MOST_ANSWER


@pytest.mark.parametrize(
    ("content", "heads"),
    [
        (b"[" * 100_000, {}),
        (b'{"code":' + b"9" * 5000 + b"}", {}),
        (b"\xff\xfe", {}),
        (b"zz", {"content-type": "text/plain; charset=hex"}),
        (b"zz", {"date": "Mon, 30 Nov 2026 10:00:00 +9999999999"}),
    ],
)
def test_refusal__that_cannot_be_read_is_one_all_the_same(
    content: bytes, heads: dict[str, str]
) -> None:
    for status in (401, 412):
        with pytest.raises(NotEnrolledError):
            answering(httpx.Response(status, content=content, headers=heads)).activate(None)


def message(content: RecordDict) -> Message:
    private.identify(run_id=7, node_id=1)
    return Message(content, dst_node_id=9, message_type="query.hello")


def online(coordinator: dict[str, bytes]) -> tuple[Fleet, list[httpx.Request]]:
    """A site that has come online; the coordinator says to a path what it says."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        path = request.url.path
        return httpx.Response(200, content=coordinator.get(path, coordinator.get("else", b"")))

    made, _ = fleet(httpx.MockTransport(answer))
    made._node = node_pb2.Node(node_id=9)
    return made, seen


def taken(objects: bool = True) -> bytes:
    """What a coordinator answers that has a message: all of it, or its head alone."""
    with envelopes.packing() as packed:
        one = packed(message(RecordDict({"n": ConfigRecord({"n": 3})})))
        head = fleet_pb2.PullMessagesResponse(
            messages_list=[one.head], message_object_trees=[one.tree]
        )
        return Envelope(
            head.SerializeToString(), tuple(one.inline(Capacity())) if objects else ()
        ).encode()


RUN = run_pb2.GetRunResponse(run=run_pb2.Run(run_id=7)).SerializeToString()


def test_fleet__takes_no_run_whose_config_has_values_of_no_type() -> None:
    run = run_pb2.Run(run_id=7)
    run.override_config["config"].SetInParent()
    described = run_pb2.GetRunResponse(run=run).SerializeToString()
    made, _ = online({SITE_TAKE: taken(), "else": described})
    with pytest.raises(RunOverError, match="no description of a run"):
        made.receive()


def test_fleet__takes_a_message_that_is_whole() -> None:
    made, _ = online({SITE_TAKE: taken(), "else": RUN})
    incoming = made.receive()
    assert incoming is not None
    assert incoming.message.content.config_records["n"]["n"] == 3


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"no parcel", "cannot be read"),
        (Envelope(b"\xff\xff").encode(), "cannot be read"),
        (Envelope(b"\x0a\x00").encode(), r"cannot be read \(not one message\)"),
        (taken(objects=False), "took the message back"),
    ],
)
def test_fleet__goes_on_after_a_message_that_it_cannot_have(said: bytes, reason: str) -> None:
    """The last one is what it meets when the next is sent while it fetches a large one."""
    gone = message_pb2.PullObjectResponse(object_found=False).SerializeToString()
    made, _ = online({SITE_TAKE: said, "/v1/fleet/pull-object": gone, "else": RUN})
    with pytest.raises(RunOverError, match=reason):
        made.receive()


def test_fleet__gives_a_large_answer_in_parts_that_a_slow_line_carries() -> None:
    """And from the start again where the coordinator has dropped what it had of it."""
    data = np.arange(INLINE // 4 + 2_000_000, dtype=np.uint32)
    reply = message(RecordDict({"a": ArrayRecord({"x": Array(data)})}))
    with envelopes.packing() as packed:
        names = list(packed(reply).objects)
    missing = fleet_pb2.PushMessagesResponse(session_id="s", objects_to_push=names[-1:])
    said = Envelope(missing.SerializeToString()).encode()
    made, seen = online({SITE_GIVE: said})  # to every push it says that nothing was stored
    with pytest.raises(RunOverError, match="did not arrive whole"):
        made.reply(reply, 1.0)
    paths = [request.url.path for request in seen]
    assert paths == [SITE_GIVE, "/v1/fleet/push-object"] * 3
    sizes = [len(request.content) for request in seen]
    first = FIRST_RATE * PART_SECONDS
    assert first / 2 < sizes[0] < first + 10_000
    assert first < max(sizes) < INLINE + 10_000, "more, once the line is known to be fast"
