"""Where identities and rosters lie on a disk: the conventions of `fedlearn keys`.

| file | is |
|---|---|
| `keys/NAME` | the private identity, PEM, mode 0600; never leaves the machine |
| `keys/NAME.pub` | its introduction, to send to the coordinator |
| `keys/NAME.tls` | the key of its transport, see `fedlearn.crypto.certificate_files` |
| `roster.json` | the signed list of who takes part |
| `roster.json.pin` | who may sign that list, and the hash of the list that its reader has seen |

Nothing here replaces a file that exists but a pin, by the hand of who pins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.core.files import possible
from fedlearn.core.names import lookalikes, name_problem, site_name_problem
from fedlearn.crypto.certificate_files import new_site_credential, tls_path
from fedlearn.crypto.identity import Identity, fingerprint
from fedlearn.crypto.introduction import introduce, read_introduction
from fedlearn.crypto.roster import Participant, Role, Roster

PUBLIC_SUFFIX: Final = ".pub"
PIN_SUFFIX: Final = ".pin"
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{4}(-[0-9a-f]{4}){7}")


def new_identity(folder: Path, name: str, role: Role, now: datetime) -> Participant:
    """Make `folder/name` (private) and `folder/name.pub` from fresh randomness.

    A site or a helper also gets `folder/name.tls` (private), its key for the transport, whose
    certificate is part of `name.pub`.

    Raises:
        ConfigError: the name cannot be a file's, one of the files exists, or the
            folder cannot be written to.
    """
    _check_name(name, role)
    private, public = folder / name, public_path(folder / name)
    if there := [str(path) for path in (public, tls_path(private)) if path.exists()]:
        raise ConfigError([f"{path}: exists; an identity is never replaced" for path in there])
    identity, certificate = Identity.new(), ""
    with possible("written", private, ConfigError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity.save(private)
        if role in ("site", "helper"):
            certificate = new_site_credential(private, now).certificate_pem().decode()
    _write_new(public, introduce(identity, name, role, certificate))
    return Participant(name=name, role=role, public=identity.public)


def public_path(private: Path) -> Path:
    """Where the introduction of the identity in `private` lies."""
    return private.with_name(private.name + PUBLIC_SUFFIX)


def is_private(path: Path) -> bool:
    """Whether a file looks like a private identity rather than an introduction."""
    with possible("read", path, ConfigError), path.open("rb") as file:
        return file.read(10) == b"-----BEGIN"


def sign_roster(
    path: Path, federation: str, introductions: Sequence[Path], authority: Identity
) -> Roster:
    """Sign the keys of `introductions` into a new roster at `path`.

    Raises:
        ConfigError: an introduction is not in order (all of them are named), a
            name or key appears twice, or `path` exists.
    """
    participants: list[Participant] = []
    problems: list[str] = []
    for introduction in introductions:
        try:
            participants.append(read_introduction(introduction))
        except ConfigError as error:
            problems += error.problems
    if path.exists():
        problems.append(
            f"{path}: exists; write the new roster beside it (--to {path.stem}-new{path.suffix}), "
            "then move it there"
        )
    # The authority's own introduction lies beside the others, as often as not.
    listed = [one for one in participants if one != _as_authority(one, authority)]
    problems += lookalikes(one.name for one in listed)
    refuse(problems, ConfigError)
    try:
        roster = Roster.sign(federation, tuple(listed), authority)
        roster.save(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return roster


def _as_authority(one: Participant, authority: Identity) -> Participant:
    return replace(one, role="authority", public=authority.public)


@dataclass(frozen=True, kw_only=True)
class Pin:
    """What somebody has compared: whose signature (a fingerprint), and on which list (its hash).

    `roster` is empty in a pin of a release before 0.3.0.
    """

    authority: str
    roster: str


def pin_roster(path: Path, pinned: str) -> Roster:
    """Note beside a roster whose signature it must carry, and that it is the one that was read.

    A newer list of the same authority takes the place of the one that was pinned.

    Raises:
        ConfigError: the roster is not in order or signed by somebody else, or
            another fingerprint is pinned already.
    """
    roster = Roster.load(path, checked_fingerprint(pinned))
    pin, before = pin_path(path), read_pin(path)
    if before is not None and before.authority != pinned:
        raise ConfigError(
            f"{pin}: another fingerprint is pinned; remove the file only if who signs the roster "
            "has changed its identity and said so in person"
        )
    if before is None or before.roster != roster.digest():
        fresh = pin.with_name(f".{pin.name}.new")
        fresh.unlink(missing_ok=True)
        _write_new(fresh, f"{pinned}\n{roster.digest()}\n")
        fresh.replace(pin)
    return roster


def load_pinned(path: Path) -> Roster:
    """A roster, if it is the one that is pinned beside it.

    Raises:
        ConfigError: not in order, signed by somebody else, another list than the one that
            was pinned, or nothing is pinned.
    """
    pinned = read_pin(path)
    if pinned is None:
        raise ConfigError(
            f"{path}: nobody's signature is pinned; compare the fingerprint with who signs the "
            f"roster, then run: fedlearn keys roster pin {path} FINGERPRINT"
        )
    roster = Roster.load(path, pinned.authority)
    if roster.digest() != pinned.roster:
        raise ConfigError(
            f"{path}: is not the list that was pinned; look at who is on it with `fedlearn keys "
            f"roster show {path}`, then run: fedlearn keys roster pin {path} {pinned.authority}"
        )
    return roster


def load_unpinned(path: Path) -> Roster:
    """A roster that is unaltered since somebody signed it; who that was, nobody has checked.

    Raises:
        ConfigError: unreadable, or altered.
    """
    try:
        authority = bytes.fromhex(json.loads(path.read_text(encoding="utf-8"))["authority"])
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{path}: not a valid roster") from None
    return Roster.load(path, fingerprint(authority))


def pin_path(roster: Path) -> Path:
    """Where the pin of a roster lies."""
    return roster.with_name(roster.name + PIN_SUFFIX)


def read_pin(roster: Path) -> Pin | None:
    """What is pinned for a roster, None if nothing is."""
    path = pin_path(roster)
    if not path.exists():
        return None
    try:
        authority, _, digest = path.read_text(encoding="utf-8").strip().partition("\n")
        return Pin(authority=checked_fingerprint(authority), roster=digest)
    except (OSError, UnicodeDecodeError, ConfigError):
        raise ConfigError(f"{path}: holds no fingerprint") from None


def checked_fingerprint(text: str) -> str:
    """The text itself, if it has the form of a fingerprint; else ConfigError."""
    if not _FINGERPRINT.fullmatch(text):
        raise ConfigError(
            f"{text}: must be a fingerprint as `fedlearn keys show` prints it: "
            "eight groups of four hex digits, with hyphens"
        )
    return text


def _check_name(name: str, role: Role) -> None:
    problem = site_name_problem(name) if role == "site" else name_problem(name)
    if problem:
        raise ConfigError(f"cannot be the name of a participant: {problem}")


def _write_new(path: Path, text: str) -> None:
    with possible("written", path, ConfigError), path.open("x", encoding="utf-8") as file:
        file.write(text)
