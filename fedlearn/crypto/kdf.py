"""Key derivation: HKDF-SHA-256 (RFC 5869) with a label and length-prefixed context.

Every derived key has one purpose. Two calls that differ in the label, in any
context field or in where one field ends and the next begins give unrelated keys.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedlearn.crypto.codec import Writer

KEY_BYTES = 32
_PREFIX = b"fedlearn/v1/"


def key_info(label: str, *context: bytes) -> bytes:
    """The HKDF info: the label, then every context field behind its length."""
    writer = Writer().blob(_PREFIX + label.encode())
    for field in context:
        writer.blob(field)
    return writer.done()


def derive(secret: bytes, label: str, *context: bytes, length: int = KEY_BYTES) -> bytes:
    """A key of `length` bytes from a secret that may be structured, such as an X25519 result."""
    return HKDF(hashes.SHA256(), length, None, key_info(label, *context)).derive(secret)


def expand(key: bytes, label: str, *context: bytes, length: int = KEY_BYTES) -> bytes:
    """A key of `length` bytes from a key that is already uniform (HKDF-Expand alone)."""
    return HKDFExpand(hashes.SHA256(), length, key_info(label, *context)).derive(key)
