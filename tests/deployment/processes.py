"""Real processes of `fedlearn server` and `fedlearn client`, each ended by its own id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedlearn.privacy.noise import TEST_NOISE
from tests import warm

from .world import World

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 480.0
"""Seconds after which a test gives up; nothing is decided by how long something takes."""

FAULTY = "tests.deployment.faulty"
QUICK = ("experiment=medical_heart", "training.dp_engine=fast")


@dataclass
class Stage:
    """The processes of one test; all of them are gone when it ends."""

    world: World
    noise: str | None = "7"
    """The seed of noise that repeats; None for real noise."""
    options: Sequence[str] = QUICK
    """What all runs have in common."""
    cold: bool = False
    """Whether Python itself is started for every program, as by their users."""
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
        arguments = ["server", "server.yaml", *self.options, *overrides]
        return self._start(arguments, folder, folder / "server.log")

    def queue(self) -> subprocess.Popen[bytes]:
        """Start a coordinator that serves its queue."""
        folder = self.world.coordinator
        return self._start(["server", "server.yaml", "--queue"], folder, folder / "server.log")

    def faulty_site(self, name: str, **extra: str) -> subprocess.Popen[bytes]:
        """Start a site's process that fails on cue; `extra` goes into its environment."""
        folder = self.world.root / name
        arguments = ["client", "site.yaml"]
        self.sites[name] = self._start(arguments, folder, folder / "client.log", FAULTY, extra)
        return self.sites[name]

    def faulty_server(self, *overrides: str) -> subprocess.Popen[bytes]:
        """Start a run whose process fails on the cues in the coordinator's folder."""
        folder = self.world.coordinator
        arguments = ["server", "server.yaml", *self.options, *overrides]
        return self._start(arguments, folder, folder / "server.log", FAULTY)

    def tend(self, server: subprocess.Popen[bytes], name: str) -> int:
        """Start a killed site anew, as systemd does, until the server has ended; its exit code.

        No round begins while the site is away.
        """
        hold = self.world.coordinator / "hold"
        deadline, lives = time.monotonic() + PATIENCE, self.lives(name)
        while server.poll() is None:
            assert time.monotonic() < deadline, "waited too long for the run"
            if self.sites[name].poll() == -signal.SIGKILL:
                hold.touch()
                lives = self.lives(name)
                self.faulty_site(name)
            if hold.exists() and self.lives(name) > lives:
                hold.unlink()
            time.sleep(0.05)
        hold.unlink(missing_ok=True)
        return server.returncode

    def lives(self, name: str) -> int:
        """How often a site has come online."""
        return self.log(name).count('"event": "online"')

    def _start(
        self,
        arguments: list[str],
        folder: Path,
        log: Path,
        module: str = "fedlearn",
        extra: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        # What is loaded before all else is loaded by Python alone.
        begin = subprocess.Popen if self.cold or extra else warm.Popen
        with log.open("ab") as output:
            process = begin(
                [sys.executable, "-m", module, *arguments],
                cwd=folder, env={**environment(self.noise), **(extra or {})},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def set_cues(self, folder: Path, *cues: str) -> None:
        """Where the processes in a folder will fail."""
        (folder / "cues").write_text("".join(f"{cue}\n" for cue in cues))

    def cues(self, folder: Path) -> list[str]:
        """What a process has not failed at yet."""
        return (folder / "cues").read_text().splitlines()

    def said_by_coordinator(self) -> str:
        """The end of what it has written."""
        return (self.world.coordinator / "server.log").read_text()[-2000:]

    def log(self, name: str) -> str:
        """What a site's process has written so far."""
        path = self.world.root / name / "client.log"
        return path.read_text() if path.exists() else ""


@contextmanager
def staged(
    world: World, noise: str | None = "7", options: Sequence[str] = QUICK, *, cold: bool = False
) -> Iterator[Stage]:
    """A stage whose processes are ended, whatever happens."""
    stage = Stage(world, noise, options, cold)
    try:
        yield stage
    finally:
        for process in stage.started:
            process.terminate()  # all at once: each may be in the middle of a question
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


def environment(noise: str | None) -> dict[str, str]:
    """That of this process, with the project on the path, and noise that repeats if wanted."""
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    found = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
    }
    return found if noise is None else found | {TEST_NOISE: noise}


def children(pid: int) -> dict[str, int]:
    """The programs that a server has started, by name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if b"server.superlink.supervised" in words:
                found[words[words.index(b"server.superlink.supervised") + 1].decode()] = int(child)
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
