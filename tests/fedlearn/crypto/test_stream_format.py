"""The stream of a sealed message is C2SP chunked-encryption with SHA-512 and AES-256-GCM.

The specification leaves the hash open. The vectors that are published for AES-256-GCM use
SHA-256, and `cryptography.cobblestone` uses SHA-512 only, so it cannot open them. Here the
specification is written down with the hash as a parameter: the vectors hold it to the
specification, and it holds our messages to the same.
"""

import base64
import hashlib
import os
import zlib
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from fedlearn.crypto.kdf import expand
from fedlearn.crypto.sealed import HEADER_BYTES, Channel
from tests.vectors import load

SALT, COMMITMENT, CHUNK, TAG = 24, 32, 16 * 1024, 16
Case = dict[str, Any]


def open_stream(
    key: bytes, context: bytes, stream: bytes, algorithm: hashes.HashAlgorithm
) -> bytes:
    """C2SP chunked-encryption, version 1, with AES-256-GCM; ValueError for what is refused."""
    salt, commitment = stream[:SALT], stream[SALT : SALT + COMMITMENT]
    if len(key) != 32 or len(commitment) != COMMITMENT:
        raise ValueError("key or header too short")
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + salt + context
    derived = HKDFExpand(algorithm, 32 + 12 + COMMITMENT, info).derive(key)
    if derived[44:] != commitment:
        raise ValueError("commitment")
    cipher, nonce = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
    plain, at = b"", SALT + COMMITMENT
    for number in range(2**38):
        sealed = stream[at : at + CHUNK + TAG]
        try:
            plain += cipher.decrypt((nonce ^ number).to_bytes(12, "big"), sealed, None)
        except (InvalidTag, ValueError):
            raise ValueError("chunk") from None
        at += len(sealed)
        if len(sealed) < CHUNK + TAG:
            return plain
    raise AssertionError("longer than any message")


@pytest.mark.parametrize("case", load("c2sp_chunked_aes_256_gcm_sha256"), ids=lambda c: c["name"])
def test_open_stream__matches_the_published_vectors(case: Case) -> None:
    stream = base64.b64decode(case["ciphertext"])
    stream = zlib.decompress(stream) if case["compressed"] else stream
    key, context = bytes.fromhex(case["key"]), case["context"].encode()
    if case["valid"]:
        plain = open_stream(key, context, stream, hashes.SHA256())
        assert hashlib.sha256(plain).hexdigest() == case["payload_sha256"]
    else:
        with pytest.raises(ValueError, match=r"short|commitment|chunk"):
            open_stream(key, context, stream, hashes.SHA256())


@pytest.mark.parametrize("size", [0, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 7])
def test_sealed__stream_is_the_specified_one_with_sha_512(size: int) -> None:
    root, run, data = os.urandom(32), bytes(16), os.urandom(size)
    channel = Channel.start(root, run, me="site", peer="server", is_client=True)
    message = bytes(channel.seal(1, 0, data))
    key = expand(expand(root, "seal/root", run), "seal/direction", b"\x00")
    header, stream = message[:HEADER_BYTES], message[HEADER_BYTES:]
    assert open_stream(key, header, stream, hashes.SHA512()) == data
    with pytest.raises(ValueError, match="commitment"):
        open_stream(key, header, stream, hashes.SHA256())
