"""The primitives that we build on, against published vectors, through the calls that we use."""

import hashlib
import hmac
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedlearn.crypto.handshake import has_hybrid
from fedlearn.crypto.kdf import derive, expand
from fedlearn.crypto.keystream import _stream
from tests.vectors import load

Case = dict[str, Any]
AEADS = {1: AEAD.AES_128_GCM, 2: AEAD.AES_256_GCM, 3: AEAD.CHACHA20_POLY1305}
KDFS = {1: KDF.HKDF_SHA256, 17: KDF.SHAKE256}


def _x25519(private: str, public: str) -> str:
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    return key.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public))).hex()


@pytest.mark.parametrize("case", load("rfc7748_x25519"))
def test_x25519__matches_rfc_7748(case: Case) -> None:
    assert _x25519(case["input_scalar"], case["input_u"]) == case["output_u"]


@pytest.mark.parametrize("case", load("wycheproof_x25519"))
def test_x25519__matches_wycheproof_and_refuses_small_order_points(case: Case) -> None:
    if case["shared"] == "00" * 32:
        with pytest.raises(ValueError, match="shared key"):
            _x25519(case["private"], case["public"])
    else:
        assert _x25519(case["private"], case["public"]) == case["shared"]


@pytest.mark.parametrize("case", load("rfc5869_hkdf_sha256"))
def test_hkdf__matches_rfc_5869(case: Case) -> None:
    salt, info, ikm = (bytes.fromhex(case[key]) for key in ("salt", "info", "ikm"))
    hkdf = HKDF(hashes.SHA256(), int(case["l"]), salt, info)
    assert hkdf.derive(ikm).hex() == case["okm"]


@pytest.mark.parametrize("case", load("wycheproof_hkdf_sha256"))
def test_hkdf__matches_wycheproof(case: Case) -> None:
    salt, info, ikm = (bytes.fromhex(case[key]) for key in ("salt", "info", "ikm"))
    if case["result"] == "invalid":
        with pytest.raises(ValueError, match="Cannot derive keys larger"):
            HKDF(hashes.SHA256(), case["size"], salt, info)
    else:
        assert HKDF(hashes.SHA256(), case["size"], salt, info).derive(ikm).hex() == case["okm"]


def _expanded(key: bytes, fields: list[bytes], length: int) -> bytes:
    """HKDF-Expand by hand (RFC 5869, section 2.3); the info is every field behind its length."""
    info = b"".join(len(field).to_bytes(8, "big") + field for field in fields)
    block = found = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        found += block
    return found[:length]


@pytest.mark.parametrize("length", [12, 32, 80])
@pytest.mark.parametrize("context", [(), (b"one",), (b"one", b""), (b"on", b"e")])
def test_derived_keys__are_hkdf_of_the_label_and_of_every_field(
    context: tuple[bytes, ...], length: int
) -> None:
    secret = bytes(range(32))
    fields = [b"fedlearn/v1/a label", *context]
    extracted = hmac.digest(bytes(32), secret, "sha256")
    assert expand(secret, "a label", *context, length=length) == _expanded(secret, fields, length)
    assert derive(secret, "a label", *context, length=length) == _expanded(
        extracted, fields, length
    )
    assert expand(secret, "a label", *context) == _expanded(secret, fields, 32)
    assert derive(secret, "a label", *context) == _expanded(extracted, fields, 32)


@pytest.mark.parametrize("case", load("aes_256_ctr"))
def test_keystream__matches_rfc_3686_and_sp_800_38a(case: Case) -> None:
    stream = _stream(bytes.fromhex(case["key"]), int(case["iv"], 16))
    assert stream.update(bytes.fromhex(case["plaintext"])).hex() == case["ciphertext"]


@pytest.mark.parametrize("case", load("nist_aes_256_gcm"))
def test_gcm__matches_nist_cavp(case: Case) -> None:
    fields = (bytes.fromhex(case[key]) for key in ("iv", "pt", "aad"))
    sealed = AESGCM(bytes.fromhex(case["key"])).encrypt(*fields)
    assert sealed.hex() == case["ct"] + case["tag"]


@pytest.mark.parametrize("case", load("wycheproof_aes_256_gcm"))
def test_gcm__matches_wycheproof(case: Case) -> None:
    cipher = AESGCM(bytes.fromhex(case["key"]))
    iv, aad, message = (bytes.fromhex(case[key]) for key in ("iv", "aad", "msg"))
    sealed = bytes.fromhex(case["ct"] + case["tag"])
    if case["result"] == "invalid":
        with pytest.raises(InvalidTag):
            cipher.decrypt(iv, sealed, aad)
    else:
        assert cipher.decrypt(iv, sealed, aad) == message


@pytest.mark.parametrize("case", load("wycheproof_ed25519"))
def test_ed25519__matches_wycheproof(case: Case) -> None:
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(case["pk"]))
    signature, message = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
    if case["result"] == "invalid":
        with pytest.raises(InvalidSignature):
            public.verify(signature, message)
    else:
        public.verify(signature, message)


@pytest.mark.parametrize("case", load("rfc9180_hpke_x25519"))
def test_hpke__matches_rfc_9180(case: Case) -> None:
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["skRm"]))
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEADS[case["aead_id"]])
    _check_hpke(suite, private, case)


@pytest.mark.skipif(not has_hybrid(), reason="this build of cryptography has no ML-KEM")
@pytest.mark.parametrize("case", load("hpke_mlkem768_x25519"))
def test_hpke__matches_the_hybrid_vectors(case: Case) -> None:
    # draft-ietf-hpke-pq: the 32-byte key expands to an ML-KEM seed (64) and an X25519 key (32).
    expanded = hashlib.shake_256(bytes.fromhex(case["skRm"])).digest(96)
    private = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        X25519PrivateKey.from_private_bytes(expanded[64:]),
    )
    suite = Suite(KEM.MLKEM768_X25519, KDFS[case["kdf_id"]], AEADS[case["aead_id"]])
    _check_hpke(suite, private, case)


def _check_hpke(
    suite: Suite, private: X25519PrivateKey | MLKEM768X25519PrivateKey, case: Case
) -> None:
    first = case["encryptions"][0]
    sealed = bytes.fromhex(case["enc"] + first["ct"])
    info, aad = bytes.fromhex(case["info"]), bytes.fromhex(first["aad"])
    decrypt = openssl.hpke._decrypt_with_aad  # the vectors have AAD, the public call has none
    assert decrypt(suite, sealed, private, info, aad).hex() == first["pt"]
