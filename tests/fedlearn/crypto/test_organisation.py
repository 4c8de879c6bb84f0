"""A server under a certificate of its own organisation: RSA or EC, with an authority in between."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from clients.supernode.checkup import tls_context
from fedlearn.crypto.certificate_files import authority_problems, server_problems
from fedlearn.crypto.certificates import site_credential
from server.superlink.gateway import server_context

from .test_certificates import shake

NOW = datetime.now(UTC)
HOST = "fed.example"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey
KINDS = ("rsa-2048", "rsa-3072", "p-256", "p-384")


@cache
def made(kind: str) -> Key:
    """One key of a kind."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[-4:]))
    return ec.generate_private_key(ec.SECP256R1() if kind == "p-256" else ec.SECP384R1())


def certified(name: str, key: Key, by: x509.Certificate | None, signs: Key, *, ca: bool) -> bytes:
    """A certificate as an organisation's own authority issues it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=90))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
    signed = None if isinstance(signs, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signs, signed).public_bytes(Encoding.PEM)


def pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def organisation(folder: Path, key: Key, root: Key, host: str = HOST) -> tuple[Path, Path]:
    """The `tls` of a coordinator, and the authority that sites are given."""
    between = ec.generate_private_key(ec.SECP256R1())
    top = certified("root", root, None, root, ca=True)
    middle = certified("between", between, x509.load_pem_x509_certificate(top), root, ca=True)
    issuer = x509.load_pem_x509_certificate(middle)
    leaf = certified(host, key, issuer, between, ca=False)
    tls, authority = folder / "server.tls", folder / "ca.crt"
    tls.write_bytes(pem(key) + leaf + middle)
    tls.chmod(0o600)
    authority.write_bytes(top)
    return tls, authority


@pytest.mark.parametrize("root", ["rsa-3072", "p-384"])
@pytest.mark.parametrize("key", KINDS)
def test_organisation__certifies_a_server_that_sites_then_reach(
    tmp_path: Path, key: str, root: str
) -> None:
    tls, authority = organisation(tmp_path, made(key), made(root))
    assert server_problems(tls, NOW) == []
    assert authority_problems(authority, NOW) == []
    site = site_credential("a", NOW)
    own = tmp_path / "site.tls"
    own.write_bytes(site.pem())
    there = server_context(tls, site.certificate_pem().decode())
    shake(there, tls_context(own, authority), HOST)
    with pytest.raises(ssl.SSLError, match=r"doesn.t match|Hostname mismatch"):
        shake(there, tls_context(own, authority), "evil.example")


def test_organisation__is_told_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    weak, other = rsa.generate_private_key(65537, 1024), made("p-256")
    for key, said in (
        (weak, "an RSA key of 1024 bits; ask for one of 2048 at least"),
        (Ed25519PrivateKey.generate(), "neither an RSA nor an EC key"),
    ):
        tls, _ = organisation(tmp_path, key, other)
        [found] = server_problems(tls, NOW)
        assert said in found
    tls, _ = organisation(tmp_path, made("rsa-2048"), other)
    text = tls.read_bytes()
    tls.write_bytes(text.replace(pem(made("rsa-2048")), pem(made("rsa-3072"))))
    assert "the certificate is for another key" in server_problems(tls, NOW)[0]
    tls.write_bytes(text.replace(pem(made("rsa-2048")), b""))
    assert "must hold a private key and its certificate" in server_problems(tls, NOW)[0]
    tls.write_bytes(text)
    assert "expired at" in server_problems(tls, NOW + timedelta(days=99))[0]
