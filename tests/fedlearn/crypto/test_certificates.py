"""Certificates do in a real TLS 1.3 handshake what they are for, and nothing else."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fedlearn.core.errors import ConfigError
from fedlearn.crypto import certificate_files
from fedlearn.crypto.certificates import (
    Credential,
    authority_credential,
    load_credential,
    own_certificate,
    server_credential,
    site_credential,
    validity_problems,
)
from server.superlink.gateway import server_context

NOW = datetime.now(UTC)
OWN = site_credential("alder", NOW).certificate_pem().decode()


@pytest.fixture(scope="module")
def authority() -> Credential:
    return authority_credential("test", NOW)


def file(folder: Path, name: str, made: Credential) -> Path:
    path = folder / name
    path.write_bytes(made.pem())
    return path


def shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    """A handshake in memory, with one byte each way: a server's no to a client comes late."""
    pipes = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(pipes[0], pipes[1], server_side=True),
        client.wrap_bio(pipes[1], pipes[0], server_hostname=host),
    )
    work = [ends[1].do_handshake, ends[0].do_handshake]
    while work:
        step = work.pop(0)
        try:
            step()
        except ssl.SSLWantReadError:
            work.append(step)
    ends[0].write(b"x")
    assert ends[1].read(1) == b"x"


def connect(
    folder: Path,
    server: Credential,
    trusted: Credential,
    client: Credential | None,
    known: list[Credential] | None,
    host: str = "fed.example",
) -> None:
    sites = None if known is None else "".join(c.certificate_pem().decode() for c in known)
    there = server_context(file(folder, "server.tls", server), sites)
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    here.load_verify_locations(cadata=trusted.certificate_pem().decode())
    if client:
        here.load_cert_chain(file(folder, "client.tls", client))
    shake(there, here, host)


def test_handshake__succeeds_with_a_certificate_that_the_server_was_told_of(
    tmp_path: Path, authority: Credential
) -> None:
    server = server_credential(authority, ["fed.example", "10.0.0.7"], NOW)
    site, other = site_credential("a", NOW), site_credential("b", NOW)
    connect(tmp_path, server, authority, site, [other, site])
    connect(tmp_path, server, authority, site, [site], host="10.0.0.7")
    connect(tmp_path, server, authority, None, None)


def test_handshake__refuses_who_is_unknown_expired_or_without_a_certificate(
    tmp_path: Path, authority: Credential
) -> None:
    server, site = server_credential(authority, ["fed.example"], NOW), site_credential("a", NOW)
    impostor = site_credential("a", NOW)  # the same name, another key
    expired = site_credential("a", NOW - timedelta(days=10), days=9)
    for client, known, reason in (
        (impostor, [site], "self.signed|unknown ca|verify failed"),
        (expired, [expired], "expired"),
        (None, [site], "did not return a certificate"),
    ):
        with pytest.raises(ssl.SSLError, match=f"(?i){reason}"):
            connect(tmp_path, server, authority, client, known)


def test_handshake__refuses_another_host_another_authority_and_an_expired_server(
    tmp_path: Path, authority: Credential
) -> None:
    server, site = server_credential(authority, ["fed.example"], NOW), site_credential("a", NOW)
    old = server_credential(authority, ["fed.example"], NOW - timedelta(days=9), days=8)
    with pytest.raises(ssl.SSLError, match=r"doesn.t match|Hostname mismatch"):
        connect(tmp_path, server, authority, site, [site], host="evil.example")
    with pytest.raises(ssl.SSLError, match="verify failed"):
        connect(tmp_path, server, authority_credential("other", NOW), site, [site])
    with pytest.raises(ssl.SSLError, match="expired"):
        connect(tmp_path, old, authority, site, [site])


def test_site_credential__cannot_stand_in_for_a_server(
    tmp_path: Path, authority: Credential
) -> None:
    site = site_credential("fed.example", NOW)
    with pytest.raises(ssl.SSLError, match="verify failed"):
        connect(tmp_path, site, site, None, None)


def test_validity__says_expired_and_not_yet() -> None:
    certificate = site_credential("a", NOW, days=10).certificate
    assert validity_problems(certificate, "f", NOW) == []
    assert "expired at" in validity_problems(certificate, "f", NOW + timedelta(days=11))[0]
    assert "clock behind" in validity_problems(certificate, "f", NOW - timedelta(hours=1))[0]


def test_load_credential__refuses_halves_and_strangers() -> None:
    one, two = site_credential("a", NOW), site_credential("b", NOW)
    with pytest.raises(ConfigError, match="key and its certificate"):
        load_credential(one.certificate_pem(), "f")
    mixed = one.pem().replace(one.certificate_pem(), two.certificate_pem())
    with pytest.raises(ConfigError, match="for another key"):
        load_credential(mixed, "f")
    assert load_credential(one.pem(), "f").certificate == one.certificate


def _signed_by_another() -> str:
    """A site's certificate, renamed to be its own issuer's, with another key's signature."""
    one, other = site_credential("alder", NOW), site_credential("alder", NOW)
    builder = x509.CertificateBuilder(
        issuer_name=one.certificate.issuer, subject_name=one.certificate.subject,
        public_key=one.key.public_key(), serial_number=7, not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1), extensions=list(one.certificate.extensions),
    )  # fmt: skip
    return builder.sign(other.key, SHA256()).public_bytes(Encoding.PEM).decode()


def _of_another_kind() -> str:
    """One that signs itself with a key that is no node's."""
    key, like = Ed25519PrivateKey.generate(), site_credential("alder", NOW).certificate
    builder = x509.CertificateBuilder(
        issuer_name=like.subject, subject_name=like.subject, public_key=key.public_key(),
        serial_number=7, not_valid_before=NOW, not_valid_after=NOW + timedelta(days=1),
        extensions=[one for one in like.extensions if one.oid.dotted_string == "2.5.29.19"],
    )  # fmt: skip
    return builder.sign(key, None).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (
            lambda: authority_credential("fed", NOW).certificate_pem().decode(),
            "its own EC key",
        ),
        (_signed_by_another, "its own EC key"),
        (_of_another_kind, "its own EC key"),
        (lambda: OWN + OWN, "nothing beside it"),
        (lambda: OWN + "# mine\n", "nothing beside it"),
        (lambda: "", "in PEM"),
        (lambda: "none", "in PEM"),
    ],
)
def test_own_certificate__is_one_of_its_own_key_that_certifies_nobody_else(
    pem: Callable[[], str], says: str
) -> None:
    assert own_certificate(OWN, "it").public_bytes(Encoding.PEM).decode() == OWN
    with pytest.raises(ConfigError, match=says):
        own_certificate(pem(), "it")


def test_keys_certificate__renews_without_a_new_authority(tmp_path: Path) -> None:
    made = certificate_files.issue_server_credential(tmp_path, ["a.example"], NOW)
    assert {path.name for path in made} == {"ca.key", "ca.crt", "server.tls"}
    before = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "server.tls").read_bytes()
    again = certificate_files.issue_server_credential(tmp_path, ["b.example"], NOW)
    assert [path.name for path in again] == ["server.tls"]
    assert (tmp_path / "ca.crt").read_bytes() == before[0]
    assert (tmp_path / "server.tls").read_bytes() != before[1]
    assert (tmp_path / "server.tls").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="cannot be the name"):
        certificate_files.issue_server_credential(tmp_path, ["zürich"], NOW)
