"""Processes that fail on cue: the real programs around an app, or a grid, that stops them.

    python -m tests.deployment.faulty client site.yaml
    python -m tests.deployment.faulty server server.yaml key=value ...

The file `cues` beside the site's or coordinator's file holds one cue a line, `WHEN WHAT`:
`before train` and `after train` end a site's process, as a power cut would, before it has
looked at a message and after its app has answered it. `round 1` ends a coordinator's after
a round, `send query.secagg_agree` when it is about to send such messages, and
`replay train` makes it send such messages twice. While there is a file `hold`, no round
begins. A cue is struck out before it is
followed, so that the process that comes next meets the one after it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Context, Message

from clients.app import app
from clients.supernode.node import serve
from fedlearn.core.logs import log_json
from fedlearn.flower.messages import read_refusal
from fedlearn.results.result import RoundResult
from server import deployment, serverfile
from server.run import Silent
from server.stop import Stop
from server.superlink.link_grid import LinkGrid

CUES = Path("cues")


def follow(*cue: object) -> bool:
    """Whether this is the next cue; it is struck out on the disk."""
    left = CUES.read_text().splitlines() if CUES.exists() else []
    if not left or left[0] != " ".join(map(str, cue)):
        return False
    fresh = CUES.with_suffix(".new")
    fresh.write_text("".join(f"{line}\n" for line in left[1:]))
    fresh.replace(CUES)
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cued(message: Message, context: Context) -> Message:
    """The site's app, and the end of its process."""
    kind = message.metadata.message_type
    if follow("before", kind):
        die()
    reply = app(message, context)
    if follow("after", kind):
        die()
    return reply


def client(path: Path) -> None:
    """`fedlearn client` without its look at the own files, which would refuse some faults."""
    log_json(sys.stderr, role="client", file=str(path))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    serve(path, cued, stop)  # type: ignore[arg-type]


class Watcher(Silent):
    """Ends the coordinator between two rounds, or makes it wait there."""

    def round_finished(self, entry: RoundResult) -> None:
        while Path("hold").exists():
            time.sleep(0.05)
        if follow("round", entry.round):
            die()


class Copyist:
    """Around the grid's two calls: ends the coordinator, or says everything once more."""

    def __init__(self) -> None:
        self.push, self.pull = LinkGrid.push_messages, LinkGrid.pull_messages
        self.copied: list[Message] = []
        self.waiting: set[str] = set()

    def push_messages(self, grid: LinkGrid, messages: Iterable[Message]) -> Iterable[str]:
        outgoing = list(messages)
        kinds = {message.metadata.message_type for message in outgoing}
        for kind in kinds:
            if follow("send", kind):
                die()
            if follow("replay", kind):
                self.copied = list(outgoing)
        ids = list(self.push(grid, outgoing))
        self.waiting = set(ids)
        return ids

    def pull_messages(self, grid: LinkGrid, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(self.pull(grid, message_ids))
        self.waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        if self.copied and not self.waiting:
            again, self.copied = self.copied, []
            Path("replayed.json").write_text(json.dumps(self.said_again(grid, again)))
        return replies

    def said_again(self, grid: LinkGrid, messages: list[Message]) -> list[str]:
        """What sites answer to a copy of a message that they have answered."""
        waiting, found = set(self.push(grid, messages)), list[str]()
        while waiting:
            for reply in self.pull(grid, waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                refusal = None if reply.has_error() else read_refusal(reply.content)
                found.append(refusal.reason if refusal else "an answer")
        return found


def server(path: Path, overrides: list[str]) -> None:
    """`fedlearn server` with a listener and a grid that follow cues."""
    copyist = Copyist()
    grid: Any = LinkGrid
    grid.push_messages = lambda self, messages: copyist.push_messages(self, messages)
    grid.pull_messages = lambda self, message_ids: copyist.pull_messages(self, message_ids)
    file = serverfile.load(path)
    config = deployment.deployed(deployment.composed(overrides), Path.cwd())
    deployment.check(file, config, datetime.now(UTC))
    file.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (file.state / "server.jsonl").open("a", encoding="utf-8") as log:
        log_json(log, role="server")
        deployment.serve(file, config, Watcher(), Stop())


if __name__ == "__main__":
    from fedlearn.core.errors import FedlearnError

    role, file, *rest = sys.argv[1:]
    try:
        if role == "client":
            client(Path(file))
        else:
            server(Path(file), rest)
    except FedlearnError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
