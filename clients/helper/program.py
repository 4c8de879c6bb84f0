"""`fedlearn helper`: one process that is the second server of run after run."""

from __future__ import annotations

import threading
from pathlib import Path

from clients.helper import asked, helperfile
from clients.helper.app import HELPER_FILE, app
from clients.supernode.memory import Memory
from clients.supernode.node import Node
from clients.supernode.run_lock import claimed


def serve(path: Path, stop: threading.Event) -> None:
    """Serve the second server of a file until `stop` is set.

    Raises:
        ConfigError: the file is wrong.
        PrivacyError: another process serves it.
        ProtocolError: the coordinator does not take it.
    """
    path = path.absolute()
    file = helperfile.load(path)
    asked.forget_old(file.state)
    memory = Memory(file.state / "runtime")
    node = Node(config={HELPER_FILE: str(path)}, app=app, stop=stop, memory=memory)
    with claimed([file.state / "helper"]):
        node.connected(file.server.address, file.tls, file.server.authority)
