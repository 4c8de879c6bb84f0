"""Real processes of `fedlearn server` and `fedlearn client`, each ended by its own id."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedlearn.privacy.noise import TEST_NOISE

from .world import World

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 480.0
"""Seconds after which a test gives up; nothing is decided by how long something takes."""

QUICK = ("experiment=medical_heart", "training.dp_engine=fast")


@dataclass
class Stage:
    """The processes of one test; all of them are gone when it ends."""

    world: World
    noise: str = "7"
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    sites: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def site(self, name: str) -> subprocess.Popen[bytes]:
        """Start a site's process."""
        folder = self.world.root / name
        self.sites[name] = self._start(["client", "site.yaml"], folder, folder / "client.log")
        return self.sites[name]

    def server(self, *overrides: str) -> subprocess.Popen[bytes]:
        """Start a run."""
        folder = self.world.coordinator
        arguments = ["server", "server.yaml", *QUICK, *overrides]
        return self._start(arguments, folder, folder / "server.log")

    def _start(self, arguments: list[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedlearn", *arguments],
                cwd=folder, env=environment(self.noise), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output,
            )  # fmt: skip
        self.started.append(process)
        return process

    def log(self, name: str) -> str:
        """What a site's process has written so far."""
        path = self.world.root / name / "client.log"
        return path.read_text() if path.exists() else ""


@contextmanager
def staged(world: World) -> Iterator[Stage]:
    """A stage whose processes are ended, whatever happens."""
    stage = Stage(world)
    try:
        yield stage
    finally:
        for process in stage.started:
            end(process)


def end(process: subprocess.Popen[bytes]) -> int:
    """Ask a process to end, and make it."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            return process.wait(30)
        process.kill()
    return process.wait()


def wait_for(what: str, there: Callable[[], object], *, unless: subprocess.Popen[bytes]) -> None:
    """Wait until something is there; fail at once if `unless` has ended before."""
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert unless.poll() is None, f"ended with {unless.returncode} before {what}"
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.05)


def environment(noise: str) -> Mapping[str, str]:
    """That of this process, with the project on the path and noise that repeats."""
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        TEST_NOISE: noise,
    }


def children(pid: int) -> dict[str, int]:
    """The programs that a server has started, by name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if b"server.child" in words:
                found[words[words.index(b"server.child") + 1].decode()] = int(child)
    return found


def listening(pid: int) -> set[tuple[str, int]]:
    """The addresses (hex of /proc/net/tcp) and ports that a process listens on."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(link.readlink()))
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found
