"""Long-lived Ed25519 identities: who a participant is, for as long as the roster says so.

An identity signs; it never encrypts. What it signs is a purpose and fields with
their lengths, so that a signature made for one message is worth nothing in
another. The private file is readable by its owner alone, from the moment it
exists, and a file that others can read is not loaded.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedlearn.core.errors import ConfigError
from fedlearn.core.files import possible
from fedlearn.crypto.kdf import key_info

PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
_LARGEST_FILE = 16384


def fingerprint(public: bytes) -> str:
    """A public key for people to compare: 32 hex digits of SHA-256, in groups of four."""
    digest = hashlib.sha256(b"fedlearn/v1/fingerprint" + public).hexdigest()[:32]
    return "-".join(digest[at : at + 4] for at in range(0, 32, 4))


def verify(public: bytes, signature: bytes, purpose: str, *fields: bytes) -> bool:
    """Whether the owner of `public` signed these fields for this purpose."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, key_info("sign/" + purpose, *fields))
    except (InvalidSignature, ValueError):
        return False
    return True


class Identity:
    """An Ed25519 private key; `repr` shows its length and its fingerprint, nothing else."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    @classmethod
    def new(cls) -> Identity:
        """A fresh identity from the operating system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """The identity in a file that `save` wrote.

        Raises:
            ConfigError: the file is missing, is not a private Ed25519 key, is not a
                regular file, or grants anything to group or others.
        """
        return cls(_parse(path, read_private(path)))

    def save(self, path: Path) -> None:
        """Writes the key as PKCS #8 PEM, mode 0600 from its creation; never replaces a file.

        Raises:
            ConfigError: something exists under that path.
        """
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(path, pem)

    def to_bytes(self) -> bytes:
        """The private key, 32 bytes. SECRET: whoever has it is this participant."""
        return self._private.private_bytes_raw()

    @classmethod
    def from_bytes(cls, data: bytes) -> Identity:
        """The identity that `to_bytes` gave; ValueError if it is not 32 bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    @property
    def fingerprint(self) -> str:
        """The public key, for people to compare."""
        return fingerprint(self.public)

    def sign(self, purpose: str, *fields: bytes) -> bytes:
        """A signature of 64 bytes over a purpose and length-prefixed fields."""
        return self._private.sign(key_info("sign/" + purpose, *fields))

    def __repr__(self) -> str:
        return f"Identity(private key of 32 bytes, fingerprint {self.fingerprint})"

    def __reduce__(self) -> str:
        raise TypeError("an identity is not pickled; save it to a file of mode 0600")


def read_private(path: Path) -> bytes:
    """The content of a private file of a few kilobytes.

    Raises:
        ConfigError: missing, not a regular file, or it grants anything to group or others.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with possible("opened", path, ConfigError):
        descriptor = os.open(path, flags)
    try:
        # Asked of the open file, not of the path: the path may change in between.
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path}: not a regular file")
        if os.name == "posix" and mode & 0o077:
            raise ConfigError(
                f"{path}: mode {mode & 0o777:04o} lets others in; run: chmod 600 {path}"
            )
        return os.read(descriptor, _LARGEST_FILE)
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, from its creation; never replaces one.

    Raises:
        ConfigError: something exists under that path.
    """
    # O_EXCL: created by us or not at all, so nobody else holds it open.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path}: exists; a private key is never replaced, choose another path"
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _parse(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: not a private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key; make one with `fedlearn keys new`")
    return key
