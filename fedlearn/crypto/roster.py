"""The signed list of who takes part: names, roles and public keys, signed by one authority.

Everybody pins the authority's fingerprint out of band (a phone call, a contract), and the
hash of the list as it has been read, and takes all other keys from here. The authority need
not be the coordinator, and should not: who signs the list could put in sites of its own.
The file is JSON for people; the signature covers the canonical binary encoding, so no reading
of the JSON is trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fedlearn.core.errors import ConfigError, prefixed
from fedlearn.core.names import lookalikes, name_problem, site_name_problem
from fedlearn.crypto.codec import Writer, name_bytes
from fedlearn.crypto.identity import PUBLIC_BYTES, SIGNATURE_BYTES, Identity, fingerprint, verify
from fedlearn.crypto.kdf import key_info

SCHEMA = "fedlearn/roster/v1"
Role = Literal["site", "server", "helper", "authority"]
"""`authority` signs rosters, and is on none."""

SERVER: Final = "server"
"""What the coordinator is called on the list of a run, and in what goes wrong with it."""

_ON_ROSTERS: Final = ("site", "server", "helper")


@dataclass(frozen=True, kw_only=True)
class Participant:
    """A name, what it does, and its Ed25519 public key (32 bytes)."""

    name: str
    role: Role
    public: bytes

    def __post_init__(self) -> None:
        problem = site_name_problem if self.role == "site" else name_problem
        if found := problem(self.name):
            raise ValueError(found)


@dataclass(frozen=True, kw_only=True)
class Roster:
    """A signed list; build one with `sign`, read one with `load`. Both verify."""

    federation: str
    participants: tuple[Participant, ...]
    authority: bytes
    signature: bytes

    def __post_init__(self) -> None:
        names = [name_bytes(one.name) for one in self.participants]
        keys = {one.public for one in self.participants}
        if names != sorted(set(names)):
            raise ValueError("roster names must be distinct and sorted by their bytes")
        if len(keys) != len(names) or any(len(key) != PUBLIC_BYTES for key in keys):
            raise ValueError("roster keys must be distinct, of 32 bytes each")
        if any(one.role not in _ON_ROSTERS for one in self.participants):
            raise ValueError(f"roster roles must be of {_ON_ROSTERS}")
        if sum(one.role == "server" for one in self.participants) > 1:
            raise ValueError("a roster names one coordinator (role `server`) at most")
        if sum(one.role == "helper" for one in self.participants) > 1:
            raise ValueError("a roster names one second server (role `helper`) at most")
        if problem := name_problem(self.federation):
            raise ValueError(f"federation: {problem}")
        if not verify(self.authority, self.signature, "roster", self._body()):
            raise ValueError("the authority's signature does not match")

    @classmethod
    def sign(
        cls, federation: str, participants: tuple[Participant, ...], authority: Identity
    ) -> Roster:
        """A roster signed by the authority; participants may come in any order.

        Raises:
            ValueError: a name or key appears twice, or a key is not 32 bytes.
        """
        ordered = tuple(sorted(participants, key=lambda one: name_bytes(one.name)))
        return cls(
            federation=federation,
            participants=ordered,
            authority=authority.public,
            signature=authority.sign("roster", _body(federation, ordered)),
        )

    def _body(self) -> bytes:
        return _body(self.federation, self.participants)

    @classmethod
    def of_run(cls, federation: str, sites: Mapping[str, bytes], coordinator: Identity) -> Roster:
        """The list of one run: its sites, and the coordinator, who signs it."""
        listed = [Participant(name=name, role="site", public=key) for name, key in sites.items()]
        listed.append(Participant(name=SERVER, role="server", public=coordinator.public))
        return cls.sign(federation, tuple(listed), coordinator)

    def public_of(self, name: str, role: Role = "site") -> bytes:
        """The public key of a participant in that role.

        Raises:
            ConfigError: nobody of that name has that role.
        """
        for one in self.participants:
            if one.name == name and one.role == role:
                return one.public
        raise ConfigError(f"roster of {self.federation}: no {role} is called {name!r}")

    def digest(self) -> str:
        """SHA-256 (hex) of all that is signed and of who has signed it: what is pinned."""
        fields = key_info("roster-digest", self.authority, self._body())
        return hashlib.sha256(fields).hexdigest()

    def sites(self) -> dict[str, bytes]:
        """Public keys of all sites by name, in canonical order."""
        return {one.name: one.public for one in self.participants if one.role == "site"}

    @property
    def coordinator(self) -> bytes:
        """The key of who carries out runs: of the server on the list, else of who signed it."""
        servers = [one.public for one in self.participants if one.role == "server"]
        return servers[0] if servers else self.authority

    @property
    def helper(self) -> Participant | None:
        """The second server of another organisation, where there is one."""
        return next((one for one in self.participants if one.role == "helper"), None)

    def to_json(self) -> str:
        """The roster as JSON, for people."""
        document = {
            "schema": SCHEMA,
            "federation": self.federation,
            "participants": [
                {"name": one.name, "role": one.role, "public": one.public.hex()}
                for one in self.participants
            ],
            "authority": self.authority.hex(),
            "signature": self.signature.hex(),
        }
        return json.dumps(document, indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Writes the roster as JSON."""
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_json(cls, text: str) -> Roster:
        """The roster that `to_json` wrote; the caller checks that its authority is the right one.

        Raises:
            ConfigError: not a roster, or altered after it was signed.
        """
        try:
            return _parse(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"not a valid roster: {error}") from None

    @classmethod
    def load(cls, path: Path, pinned: str) -> Roster:
        """The roster in a file, if it was signed by the authority with the fingerprint `pinned`.

        Raises:
            ConfigError: unreadable, not a roster, signed by somebody else, or altered.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise ConfigError(f"{path}: not a valid roster: {error}") from None
        with prefixed(path):
            roster = cls.from_json(text)
        if fingerprint(roster.authority) != pinned:
            raise ConfigError(
                f"{path}: signed by {fingerprint(roster.authority)}, pinned is {pinned}; "
                "compare the fingerprint with who signs it before changing the pin"
            )
        if found := lookalikes(one.name for one in roster.participants):
            raise ConfigError([f"{path}: {problem}" for problem in found])
        return roster


def _body(federation: str, participants: tuple[Participant, ...]) -> bytes:
    writer = Writer().blob(federation.encode()).uint(len(participants), 4)
    for one in participants:
        writer.name(one.name).blob(one.role.encode()).raw(one.public)
    return writer.done()


def _parse(document: dict[str, Any]) -> Roster:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema is {document['schema']!r}, expected {SCHEMA!r}")
    participants = tuple(
        Participant(
            name=str(one["name"]), role=one["role"], public=_hex(one["public"], PUBLIC_BYTES)
        )
        for one in document["participants"]
    )
    return Roster(
        federation=str(document["federation"]),
        participants=participants,
        authority=_hex(document["authority"], PUBLIC_BYTES),
        signature=_hex(document["signature"], SIGNATURE_BYTES),
    )


def _hex(text: str, length: int) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != length:
        raise ValueError(f"a field has {len(data)} bytes instead of {length}")
    return data
