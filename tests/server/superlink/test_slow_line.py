"""An update over a line of a megabit with 300 ms, which keeps nothing: through a real SuperLink."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from clients.supernode.fleet import Fleet
from fedlearn.crypto.certificates import node_public_key, site_credential
from fedlearn.flower import private
from server.programs import superlink
from server.serverfile import ServerFile
from server.superlink.endpoint import SuperLink
from tests.deployment.line import Line

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # flwr reads .gitignore files with an old name of pathspec.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]

UPDATE = 5_000_000
MEGABIT, LATE = 125_000.0, 0.15
TORN = 2_000_000
"""Bytes until a connection is torn: less than the first part."""


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    nowhere = Path("unused")
    file = ServerFile(
        listen="127.0.0.1:1", keys=nowhere, roster=nowhere, introductions=nowhere, tls=nowhere,
        state=tmp_path_factory.mktemp("link"), wait_seconds=1.0, client_certificates=True,
    )  # fmt: skip
    with superlink(file) as running:
        yield running


def update(seed: int) -> RecordDict:
    data = np.random.default_rng(seed).bytes(UPDATE)
    array = Array(dtype="uint8", shape=(len(data),), stype="fedlearn.sealed", data=data)
    return RecordDict({"arrays": ArrayRecord({"sealed": array})})


def bytes_of(message: Message) -> bytes:
    return message.content.array_records["arrays"]["sealed"].data


@pytest.mark.parametrize("drop", [None, TORN], ids=["slow", "slow-and-torn"])
def test_slow_line__carries_an_update_once(link: SuperLink, drop: int | None) -> None:
    """What has arrived is not sent again, but for the part that a torn connection was carrying."""
    credential = site_credential("a", datetime.now(UTC))
    name = f"site {drop}"
    node = link.register(node_public_key(credential.certificate), name)
    line = Line(int(link.address.rpartition(":")[2]), MEGABIT, LATE, drop)
    tls = ssl.create_default_context(cadata=link._authority.decode())
    reasons: list[str] = []
    site = Fleet(f"127.0.0.1:{line.port}", credential.key, tls, lambda why, _: reasons.append(why))
    assert site.activate(None) == node
    run_id = link.start_run({"config": "{}", "overrides": ""})
    with link.carry_out(run_id, 600.0) as (grid, _):
        private.identify(run_id=run_id, node_id=1)
        asked = RecordDict()
        [sent] = grid.push_messages([Message(asked, node, "query.hello")])
        incoming = site.receive()
        assert incoming is not None
        private.identify(run_id=run_id, node_id=node)
        answer = Message(update(0), reply_to=incoming.message)
        replies: list[Message] = []
        collecting = threading.Thread(target=lambda: replies.extend(collected(grid, sent)))
        collecting.start()
        before = line.upwards
        site.reply(answer, 0.1)
        spent = line.upwards - before
        collecting.join()
    [reply] = replies
    assert bytes_of(reply) == np.random.default_rng(0).bytes(UPDATE)
    assert UPDATE < spent < 1.15 * UPDATE + TORN * line.dropped
    assert line.dropped <= 4
    assert (line.dropped > 0) == (drop is not None) == bool(reasons)
    site.close()
    line.close()


def collected(grid: object, sent: str) -> list[Message]:
    found: list[Message] = []
    while not found:
        found = list(grid.pull_messages([sent]))  # type: ignore[attr-defined]
    return found
