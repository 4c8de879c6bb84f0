"""A site, or a stranger, that wants the gateway for itself: against a gateway's own process."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlearn.core.errors import ConfigError
from fedlearn.crypto import certificates
from fedlearn.crypto.certificates import (
    Credential,
    authority_credential,
    node_public_key,
    own_certificate,
    server_credential,
    site_credential,
)
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.introduction import introduce, read_certified
from server.superlink.callers import HANDSHAKE_SECONDS, MOST_BYTES, MOST_CONNECTIONS
from tests.deployment.world import free_port

NOW = datetime.now(UTC)
ASK = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Gate:
    """A gateway, and the certificates of two sites that it knows."""

    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    sites: dict[str, Credential]
    opened: ExitStack = field(default_factory=ExitStack)

    def connect(self, site: str) -> ssl.SSLSocket:
        """A connection under a site's certificate, held until the test is over."""
        context = ssl.create_default_context(cafile=self.folder / "ca.crt")
        context.load_cert_chain(self.folder / f"{site}.tls")
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return self.opened.enter_context(context.wrap_socket(plain, server_hostname="localhost"))

    def post(self, site: str, node: str, length: int) -> ssl.SSLSocket:
        """The head of a request under a site's certificate that says to be a node's."""
        one = self.connect(site)
        key = b64encode(node_public_key(self.sites[node].certificate))
        one.sendall(
            b"POST /fedlearn/site/give HTTP/1.1\r\nHost: x\r\nflwr-public-key: "
            + key
            + b"\r\nContent-Length: %d\r\n\r\n" % length
        )
        return one

    def answers(self, site: str) -> bool:
        """Whether a site is served."""
        one = self.connect(site)
        one.sendall(ASK)
        return one.recv(100).startswith(b"HTTP/1.1 200")

    def megabytes(self) -> int:
        """Memory of the gateway."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    authority = authority_credential("fed", NOW)
    server = server_credential(authority, ["localhost", "127.0.0.1"], NOW)
    (tmp_path / "server.tls").write_bytes(server.pem())
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem())
    sites = {name: site_credential(name, NOW) for name in ("alder", "birch", "stranger")}
    for name, one in sites.items():
        (tmp_path / f"{name}.tls").write_bytes(one.pem())
    known = b"".join(sites[name].certificate_pem() for name in ("alder", "birch"))
    (tmp_path / "sites.pem").write_bytes(known)
    port = free_port()
    program = "import sys; from server.superlink.gateway import main; main(sys.argv[1:])"
    options = {
        "host": "127.0.0.1", "port": port, "tls": tmp_path / "server.tls",
        "sites": tmp_path / "sites.pem", "upstream": "127.0.0.1:9",
        "authority": tmp_path / "ca.crt",
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([sys.executable, "-c", program, *words])
    made = Gate(tmp_path, process, port, sites)
    try:
        _wait_for(made)
        with made.opened:
            yield made
    finally:
        process.kill()
        process.wait()


def _wait_for(gate: Gate) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", gate.port), 1).close()
        time.sleep(0.1)
    raise AssertionError("the gateway did not start")


@pytest.mark.slow
def test_unfinished_bodies__of_one_site_take_no_memory_from_the_others(gate: Gate) -> None:
    assert gate.answers("birch")
    before, part = gate.megabytes(), b"x" * 2**20
    for _ in range(30):
        one = gate.post("alder", "alder", 31 * 2**20)
        with suppress(OSError):  # refused in the middle of it
            for _ in range(30):
                one.sendall(part)
    assert gate.megabytes() - before < 2 * MOST_BYTES / 2**20 + 40
    assert gate.answers("birch")


@pytest.mark.slow
def test_idle_connections__of_one_site_shut_nobody_out(gate: Gate) -> None:
    held = [gate.connect("alder") for _ in range(1001)]
    assert gate.answers("birch")
    assert gate.answers("alder")
    assert sum(_is_open(one) for one in held) <= MOST_CONNECTIONS


def _is_open(one: ssl.SSLSocket) -> bool:
    one.setblocking(False)
    try:
        return bool(one.recv(1))
    except ssl.SSLWantReadError:
        return True
    except OSError:
        return False


@pytest.mark.slow
def test_body__is_not_read_of_a_node_that_the_certificate_is_not_of(gate: Gate) -> None:
    """An enrolled site with another's node key, which it may have got hold of, is itself."""
    for site, node in (("alder", "birch"), ("alder", "stranger")):
        one = gate.post(site, node, 31 * 2**20)
        assert one.recv(100).startswith(b"HTTP/1.1 401"), "before a byte of it was sent"
    one = gate.post("alder", "alder", 33 * 2**20)
    assert one.recv(100).startswith(b"HTTP/1.1 413")


def test_stranger__gets_no_further_than_the_handshake(gate: Gate) -> None:
    """In TLS 1.3 a client hears of its refusal after its own handshake."""
    said = b""
    with suppress(OSError):
        one = gate.connect("stranger")
        one.sendall(ASK)
        said = one.recv(1)
    assert said == b""
    assert gate.answers("alder")


@pytest.mark.slow
def test_handshakes__that_strangers_do_not_finish_end(gate: Gate) -> None:
    idle = [
        gate.opened.enter_context(socket.create_connection(("127.0.0.1", gate.port)))
        for _ in range(500)
    ]
    assert gate.answers("birch")
    time.sleep(HANDSHAKE_SECONDS + 5)
    for one in idle:
        one.settimeout(1)
        with suppress(ConnectionResetError):
            assert one.recv(1) == b""


# --- What is trusted -------------------------------------------------------------------


def _introduced(tmp_path: Path, certificate: str) -> None:
    (tmp_path / "a.pub").write_text(introduce(Identity.new(), "alder", "site", certificate))
    read_certified(tmp_path / "a.pub")


def test_introduction__brings_in_nobody_but_its_own_key(tmp_path: Path) -> None:
    site = site_credential("alder", NOW).certificate_pem().decode()
    authority = authority_credential("mine", NOW)
    issued = server_credential(authority, ["alder"], NOW).certificate_pem().decode()
    _introduced(tmp_path, site)
    own = authority.certificate_pem().decode()
    for bad in (site + own, own + site, own, issued, site + "x", " " + site, site + site, "x"):
        with pytest.raises(ConfigError, match="certif"):
            _introduced(tmp_path, bad)


@pytest.mark.parametrize("constraints", [None, True])
def test_certificate__that_may_certify_others_or_does_not_say_is_not_a_sites(
    constraints: bool | None,
) -> None:
    key = certificates._new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alder")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW.replace(year=NOW.year + 1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    if constraints:
        limits = x509.BasicConstraints(ca=True, path_length=None)
        builder = builder.add_extension(limits, critical=True)
    made = Credential(key=key, certificate=builder.sign(key, hashes.SHA384()))
    with pytest.raises(ConfigError, match="CA:false"):
        own_certificate(made.certificate_pem().decode(), "alder")
