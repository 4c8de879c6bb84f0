"""Where keys and certificates of the transport lie on a disk.

| file | is |
|---|---|
| `keys/NAME.tls` | a site's key and its own certificate, mode 0600; never leaves the machine |
| `keys/server.tls` | the coordinator's key and certificate, mode 0600 |
| `keys/ca.key` | the authority's key, mode 0600; needed to renew `server.tls`, else kept offline |
| `keys/ca.crt` | the authority's certificate, for every site |

An organisation that has its own authority puts its files in the place of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from fedlearn.core.errors import ConfigError
from fedlearn.core.files import possible
from fedlearn.crypto.certificates import (
    Credential,
    authority_credential,
    load_credential,
    read_certificate,
    served_certificate,
    server_credential,
    site_credential,
    validity_problems,
)
from fedlearn.crypto.identity import read_private, write_private

TLS_SUFFIX: Final = ".tls"
AUTHORITY: Final = "ca"
SERVER: Final = "server"


def tls_path(identity: Path) -> Path:
    """Where the transport's credential of the participant with this identity file lies."""
    return identity.with_name(identity.name + TLS_SUFFIX)


def new_site_credential(identity: Path, now: datetime) -> Credential:
    """Make `NAME.tls` beside an identity that is being made; ConfigError if it exists."""
    made = site_credential(identity.name, now)
    write_private(tls_path(identity), made.pem())
    return made


def issue_server_credential(folder: Path, hosts: Sequence[str], now: datetime) -> list[Path]:
    """Make or renew `server.tls`, by the authority in `folder`, which is made if there is none.

    Returns the files that were written.

    Raises:
        ConfigError: a host cannot be certified, or the authority's files are not in order.
    """
    written: list[Path] = []
    key, certificate = folder / f"{AUTHORITY}.key", folder / f"{AUTHORITY}.crt"
    with possible("written", folder, ConfigError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if certificate.exists() or key.exists():
            authority = load_credential(read_private(key), str(key))
        else:
            authority = authority_credential("fedlearn", now)
            write_private(key, authority.pem())
            certificate.write_bytes(authority.certificate_pem())
            written += [key, certificate]
        made = server_credential(authority, hosts, now)
        target = folder / f"{SERVER}{TLS_SUFFIX}"
        fresh = target.with_name(f".{target.name}.new")
        fresh.unlink(missing_ok=True)
        write_private(fresh, made.pem())
        fresh.replace(target)
    return [*written, target]


def credential(path: Path) -> Credential:
    """The key and certificate in a private file.

    Raises:
        ConfigError: missing, readable by others, or not a credential.
    """
    return load_credential(read_private(path), str(path))


def server_problems(path: Path, now: datetime) -> list[str]:
    """What is wrong with a server's private file of key and certificate chain, every reason."""
    try:
        found = served_certificate(read_private(path), str(path))
    except ConfigError as error:
        return list(error.problems)
    return validity_problems(found, str(path), now)


def credential_problems(path: Path, now: datetime) -> list[str]:
    """What is wrong with a private file of key and certificate, every reason."""
    try:
        found = credential(path)
    except ConfigError as error:
        return list(error.problems)
    return validity_problems(found.certificate, str(path), now)


def authority_problems(path: Path, now: datetime) -> list[str]:
    """What is wrong with the certificate of an authority."""
    try:
        found = read_certificate(path.read_bytes(), str(path))
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror})"]
    except ConfigError as error:
        return list(error.problems)
    return validity_problems(found, str(path), now)
