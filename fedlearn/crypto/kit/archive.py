"""A kit as an archive: what is in it, who has signed it, and how it is read.

`kit.json` names the site, the federation, the coordinator's address and the hash of every other
file; `kit.sig` is the coordinator's signature on its bytes. Who the coordinator is says the roster
inside, and who may sign that, the fingerprint that its reader has been told by another way. Nothing
of an archive is used before all of this is checked; nothing of it is ever unpacked by its names.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedlearn.core.errors import ConfigError
from fedlearn.crypto.certificates import read_certificate
from fedlearn.crypto.identity import Identity, fingerprint, verify
from fedlearn.crypto.kit.texts import texts_of
from fedlearn.crypto.roster import Roster

SCHEMA: Final = "fedlearn/kit/v1"
MANIFEST, SIGNATURE, ROSTER, AUTHORITY = "kit.json", "kit.sig", "roster.json", "ca.crt"
MOST_BYTES: Final = 1_000_000
"""Of a file in a kit."""

_PURPOSE: Final = "kit"
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_TIME: Final = (2000, 1, 1, 0, 0, 0)
"""Of all files in an archive: two kits of the same facts are the same bytes."""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What a kit says once it is believed; `release` is the fedlearn that has made it."""

    site: str
    address: str
    release: str
    roster: Roster
    files: Mapping[str, bytes]
    """All that its reader may write down, by name."""


def made(
    site: str, address: str, release: str, roster: Roster, authority: str, coordinator: Identity
) -> bytes:
    """The archive for one site of a roster.

    Args:
        site: its name.
        address: where the coordinator is reached, as host:port.
        release: version and code of fedlearn.
        roster: the list of who takes part, which names this coordinator.
        authority: the certificates (PEM) by which the coordinator's is known.
        coordinator: who signs the kit.

    Raises:
        ConfigError: the address is none, or what is to be the authority's certificate is not.
    """
    files = _files(site, address, roster, certificates_in(authority))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {
        "schema": SCHEMA,
        "site": site,
        "federation": roster.federation,
        "address": address,
        "release": release,
        "files": hashes,
    }
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode()
    signature = coordinator.sign(_PURPOSE, text).hex().encode()
    return _zipped({**files, MANIFEST: text, SIGNATURE: signature})


def opened(archive: bytes, trusted: str, release: str) -> Kit:
    """A kit, if the coordinator of a roster that `trusted` has signed has made it.

    Args:
        archive: the bytes of its file.
        trusted: the fingerprint of who signs rosters.
        release: version and code of the fedlearn that is installed here.

    Raises:
        ConfigError: it is damaged, altered, another's, or of another release.
    """
    inside = _unzipped(archive)
    try:
        roster = Roster.from_json(inside[ROSTER].decode())
        text, signature = inside.pop(MANIFEST), bytes.fromhex(inside.pop(SIGNATURE).decode())
    except (KeyError, ValueError):
        raise ConfigError("is no kit, or is damaged") from None
    if (signer := fingerprint(roster.authority)) != trusted:
        raise ConfigError(
            f"its list of sites is signed by {signer}, and not by {trusted}; "
            "ask whoever signs it for the fingerprint once more, and use no kit that does not fit"
        )
    if not verify(roster.coordinator, signature, _PURPOSE, text):
        raise ConfigError("was not made by the coordinator of its list of sites, or was altered")
    manifest = _manifest(text)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in inside.items()}
    if hashes != manifest["files"] or manifest["federation"] != roster.federation:
        raise ConfigError("holds files that the coordinator has not signed")
    if manifest["release"] != release:
        raise ConfigError(
            f"was made by fedlearn {manifest['release']}, and {release} is installed here: both "
            "sides run the same release"
        )
    site, address = manifest["site"], manifest["address"]
    if site not in roster.sites():
        raise ConfigError("is for a site that its list has not")
    authority = inside.get(AUTHORITY, b"").decode("ascii", "replace")
    own = _files(site, address, roster, certificates_in(authority))
    names = sorted(own.keys() | inside.keys())
    if strange := [name for name in names if own.get(name) != inside.get(name)]:
        raise ConfigError(
            f"holds {', '.join(strange)} otherwise than this release writes it; take none of it"
        )
    return Kit(site=site, address=address, release=release, roster=roster, files=own)


def certificates_in(pem: str) -> str:
    """The certificates in a text, and nothing else of it.

    Raises:
        ConfigError: there is none, or something that is no certificate.
    """
    if "PRIVATE KEY" in pem:
        raise ConfigError("holds a private key, which must never leave its machine")
    parts = pem.split(_BEGIN)[1:]
    found = [f"{_BEGIN}{part.partition(_END)[0]}{_END}\n" for part in parts if _END in part]
    if not found or len(found) != len(parts):
        raise ConfigError("holds no certificate in PEM")
    for one in found:
        read_certificate(one, "a certificate in it")
    return "".join(found)


def _files(site: str, address: str, roster: Roster, authority: str) -> dict[str, bytes]:
    try:
        texts = texts_of(site, roster.federation, address)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    whole = {**texts, ROSTER: roster.to_json(), AUTHORITY: authority}
    return {name: text.encode() for name, text in whole.items()}


def _manifest(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
        if found["schema"] != SCHEMA:
            raise ValueError
        for name in ("site", "federation", "address", "release"):
            if not isinstance(found[name], str):
                raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"is no kit that this version reads ({SCHEMA})") from None
    return dict(found)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _TIME), files[name])
    return target.getvalue()


def _unzipped(archive: bytes) -> dict[str, bytes]:
    """The files of an archive by name, none of them large, none twice, none packed."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            found = opened.infolist()
            names = [one.filename for one in found]
            if len(set(names)) != len(names) or len(names) > 16:
                raise ConfigError("is no kit, or is damaged")
            for one in found:
                stored = one.compress_type == zipfile.ZIP_STORED and not one.flag_bits & 1
                if not stored or one.file_size > MOST_BYTES:
                    raise ConfigError("is no kit, or is damaged")
            return {one.filename: opened.read(one) for one in found}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, NotImplementedError,
            RuntimeError, UnicodeDecodeError, OverflowError, IndexError):  # fmt: skip
        raise ConfigError("is no kit, or is damaged") from None
