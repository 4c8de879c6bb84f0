"""The second server of `secagg=two_server`: in this process, or of another organisation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message, RecordDict

from fedlearn.config import RunConfig
from fedlearn.config.study import is_helper_signed
from fedlearn.core.errors import ProtocolError, StoppedError
from fedlearn.crypto.handshake import ServerOffer
from fedlearn.crypto.identity import fingerprint
from fedlearn.crypto.roster import Roster
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import Replies, SiteGrid
from fedlearn.flower.records import config_record, large_bytes, read_large_bytes, small_bytes
from fedlearn.flower.sealing import Sealing
from fedlearn.rounds import Hello, Invitation
from fedlearn.secagg.keys import is_usable
from fedlearn.secagg.messages import Params
from server.admission import Admission, HelperNode


class SecondServer(Protocol):
    """Who sums keystreams, and looks at proofs."""

    public: bytes
    """Its X25519 key for the run, to which sites seal their seeds."""

    def answer(self, params: Params, request: bytes | memoryview) -> bytes:
        """Its half of a round; one answer for each.

        Raises:
            ProtocolError: it cannot, or does not.
        """
        ...


@dataclass
class RemoteHelper:
    """That of another organisation, over the way that sites' messages go; it has one node."""

    grid: SiteGrid
    name: str
    public: bytes
    vouched: bytes
    """Its identity's signature on that key, which sites look at."""

    def answer(self, params: Params, request: bytes | memoryview) -> bytes:
        """What it says; see `SecondServer`."""
        if self.grid.sealing:
            self.grid.sealing.round = params.round
        content = small_bytes("params", params.encode())
        content["request"] = large_bytes("request", request)
        replies = self.grid.ask(flower.HELP, content, [self.name], _answer)
        return _answer(_only(self.name, replies, "help").content)


def hello_of(grid: SiteGrid, offer: RecordDict, admission: Admission) -> None:
    """Have a second server of another organisation look at the terms.

    Raises:
        ProtocolError: it does not answer, refuses, or is not the one of the roster.
    """
    node = admission.helper
    if node is None:
        return
    replies = grid.ask(flower.HELLO, offer, [node.name], flower.read_hello)
    found = flower.read_hello(_only(node.name, replies, "hello").content)
    if refusal := _refusal(node, found, admission):
        raise ProtocolError(node.name, "hello", refusal)


def _refusal(node: HelperNode, found: Hello, admission: Admission) -> str | None:
    if found.site != node.name or found.public_key != node.public.hex():
        return f"says another name or key than the roster, which has {fingerprint(node.public)}"
    if admission.code and (found.version, found.code) != (admission.version, admission.code):
        return f"runs fedlearn {found.version}: install the same release on both"
    return None


def join(
    grid: SiteGrid,
    config: RunConfig,
    node: HelperNode,
    invitation: Invitation,
    offer: ServerOffer | None,
    largest: int,
) -> RemoteHelper:
    """Have it take the roster of a run; its key, and the channel to it.

    Raises:
        ProtocolError: it refuses, or its key is not signed by the key of the roster.
    """
    asked = flower.invitation(invitation)
    replies = grid.ask(flower.JOIN, asked, [node.name], _joined)
    accepted, public, vouched = _joined(_only(node.name, replies, "join").content)
    run_id = bytes.fromhex(invitation.run_id)
    sites = Roster.from_json(invitation.roster).digest()
    if not is_helper_signed(node.public, config.terms, run_id, public, sites, vouched):
        raise ProtocolError(node.name, "join", "its key is not signed by the key of the roster")
    if offer:
        channel = offer.finish(node.name, node.public, accepted)
        grid.sealing = Sealing({node.name: channel}, largest)
    return RemoteHelper(grid, node.name, public, vouched)


def wait_for(
    is_there: Callable[[], bool], name: str, deadline: float, stopping: Callable[[], bool]
) -> None:
    """Wait until the second server is connected.

    Raises:
        ProtocolError: it was not in time.
        StoppedError: the user stopped the run.
    """
    while not is_there():
        if time.monotonic() > deadline:
            raise ProtocolError(name, "hello", "the second server is not connected")
        if stopping():
            raise StoppedError("stopped while waiting for the second server")
        time.sleep(0.2)


def _only(name: str, replies: Replies, step: str) -> Message:
    for refusal in replies.refusals:
        raise ProtocolError(name, step, refusal.reason)
    for reason in replies.failures.values():
        raise ProtocolError(name, step, reason)
    return replies.answers[name]


def _answer(content: RecordDict) -> bytes:
    data = read_large_bytes(content, "answer")
    if data is None:
        raise ValueError("no answer")
    return data


def _joined(content: RecordDict) -> tuple[bytes, bytes, bytes]:
    record = config_record(content, "helper")
    values = [record.get(one) for one in ("accepted", "public", "vouched")] if record else []
    accepted, public, vouched = (one if isinstance(one, bytes) else None for one in values)
    if accepted is None or public is None or vouched is None or not is_usable(public):
        raise ValueError("no key")
    return accepted, public, vouched
