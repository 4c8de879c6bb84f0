"""The public half of an identity as a file: what a participant sends to the coordinator.

Name, role and public key, signed by that key itself: whoever sends it holds the
private half, and a file that was mangled on its way is noticed. It says nothing
about who the sender is: the coordinator compares the fingerprint by another way
(a phone call, a contract) before it signs the key into a roster.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.identity import PUBLIC_BYTES, SIGNATURE_BYTES, Identity, fingerprint, verify
from fedlearn.crypto.roster import Participant, Role
from fedlearn.errors import ConfigError

SCHEMA: Final = "fedlearn/introduction/v1"
_PURPOSE: Final = "introduction"
_ROLES: Final[dict[str, Role]] = {"site": "site", "server": "server", "helper": "helper"}


def introduce(identity: Identity, name: str, role: Role) -> str:
    """The text of an introduction: JSON, with the fingerprint in it for people."""
    document = {
        "schema": SCHEMA,
        "name": name,
        "role": role,
        "public": identity.public.hex(),
        "fingerprint": identity.fingerprint,
        "signature": identity.sign(_PURPOSE, name_bytes(name), role.encode()).hex(),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read_introduction(path: Path) -> Participant:
    """The participant that an introduction names, if its own key signed it.

    Raises:
        ConfigError: unreadable, not an introduction, or altered.
    """
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else error
        raise ConfigError([f"{path}: not a public identity: {reason}"]) from None


def _parse(document: dict[str, Any]) -> Participant:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema is {document['schema']!r}, expected {SCHEMA!r}")
    name, public = str(document["name"]), bytes.fromhex(document["public"])
    role = _ROLES[document["role"]]
    if not name.isprintable():  # it is shown on the coordinator's terminal
        raise ValueError("its name cannot be printed")
    signature = bytes.fromhex(document["signature"])
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        raise ValueError("a key or signature has the wrong length")
    if not verify(public, signature, _PURPOSE, name_bytes(name), role.encode()):
        raise ValueError("it was altered after its key had signed it")
    # Not signed, but it is what people compare.
    if document["fingerprint"] != fingerprint(public):
        raise ValueError("the fingerprint in it is not that of its key")
    return Participant(name=name, role=role, public=public)
