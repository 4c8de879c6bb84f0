"""The programs that a coordinator needs beside itself: the SuperLink, and the gateway before it."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.crypto.certificates import authority_credential, server_credential
from server.serverfile import Participants, ServerFile
from server.superlink.endpoint import SuperLink

START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_PROGRAM: Final = Path(__file__).resolve().parents[2]


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
    _write_private(folder / "secret", secret)
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
    with _child("superlink", arguments, file.state) as process:
        try:
            _wait("the SuperLink", process, link.ready, file.state / "superlink.log")
            yield link
        finally:
            link.close()


@contextmanager
def gateway(file: ServerFile, link_address: str, federation: Participants) -> Iterator[None]:
    """The gateway on `file.listen`; ends with the context, or with this process.

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
    if file.client_certificates:
        sites = file.state / "sites.pem"
        sites.write_text("".join(federation.certificates.values()))
        arguments += ["--sites", str(sites)]
    with _child("gateway", arguments, file.state) as process:
        _wait("the gateway", process, lambda: _listens(file), file.state / "gateway.log")
        yield


@contextmanager
def _child(program: str, arguments: list[str], state: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = dict(os.environ)
    environment["FLWR_HOME"] = str(state / "flower")
    paths = [str(_PROGRAM), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys(paths)))
    with (state / f"{program}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.superlink.supervised", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            # Ctrl-C in a terminal is for this process, which ends it when a round is over.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        process.stdin.close()  # the child notices, and ends itself
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
        return
    process.kill()
    process.wait()


def _wait(
    what: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ProtocolError("", "start", f"{what} did not start; see {log}")
        time.sleep(0.1)


def _loopback_credentials(folder: Path) -> bytes:
    """A certificate for this machine alone, new at every start; returns who certifies it (PEM)."""
    now = datetime.now(UTC)
    authority = authority_credential("loopback", now, days=365)
    server = server_credential(authority, ["127.0.0.1", "localhost"], now, days=365)
    _write_private(folder / "loopback.tls", server.pem())
    (folder / "ca.crt").write_bytes(authority.certificate_pem())
    return authority.certificate_pem()


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


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
