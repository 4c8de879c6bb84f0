"""The two programs beside a coordinator: the SuperLink, and the gateway before it.

The gateway holds nothing: where it dies it is started anew, sites and the run ask again, and no
round is lost. A SuperLink keeps everything in memory: who has it looks whether it is there
(`SuperLink.ready`), and where it is not begins anew with another one (`server.deployment`).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.files import PRIVATE, write_atomically
from fedlearn.core.logs import EVENTS, turned
from fedlearn.crypto.certificates import authority_credential, server_credential
from server.serverfile import Participants, ServerFile
from server.superlink.endpoint import SuperLink

START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_MOST_STARTS: Final = 3
"""Of a program that is killed while it starts, as where memory is short."""
_LOOK_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 30.0
"""Between two starts of a program that ends at once."""

_PROGRAM: Final = Path(__file__).resolve().parents[1]


@contextmanager
def superlink(file: ServerFile) -> Iterator[SuperLink]:
    """A SuperLink that only this machine can reach; ends with the context, or with this process.

    It keeps everything in memory: what a run needs to go on is in the run's own folder.

    Raises:
        ProtocolError: it did not start.
    """
    folder = file.state / "superlink"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _loopback_credentials(folder)
    secret = secrets.token_bytes(32)
    write_atomically(folder / "secret", secret, PRIVATE)
    port = _free_port()
    arguments = [
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(folder / "ca.crt")),
        *("--ssl-certfile", str(folder / "loopback.tls")),
        *("--ssl-keyfile", str(folder / "loopback.tls")),
        *("--isolation", "process", "--superexec-auth-secret-file", str(folder / "secret")),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]
    link = SuperLink(f"127.0.0.1:{port}", authority, secret)
    program = Program("superlink", arguments, file.state)
    try:
        program.start(link.ready)
        yield link
    finally:
        link.close()
        program.end()


@contextmanager
def gateway(file: ServerFile, link_address: str, federation: Participants) -> Iterator[None]:
    """The gateway on `file.listen`, started anew where it dies; ends with the context, or with
    this process.

    Raises:
        ConfigError: the address cannot be listened on.
        ProtocolError: it did not start.
    """
    _check_address(file)
    arguments = [
        *("--host", file.host, "--port", str(file.port), "--tls", str(file.tls)),
        *("--upstream", link_address),
        *("--authority", str(file.state / "superlink" / "ca.crt")),
    ]
    sites = file.state / "sites.pem"
    second = federation.helper.certificate if federation.helper else ""
    sites.write_text("".join([*federation.certificates.values(), second]))
    arguments += ["--sites", str(sites)]
    if not file.client_certificates:
        arguments.append("--without-certificates")
    program = Program("gateway", arguments, file.state)
    try:
        program.start(lambda: _listens(file))
        with kept(program):
            yield
    finally:
        program.end()


@dataclass
class Program:
    """One of the two, in a process of its own that ends with this one."""

    name: str
    arguments: Sequence[str]
    state: Path
    """The folder of its log."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _seen: int = field(default=0, init=False)
    """Bytes of its log that were looked at."""

    def events(self) -> Iterator[dict[str, object]]:
        """What it has written to its log as events since the last look."""
        with self._log.open("rb") as written:
            written.seek(self._seen)
            whole = written.read().rpartition(b"\n")[0]
        self._seen += len(whole) + 1 if whole else 0
        if turned(self._log):
            self._seen = 0
        for line in whole.splitlines():
            if line.startswith(b'{"event"'):
                with suppress(ValueError):  # torn when it was killed
                    yield json.loads(line)

    @property
    def ended(self) -> int | None:
        """How it has ended, where it has."""
        return None if self._process is None else self._process.poll()

    def start(self, ready: Callable[[], bool] | None = None) -> None:
        """Start it, and wait until it is `ready`; anew where it is killed meanwhile.

        Raises:
            ProtocolError: it did not start.
        """
        for left in reversed(range(_MOST_STARTS)):
            self._begin()
            if ready is None or self._became(ready):
                return
            code = self.ended
            if code != -signal.SIGKILL or not left:  # by itself: so it would end again
                break
            fields = {"program": self.name, "ended_with": code}
            EVENTS.warning("restarted", extra={"fields": fields})
            self.end()
        raise ProtocolError("", "start", f"the {self.name} did not start; see {self._log}")

    def _begin(self) -> None:
        environment = dict(os.environ)
        environment["FLWR_HOME"] = str(self.state / "flower")
        paths = [str(_PROGRAM), *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys(paths)))
        if turned(self._log):
            self._seen = 0
        with self._log.open("ab") as output:
            self._seen = self._seen or output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server.superlink.supervised", self.name, *self.arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                # Ctrl-C in a terminal is for this process, which ends it when a round is over.
                start_new_session=True,
            )

    def _became(self, ready: Callable[[], bool]) -> bool:
        """Whether it is `ready` before it ends, and in time."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.ended is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def end(self) -> None:
        """Have it end, and make it."""
        process = self._process
        if process is None:
            return
        if process.stdin:
            with suppress(OSError):  # of one that was killed
                process.stdin.close()  # the child notices, and ends itself
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
            return
        process.kill()
        process.wait()

    @property
    def _log(self) -> Path:
        return self.state / f"{self.name}.log"


@contextmanager
def kept(program: Program) -> Iterator[None]:
    """While this lasts a program that ends is started anew, and the log says so; what it tells as
    an event is one of this process."""
    over = threading.Event()

    def watch() -> None:
        pause = _LOOK_SECONDS
        while not over.wait(pause):
            with suppress(OSError):  # its log was taken away
                for fields in program.events():
                    EVENTS.warning(str(fields.pop("event")), extra={"fields": fields})
            code = program.ended
            if code is None:
                pause = _LOOK_SECONDS
                continue
            fields = {"program": program.name, "ended_with": code}
            EVENTS.warning("restarted", extra={"fields": fields})
            program.end()
            with suppress(OSError):  # no process to be had, or a full disk: the next time
                program.start()
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _loopback_credentials(folder: Path) -> bytes:
    """A certificate for this machine alone, new at every start; returns who certifies it (PEM)."""
    now = datetime.now(UTC)
    authority = authority_credential("loopback", now, days=365)
    server = server_credential(authority, ["127.0.0.1", "localhost"], now, days=365)
    write_atomically(folder / "loopback.tls", server.pem(), PRIVATE)
    (folder / "ca.crt").write_bytes(authority.certificate_pem())
    return authority.certificate_pem()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _check_address(file: ServerFile) -> None:
    """Refuse an address that is not to be had; waits for a gateway that is ending."""
    deadline = time.monotonic() + _STOP_SECONDS
    family = socket.AF_INET6 if ":" in file.host else socket.AF_INET
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                return probe.bind((file.host, file.port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise ConfigError(
                        [f"listen={file.listen}: cannot be listened on ({error.strerror})"]
                    ) from None
        time.sleep(0.2)


def _listens(file: ServerFile) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(file.host, file.host)
    try:
        socket.create_connection((host, file.port), timeout=1.0).close()
    except OSError:
        return False
    return True
