"""What `fedlearn keys` prints: fingerprints for people to compare, and never a secret."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape

from fedlearn.core import terminal
from fedlearn.crypto import keyring
from fedlearn.crypto.certificate_files import issue_server_credential, tls_path
from fedlearn.crypto.identity import Identity, fingerprint
from fedlearn.crypto.introduction import read_introduction
from fedlearn.crypto.roster import Role, Roster


def new(folder: Path, name: str, role: Role) -> None:
    """Make an identity and say what to do with its two files."""
    made = keyring.new_identity(folder, name, role, datetime.now(UTC))
    private = folder / name
    print(f"{private}: the private identity; it stays on this machine, and only you can read it")
    if role == "site":
        print(f"{tls_path(private)}: the key of its connection; it stays on this machine, too")
    own = role == "server"
    public = "it goes into the roster" if own else "send this file to the coordinator"
    print(f"{keyring.public_path(private)}: {public}")
    print(f"fingerprint: {fingerprint(made.public)}")
    whom = "every site" if own else "the coordinator"
    print(f"Tell {whom} the fingerprint by another way than the file, such as a telephone.")


def certify(folder: Path, hosts: Sequence[str]) -> None:
    """Make or renew the certificate of the coordinator's server and say what is whose."""
    for path in issue_server_credential(folder, hosts, datetime.now(UTC)):
        print(f"{path}: {_MADE[path.name]}")


_MADE = {
    "ca.key": "the authority's key; needed to renew the server's certificate, else keep it offline",
    "ca.crt": "the authority's certificate; send it to every site with the roster",
    "server.tls": "the server's key and certificate; it stays on this machine",
}


def show(path: Path) -> None:
    """Say whose identity a file holds."""
    if keyring.is_private(path):
        identity = Identity.load(path)
        print(f"{path}: a private identity, readable by its owner alone")
        print(f"fingerprint: {identity.fingerprint}")
        print(f"public key:  {identity.public.hex()}")
        return
    participant = read_introduction(path)
    print(f"{path}: the public identity of {participant.role} {participant.name}")
    print(f"fingerprint: {fingerprint(participant.public)}")
    print(f"public key:  {participant.public.hex()}")


def sign(path: Path, federation: str, introductions: Sequence[Path], authority: Path) -> None:
    """Sign a roster and show it."""
    roster = keyring.sign_roster(path, federation, introductions, Identity.load(authority))
    _print(path, roster)
    print(f"signed by {fingerprint(roster.authority)}; every participant pins this fingerprint:")
    print(f"fedlearn keys roster pin {path} {fingerprint(roster.authority)}")


def pin(path: Path, pinned: str) -> None:
    """Pin a signature to a roster and show it."""
    roster = keyring.pin_roster(path, pinned)
    _print(path, roster)
    print(f"signed by {pinned}, which is pinned in {keyring.pin_path(path)}")


def show_roster(path: Path, pinned: str | None) -> None:
    """Verify a roster against `pinned`, or against the pin beside it, and show it."""
    pinned = keyring.checked_fingerprint(pinned) if pinned else keyring.read_pin(path)
    roster = Roster.load(path, pinned) if pinned else keyring.load_unpinned(path)
    _print(path, roster)
    if pinned:
        print(f"signed by {pinned}, as pinned")
    else:
        print(f"signed by {fingerprint(roster.authority)}, which is NOT pinned: compare it with")
        print(f"the coordinator, then run: fedlearn keys roster pin {path} FINGERPRINT")


def _print(path: Path, roster: Roster) -> None:
    title = f"{escape(str(path))}: federation {escape(roster.federation)}"
    table = terminal.texts("name", "role", "fingerprint", title=title)
    for one in roster.participants:
        table.add_row(escape(one.name), one.role, fingerprint(one.public))
    # Fingerprints are compared digit by digit: they are never cut to a narrow terminal.
    table.columns[2].no_wrap = True
    terminal.show(terminal.console(), table)
