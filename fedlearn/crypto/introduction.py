"""The public half of an identity as a file: what a participant sends to the coordinator.

Name, role, public key and, for a site, the certificate of its transport, signed by
that key itself: whoever sends it holds the private half, and a file that was mangled
on its way is noticed. It says nothing
about who the sender is: the coordinator compares the fingerprint by another way
(a phone call, a contract) before it signs the key into a roster.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from fedlearn.core.errors import ConfigError
from fedlearn.crypto.certificates import own_certificate
from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.identity import PUBLIC_BYTES, SIGNATURE_BYTES, Identity, fingerprint, verify
from fedlearn.crypto.roster import Participant, Role

SCHEMA: Final = "fedlearn/introduction/v1"
_PURPOSE: Final = "introduction"
_ROLES: Final[dict[str, Role]] = {role: role for role in get_args(Role)}


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """Who somebody is; `certificate` (PEM) is empty where no transport needs one."""

    participant: Participant
    certificate: str


def introduce(identity: Identity, name: str, role: Role, certificate: str = "") -> str:
    """The text of an introduction: JSON, with the fingerprint in it for people."""
    document = {
        "schema": SCHEMA,
        "name": name,
        "role": role,
        "public": identity.public.hex(),
        "fingerprint": identity.fingerprint,
        "certificate": certificate,
        "signature": identity.sign(_PURPOSE, *_fields(name, role, certificate)).hex(),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _fields(name: str, role: Role, certificate: str) -> tuple[bytes, ...]:
    """What is signed; without a certificate, the same as before there were any."""
    certified = (certificate.encode(),) if certificate else ()
    return name_bytes(name), role.encode(), *certified


def read_introduction(path: Path) -> Participant:
    """The participant that an introduction names, if its own key signed it.

    Raises:
        ConfigError: unreadable, not an introduction, or altered.
    """
    return read_certified(path).participant


def read_certified(path: Path) -> Introduction:
    """An introduction with its certificate, if its own key signed both.

    Raises:
        ConfigError: unreadable, not an introduction, or altered.
    """
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else error
        raise ConfigError(f"{path}: not a public identity: {reason}") from None


def _parse(document: dict[str, Any]) -> Introduction:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema is {document['schema']!r}, expected {SCHEMA!r}")
    name, public = str(document["name"]), bytes.fromhex(document["public"])
    role, certificate = _ROLES[document["role"]], str(document.get("certificate", ""))
    signature = bytes.fromhex(document["signature"])
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        raise ValueError("a key or signature has the wrong length")
    if not verify(public, signature, _PURPOSE, *_fields(name, role, certificate)):
        raise ValueError("it was altered after its key had signed it")
    # Not signed, but it is what people compare.
    if document["fingerprint"] != fingerprint(public):
        raise ValueError("the fingerprint in it is not that of its key")
    participant = Participant(name=name, role=role, public=public)
    if certificate:
        own_certificate(certificate, "its certificate")
    return Introduction(participant=participant, certificate=certificate)
