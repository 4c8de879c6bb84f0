"""`flwr run`, with a SuperLink of its own that ends with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(ready: Callable[[], Any], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def flwr_run(app: Path, home: Path, port: int, nodes: int, options: str) -> None:
    """Start an app in Flower's simulation runtime; end it by `end_processes_of(home)`."""
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
    flwr = str(Path(sys.executable).with_name("flwr"))
    command = [flwr, "run", ".", "--federation-config", federation, "-c", options]
    subprocess.run(command, cwd=app, env=environment, check=True, capture_output=True, timeout=120)


def end_processes_of(home: Path) -> None:
    """End the SuperLink and what it started: all that have `home` as their FLWR_HOME."""
    mark = f"FLWR_HOME={home}\0".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGTERM)
        except OSError:
            continue  # it has ended, or is not ours
