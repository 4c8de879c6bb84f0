"""How a client and the server come to share a secret: one offer, one acceptance per client.

The server offers a fresh HPKE key for the run, signed by its identity. A client
seals a random root to it and signs that with its own. HPKE's base mode does not
authenticate a sender; the two signatures do. Once the offer's private key is
dropped, no long-lived key opens anything that was sent (forward secrecy).

Suite 1 is the hybrid of ML-KEM-768 and X25519, which holds while either does;
suite 2 is X25519 alone, for builds without ML-KEM and only where the policy
allows it. The suite is inside both signatures and the HPKE info, so that nobody
on the way can talk two sides down.

Sources: RFC 9180 (HPKE, base mode); FIPS 203 (ML-KEM).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from fedlearn.core.errors import ConfigError, UnauthenticatedError
from fedlearn.crypto.codec import Reader, Writer, name_bytes
from fedlearn.crypto.identity import SIGNATURE_BYTES, Identity, verify
from fedlearn.crypto.kdf import key_info
from fedlearn.crypto.sealed import Channel

HYBRID, CLASSICAL = 1, 2
RUN_ID_BYTES, TERMS_BYTES = 16, 32
_MLKEM_PUBLIC = 1184
_PUBLIC_BYTES = {HYBRID: _MLKEM_PUBLIC + 32, CLASSICAL: 32}
_OFFER, _ACCEPT = b"FLSO\x02", b"FLSC\x02"
NO_TERMS = bytes(32)
"""Where no config of fedlearn says what is done, as in Flower apps of others."""

PrivateKey = MLKEM768X25519PrivateKey | X25519PrivateKey
PublicKey = MLKEM768X25519PublicKey | X25519PublicKey


def has_hybrid() -> bool:
    """Whether this build of the cryptography library has ML-KEM."""
    try:
        MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        return False
    return True


def choose_suite(allow_classical: bool) -> int:
    """The strongest suite that this build has and the policy allows.

    Raises:
        ConfigError: the build lacks ML-KEM and the policy insists on it.
    """
    if has_hybrid():
        return HYBRID
    if allow_classical:
        return CLASSICAL
    raise ConfigError(
        "transport.allow_classical=false: this build of `cryptography` has no ML-KEM; "
        "install the wheel from PyPI"
    )


@dataclass(frozen=True, kw_only=True)
class Link:
    """Who talks to whom in which run, and under which terms.

    `run_id` has 16 bytes, `terms` is the hash of those of the study, 32 bytes.
    """

    run_id: bytes
    terms: bytes
    client: str
    server: str


class ServerOffer:
    """The server's half: `message` goes to every client, `finish` opens their answers.

    Keep it for the set-up only and then drop it: that is what forward secrecy is.
    """

    def __init__(
        self,
        identity: Identity,
        run_id: bytes,
        terms: bytes,
        server: str,
        *,
        allow_classical: bool = False,
    ) -> None:
        if (len(run_id), len(terms)) != (RUN_ID_BYTES, TERMS_BYTES):
            raise ValueError(
                f"run id and terms have {len(run_id)} and {len(terms)} bytes; needed: "
                f"{RUN_ID_BYTES} and {TERMS_BYTES}"
            )
        self._suite = choose_suite(allow_classical)
        self._run_id, self._terms, self._server = run_id, terms, server
        self._private, public = _new_pair(self._suite)
        self._public = public
        signature = identity.sign(
            "seal/offer", *_offer_fields(self._suite, run_id, terms, server, public)
        )
        writer = Writer().raw(_OFFER).uint(self._suite, 1).raw(public).raw(signature)
        self.message = writer.done()
        self._accepted: set[bytes] = set()

    def __repr__(self) -> str:
        return f"ServerOffer(suite={self._suite}, secret key)"

    def finish(self, client: str, client_public: bytes, message: bytes) -> Channel:
        """The channel with one client, from its acceptance. The same acceptance opens one channel.

        Raises:
            UnauthenticatedError: it was not made by that client for this offer, or came before.
        """
        link = Link(run_id=self._run_id, terms=self._terms, client=client, server=self._server)
        digest = hashlib.sha256(message).digest()
        try:
            reader = Reader(message)
            prefix, signature = reader.raw(len(_ACCEPT)), reader.raw(SIGNATURE_BYTES)
            ciphertext = reader.blob()
            reader.end()
        except ValueError:
            raise UnauthenticatedError from None
        info = _info(self._suite, link, self._public)
        signed = verify(client_public, signature, "seal/accept", info, ciphertext)
        # A replayed acceptance would start sequence numbers over under the old root.
        if prefix != _ACCEPT or not signed or digest in self._accepted:
            raise UnauthenticatedError
        try:
            root = _hpke(self._suite).decrypt(ciphertext, self._private, info)
        except (InvalidTag, ValueError):
            raise UnauthenticatedError from None
        self._accepted.add(digest)
        return Channel.start(root, link.run_id, me=link.server, peer=client, is_client=False)


def accept_offer(
    identity: Identity,
    link: Link,
    server_public: bytes,
    message: bytes,
    *,
    allow_classical: bool = False,
) -> tuple[Channel, bytes]:
    """The client's half: its channel, and the acceptance for the server (1.3 KB).

    Raises:
        UnauthenticatedError: the offer was not made by that server for this run and
            these terms, or its suite is weaker than the policy allows.
    """
    try:
        reader = Reader(message)
        prefix, suite = reader.raw(len(_OFFER)), reader.uint(1)
        public = reader.raw(_PUBLIC_BYTES.get(suite, 0))
        signature = reader.raw(SIGNATURE_BYTES)
        reader.end()
    except ValueError:
        raise UnauthenticatedError from None
    fields = _offer_fields(suite, link.run_id, link.terms, link.server, public)
    allowed = suite == HYBRID or (suite == CLASSICAL and allow_classical)
    if (
        prefix != _OFFER
        or not allowed
        or not verify(server_public, signature, "seal/offer", *fields)
    ):
        raise UnauthenticatedError
    info, root = _info(suite, link, public), os.urandom(32)
    try:
        ciphertext = _hpke(suite).encrypt(root, _load_public(suite, public), info)
    except (ValueError, UnsupportedAlgorithm):
        raise UnauthenticatedError from None
    answer = Writer().raw(_ACCEPT).raw(identity.sign("seal/accept", info, ciphertext))
    channel = Channel.start(root, link.run_id, me=link.client, peer=link.server, is_client=True)
    return channel, answer.blob(ciphertext).done()


def _offer_fields(
    suite: int, run_id: bytes, terms: bytes, server: str, public: bytes
) -> tuple[bytes, ...]:
    return bytes([suite]), run_id, terms, name_bytes(server), public


def _info(suite: int, link: Link, public: bytes) -> bytes:
    names = name_bytes(link.client), name_bytes(link.server)
    offered = hashlib.sha256(public).digest()
    return key_info("seal/setup", bytes([suite]), link.run_id, link.terms, *names, offered)


def _hpke(suite: int) -> Suite:
    kem = KEM.MLKEM768_X25519 if suite == HYBRID else KEM.X25519
    return Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _new_pair(suite: int) -> tuple[PrivateKey, bytes]:
    x25519 = X25519PrivateKey.generate()
    public = x25519.public_key().public_bytes_raw()
    if suite == CLASSICAL:
        return x25519, public
    mlkem = MLKEM768PrivateKey.generate()
    private = MLKEM768X25519PrivateKey(mlkem, x25519)
    return private, mlkem.public_key().public_bytes_raw() + public


def _load_public(suite: int, public: bytes) -> PublicKey:
    x25519 = X25519PublicKey.from_public_bytes(public[-32:])
    if suite == CLASSICAL:
        return x25519
    mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC])
    return MLKEM768X25519PublicKey(mlkem, x25519)
