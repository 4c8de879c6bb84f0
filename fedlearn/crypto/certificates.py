"""X.509 certificates for the transport: a private authority, a server, and sites.

A site certifies itself: the coordinator has its certificate from the site's signed
introduction and trusts exactly that one, so no authority has to be asked when a site
joins or leaves. The server's certificate is issued by a small authority, so that it
can be renewed without a word to the sites. These keys protect the way; who somebody
is, and what may be read, is decided by identities and sealed messages.

Keys that are made here are EC P-384, which is what Flower takes for node authentication; a server
may have one of its own organisation instead, RSA or EC. The clock is
the caller's. Sources: RFC 5280; CA/Browser Forum Baseline Requirements for lengths.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlearn.core.errors import ConfigError

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 825
LEAST_RSA: Final = 2048
"""Bits of a server's RSA key, at least."""
_BACKDATED: Final = timedelta(minutes=10)
"""Clocks differ: a fresh certificate is valid for a peer whose clock is behind."""


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def pem(self) -> bytes:
        """Key (PKCS #8) and certificate in one PEM. SECRET."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.certificate_pem()

    def certificate_pem(self) -> bytes:
        """The certificate alone, which anybody may have."""
        return self.certificate.public_bytes(Encoding.PEM)

    def __repr__(self) -> str:
        return f"Credential({self.certificate.subject.rfc4514_string()})"


def site_credential(name: str, now: datetime, days: int = CERTIFICATE_DAYS) -> Credential:
    """A fresh key that certifies itself as a client."""
    key = _new_key()
    subject = _name(name)
    builder = _builder(subject, subject, key, now, days).add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    return Credential(key=key, certificate=builder.sign(key, hashes.SHA384()))


def authority_credential(name: str, now: datetime, days: int = AUTHORITY_DAYS) -> Credential:
    """A fresh authority, good for nothing but issuing certificates for servers."""
    key = _new_key()
    subject = _name(f"{name} authority")
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _builder(subject, subject, key, now, days, authority=True)
    builder = builder.add_extension(usage, critical=True)
    return Credential(key=key, certificate=builder.sign(key, hashes.SHA384()))


def server_credential(
    authority: Credential, hosts: Sequence[str], now: datetime, days: int = CERTIFICATE_DAYS
) -> Credential:
    """A fresh key for a server that is reached under these names or IP addresses.

    Raises:
        ConfigError: no host, or one that cannot be in a certificate.
    """
    if not hosts:
        raise ConfigError("a server's certificate needs at least one host name or address")
    key = _new_key()
    builder = _builder(_name(hosts[0]), authority.certificate.subject, key, now, days)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        builder.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(issuer, False)
    )
    return Credential(key=key, certificate=builder.sign(authority.key, hashes.SHA384()))


def load_credential(pem: bytes, what: str) -> Credential:
    """The key and the (first) certificate of a PEM.

    Raises:
        ConfigError: it does not hold an EC key on a NIST curve and its certificate.
    """
    key, certificate = _key_and_certificate(pem, what)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{what}: not an EC key; make one with `fedlearn keys new`")
    _check_pair(key.public_key(), certificate, what)
    return Credential(key=key, certificate=certificate)


def _key_and_certificate(pem: bytes, what: str) -> tuple[PrivateKeyTypes, x509.Certificate]:
    try:
        return load_pem_private_key(pem, None), x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise ConfigError(f"{what}: must hold a private key and its certificate, in PEM") from None


def _check_pair(key: PublicKeyTypes, certificate: x509.Certificate, what: str) -> None:
    if _spki(key) != _spki(certificate.public_key()):
        raise ConfigError(f"{what}: the certificate is for another key")


def served_certificate(pem: bytes, what: str) -> x509.Certificate:
    """The certificate of a server, which its own organisation may have issued: of an RSA or an EC
    key, which stands before it.

    Raises:
        ConfigError: it does not hold such a key and its certificate.
    """
    key, certificate = _key_and_certificate(pem, what)
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < LEAST_RSA:
            raise ConfigError(
                f"{what}: an RSA key of {key.key_size} bits; ask for one of {LEAST_RSA} at least"
            )
    elif not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{what}: neither an RSA nor an EC key; ask for one of these")
    _check_pair(key.public_key(), certificate, what)
    return certificate


def read_certificate(pem: str | bytes, what: str) -> x509.Certificate:
    """A certificate; ConfigError if the text is none."""
    try:
        return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
    except (ValueError, x509.InvalidVersion):
        raise ConfigError(f"{what}: not a certificate in PEM") from None


def own_certificate(pem: str, what: str) -> x509.Certificate:
    """The certificate of a site's own key, as it stands in an introduction.

    What is here goes into the list of those whom the gateway trusts, so there is exactly one,
    in the form in which `fedlearn keys new` writes it, signed by its own key, that may certify
    nobody else.

    Raises:
        ConfigError: it is another thing.
    """
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except (ValueError, x509.InvalidVersion):
        raise ConfigError(f"{what}: not a certificate in PEM") from None
    if len(found) != 1 or found[0].public_bytes(Encoding.PEM).decode() != pem:
        raise ConfigError(f"{what}: must be one certificate in PEM, and nothing beside it")
    try:
        found[0].verify_directly_issued_by(found[0])
        node_public_key(found[0])
        limits = found[0].extensions.get_extension_for_class(x509.BasicConstraints).value
    except _UNLIKE_OWN:
        raise ConfigError(f"{what}: {_NOT_OWN}") from None
    if limits.ca:
        raise ConfigError(f"{what}: {_NOT_OWN}")
    return found[0]


_UNLIKE_OWN: Final = (
    *(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm),
    *(x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
_NOT_OWN: Final = (
    "must be certified by its own EC key and may certify nobody else (CA:false); "
    "make it anew with `fedlearn keys new`"
)


def validity_problems(certificate: x509.Certificate, what: str, now: datetime) -> list[str]:
    """Why a certificate is not valid now, if so; `now` in UTC."""
    if now < certificate.not_valid_before_utc:
        since = certificate.not_valid_before_utc.isoformat(timespec="minutes")
        return [f"{what}: its certificate is valid from {since}; is this machine's clock behind?"]
    if now > certificate.not_valid_after_utc:
        until = certificate.not_valid_after_utc.isoformat(timespec="minutes")
        return [f"{what}: its certificate expired at {until}; it has to be made anew"]
    return []


def node_public_key(certificate: x509.Certificate) -> bytes:
    """The certified key in the form in which Flower registers nodes (PEM).

    Raises:
        ValueError: not an EC key.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an EC key")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _name(text: str) -> x509.Name:
    # A common name holds at most 64 characters; nothing reads it but people.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError:
        raise ConfigError(f"{text}: cannot be the name of a host") from None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
    *,
    authority: bool = False,
) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=authority, path_length=0 if authority else None)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(constraints, critical=True)
        .add_extension(identifier, critical=False)
    )


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
