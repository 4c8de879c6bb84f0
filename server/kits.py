"""`fedlearn keys kit`: a signed start-up kit for every site of the pinned roster."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509

from fedlearn import __version__
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ConfigError, prefixed
from fedlearn.core.files import possible, write_atomically
from fedlearn.crypto.certificates import served_certificate
from fedlearn.crypto.identity import fingerprint, read_private
from fedlearn.crypto.kit.archive import AUTHORITY, made
from fedlearn.crypto.kit.texts import ADDRESS, archive_name
from fedlearn.crypto.roster import Roster
from server import serverfile
from server.serverfile import ServerFile


def write_kits(
    file: ServerFile, folder: Path, address: str | None, authority: Path | None, now: datetime
) -> tuple[Roster, list[Path]]:
    """Write a kit for every site into a folder, in the place of older ones; the roster and them.

    Args:
        file: the coordinator.
        folder: where they go.
        address: where sites reach it; None for the first name of its certificate, and its port.
        authority: the file of certificates by which sites know the coordinator's; None for
            `ca.crt` beside that.
        now: by which certificates are looked at.

    Raises:
        ConfigError: the coordinator's files are not in order, or its certificate is not for the
            address.
    """
    parties = serverfile.federation(file, now)
    reached = address or f"{_hosts(file)[0]}:{file.port}"
    if not ADDRESS.fullmatch(reached):
        raise ConfigError(f"--address={reached}: must be host:port")
    host = reached.rpartition(":")[0].strip("[]")
    if host not in _hosts(file):
        raise ConfigError(
            f"--address={reached}: {file.tls} is a certificate for {', '.join(_hosts(file))}; make "
            f"one for this name with: fedlearn keys certificate {host}"
        )
    path = authority or file.tls.with_name(AUTHORITY)
    with possible("read", path, ConfigError):
        pem = path.read_bytes().decode("ascii", "replace")
    written = []
    with possible("written", folder, ConfigError), prefixed(path):
        folder.mkdir(parents=True, exist_ok=True)
        for site in parties.roster.sites():
            kit = made(site, reached, release(), parties.roster, pem, parties.identity)
            write_atomically(folder / archive_name(site), kit)
            written.append(folder / archive_name(site))
    return parties.roster, written


def release() -> str:
    """The fedlearn of this machine, in the words of a kit."""
    return f"{__version__} ({code_digest()[:16]})"


def signed_by(roster: Roster) -> str:
    """The fingerprint that sites have to be told."""
    return fingerprint(roster.authority)


def _hosts(file: ServerFile) -> list[str]:
    """The names and addresses of the coordinator's certificate; `*.x` stands for no name."""
    certificate = served_certificate(read_private(file.tls), str(file.tls))
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ConfigError(f"{file.tls}: a certificate for no name and no address") from None
    found = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*found, *(str(one) for one in addresses)]
