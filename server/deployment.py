"""`fedlearn server`: a run over sites on their own machines, from its start to its end.

While it lasts `health.json` has a line for every site: whether it is there, since when, and as of
when that is known. A server that ends says there that it looks no longer; of one that was killed
the time of its last look tells.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from fedlearn import __version__
from fedlearn.config import RunConfig, compose
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ConfigError, ProtocolError, collected
from fedlearn.core.files import PRIVATE, write_atomically
from fedlearn.crypto.certificates import (
    authority_credential,
    node_public_key,
    read_certificate,
    server_credential,
)
from fedlearn.flower import messages as flower
from fedlearn.results import receipts
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from server import serverfile
from server.admission import Admission, HelperNode
from server.run import Listener, run
from server.serverfile import Participants, ServerFile
from server.stop import Stop
from server.superlink.endpoint import SuperLink

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""Between two looks at whether the sites are there."""

START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_PROGRAM: Final = Path(__file__).resolve().parents[1]


def check(file: ServerFile, config: RunConfig, now: datetime) -> Participants:
    """Everything that can be refused before anything is started.

    Raises:
        ConfigError: with every problem.
    """
    found: list[str] = []
    parties = None
    with collected(found):
        parties = serverfile.federation(file, now)
    with collected(found):
        RunFolder(Path(config.out)).check(config)
    if parties and len(parties.certificates) < config.strategy.min_sites:
        found.append(
            f"strategy.min_sites={config.strategy.min_sites}: the roster has "
            f"{len(parties.certificates)} sites"
        )
    if config.sites is not None:
        found.append(f"sites={config.sites}: is for simulations; a deployed site has its own file")
    if parties is None or found:
        raise ConfigError(found)
    return parties


def composed(overrides: Sequence[str]) -> RunConfig:
    """The config of a deployment: under privacy its test metrics are private unless it is asked
    for others.

    Raises:
        ConfigError: with every problem.
    """
    config = compose(overrides)
    chosen = any(one.partition("=")[0].lstrip("+") == "evaluation" for one in overrides)
    if chosen or config.privacy.unit == "none":
        return config
    return replace(config, evaluation="private")


def deployed(config: RunConfig, folder: Path) -> RunConfig:
    """The config with its output in `folder`, and going on with a run that is there already."""
    config = replace(config, out=str(folder / config.out))
    return replace(config, resume=config.resume or RunFolder(Path(config.out)).holds_run())


def finished(config: RunConfig) -> bool:
    """Whether this run was carried out to its end before; nobody has to be asked again."""
    folder = Path(config.out)
    return (folder / "result.json").exists() and read_result(folder).status == "finished"


def serve(file: ServerFile, config: RunConfig, listener: Listener, stop: Stop) -> ResultFile:
    """Start what sites connect to, wait for them, and carry the run out.

    Raises:
        FedlearnError: see `check` and `server.run.run`.
        StoppedError: the user stopped the run; what was trained is kept.
    """
    parties = check(file, config, datetime.now(UTC))
    for warning in parties.warnings:
        log.warning("certificate", extra={"fields": {"reason": warning}})
    file.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with superlink(file) as link:
        nodes = {
            link.register(node_public_key(read_certificate(pem, name)), name): name
            for name, pem in parties.certificates.items()
        }
        second = _second(link, parties)
        watched = nodes | ({second.node: second.name} if second else {})
        with (
            gateway(file, link.address, parties),
            Watch(link.nodes, watched, file.state / "health.json"),
        ):
            run_id = link.start_run(flower.run_config_of(config))
            log.info("started", extra={"fields": {"run": run_id, "sites": len(nodes)}})
            longest = max(config.reply_timeout, file.wait_seconds)
            with link.carry_out(run_id, longest) as (grid, _):
                admission = _admission(file, parties, nodes, second)
                return run(grid, config, listener, stop, admission)


def _second(link: SuperLink, parties: Participants) -> HelperNode | None:
    """The node of the roster's second server."""
    if parties.helper is None:
        return None
    one, pem = parties.helper.participant, parties.helper.certificate
    node = link.register(node_public_key(read_certificate(pem, one.name)), one.name)
    return HelperNode(name=one.name, public=one.public, node=node)


def _admission(
    file: ServerFile, parties: Participants, nodes: dict[int, str], second: HelperNode | None
) -> Admission:
    return Admission(
        seconds=file.wait_seconds,
        wanted=len(nodes),
        identity=parties.identity,
        roster=parties.roster,
        nodes=nodes,
        version=__version__,
        code=code_digest(),
        receipts=file.state / receipts.FOLDER,
        sets_aside=True,
        helper=second,
    )


# --- the programs beside it: the SuperLink, and the gateway before it ---------------


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
    sites = file.state / "sites.pem"
    second = federation.helper.certificate if federation.helper else ""
    sites.write_text("".join([*federation.certificates.values(), second]))
    arguments += ["--sites", str(sites)]
    if not file.client_certificates:
        arguments.append("--without-certificates")
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


# --- whether the sites are there ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SiteHealth:
    """`state` is online, offline, never seen, or not watched; times are ISO, UTC.

    `since` is when that was noticed, `as_of` when somebody looked for the last time.
    """

    site: str
    state: str
    since: str
    as_of: str


def health(
    nodes: Mapping[int, str],
    names: Mapping[int, str],
    before: Sequence[SiteHealth],
    now: datetime,
) -> list[SiteHealth]:
    """The sites by name, as of `now`; who is as before keeps its time.

    `nodes` is what the SuperLink says of each node, `names` the sites that nodes are of.
    """
    known = {one.site: one for one in before}
    stamp = now.isoformat(timespec="seconds")
    found = []
    for node in nodes.keys() & names.keys():
        state = {"registered": "never seen", "online": "online"}.get(nodes[node], "offline")
        site = names[node]
        old = known.get(site)
        since = old.since if old is not None and old.state == state else stamp
        found.append(SiteHealth(site=site, state=state, since=since, as_of=stamp))
    return sorted(found, key=lambda one: one.site)


def stopped(last: Sequence[SiteHealth], now: datetime) -> list[SiteHealth]:
    """What is known of the sites from `now` on, when nobody looks any more."""
    stamp = now.isoformat(timespec="seconds")
    return [replace(one, state="not watched", since=stamp) for one in last]


class Watch:
    """Looks at all sites every few seconds and writes `health.json`; logs what changes."""

    def __init__(
        self, look: Callable[[], Mapping[int, str]], names: Mapping[int, str], path: Path
    ) -> None:
        self._look, self._names, self._path = look, names, path
        self._ended = threading.Event()
        self._last: list[SiteHealth] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._write(stopped(self._last, datetime.now(UTC)))
        except OSError as error:
            _cannot_tell(error)

    def _watch(self) -> None:
        while True:
            try:
                self._update()
            except (httpx.HTTPError, OSError) as error:
                _cannot_tell(error)
            if self._ended.wait(LOOK_SECONDS):
                return

    def _update(self) -> None:
        before = {(one.site, one.state) for one in self._last}
        self._last = health(self._look(), self._names, self._last, datetime.now(UTC))
        for one in self._last:
            if (one.site, one.state) not in before:
                log.info("site", extra={"fields": asdict(one)})
        self._write(self._last)

    def _write(self, found: Sequence[SiteHealth]) -> None:
        text = json.dumps([asdict(one) for one in found], indent=2)
        write_atomically(self._path, text.encode())


def _cannot_tell(error: Exception) -> None:
    log.warning("no_health", extra={"fields": {"reason": str(error)}})
