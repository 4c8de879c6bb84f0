"""`fedlearn keys`: identities, certificates, and the signed list of who takes part.

It prints fingerprints for people to compare, and never a secret.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedlearn.cli.form import command, takes

if TYPE_CHECKING:
    from fedlearn.crypto.roster import Roster

_MADE: Final = {
    "ca.key": "the authority's key; needed to renew the server's certificate, else keep it offline",
    "ca.crt": "the authority's certificate; send it to every site with the roster",
    "server.tls": "the server's key and certificate; it stays on this machine",
}


@command(
    "keys new",
    "keys new cleveland --folder keys",
    takes("name", "the participant's name in the roster", "NAME"),
    takes("--folder", "where both files go (default: keys)", default="keys"),
    takes(
        "--role",
        "what it does in a federation (default: site); an authority signs rosters",
        choices=("site", "server", "helper", "authority"),
        default="site",
    ),
)
def keys_new(options: argparse.Namespace) -> None:
    """Make an identity: NAME, which stays here, and NAME.pub for the roster."""
    from datetime import UTC, datetime

    from fedlearn.crypto import keyring
    from fedlearn.crypto.certificate_files import tls_path
    from fedlearn.crypto.identity import fingerprint

    folder, role = Path(options.folder), options.role
    made = keyring.new_identity(folder, options.name, role, datetime.now(UTC))
    private = folder / options.name
    print(f"{private}: the private identity; it stays on this machine, and only you can read it")
    if role in ("site", "helper"):
        print(f"{tls_path(private)}: the key of its connection; it stays on this machine, too")
    offline = role == "authority"
    public = _KEPT if offline else "send this file to whoever signs the roster"
    print(f"{keyring.public_path(private)}: {public}")
    print(f"fingerprint: {fingerprint(made.public)}")
    whom = "every site" if offline else "whoever signs the roster"
    print(f"Tell {whom} the fingerprint by another way than the file, such as a telephone.")


@command(
    "keys certificate",
    "keys certificate fed.example.org --folder keys",
    takes("hosts", "its names or IP addresses", "HOST", nargs="+"),
    takes("--folder", "where the files go (default: keys)", default="keys"),
)
def keys_certificate(options: argparse.Namespace) -> None:
    """Make or renew the certificate under which sites reach the coordinator."""
    from datetime import UTC, datetime

    from fedlearn.crypto.certificate_files import issue_server_credential

    for path in issue_server_credential(Path(options.folder), options.hosts, datetime.now(UTC)):
        print(f"{path}: {_MADE[path.name]}")


@command("keys show", "keys show keys/cleveland.pub", takes("path", "of NAME or NAME.pub", "PATH"))
def keys_show(options: argparse.Namespace) -> None:
    """The fingerprint of an identity, private or public."""
    from fedlearn.crypto.identity import Identity, fingerprint
    from fedlearn.crypto.introduction import read_introduction
    from fedlearn.crypto.keyring import is_private

    path = Path(options.path)
    if is_private(path):
        public = Identity.load(path).public
        print(f"{path}: a private identity, readable by its owner alone")
    else:
        participant = read_introduction(path)
        public = participant.public
        print(f"{path}: the public identity of {participant.role} {participant.name}")
    print(f"fingerprint: {fingerprint(public)}")
    print(f"public key:  {public.hex()}")


_ROSTER = takes("path", "as `keys roster sign` wrote it", "ROSTER")


@command(
    "keys roster sign",
    "keys roster sign keys/*.pub --by keys/authority --federation heart --to roster.json",
    takes("public", "who takes part", "NAME.pub", nargs="+"),
    takes("--by", "the identity of who vouches for the list", "KEY", required=True),
    takes("--federation", "what the roster is of, for its readers", "NAME", required=True),
    takes("--to", "the roster (default: roster.json)", "FILE", default="roster.json"),
)
def roster_sign(options: argparse.Namespace) -> None:
    """Sign public identities into a new roster; compare their fingerprints first."""
    from fedlearn.crypto.identity import Identity, fingerprint
    from fedlearn.crypto.keyring import sign_roster

    path, public = Path(options.to), [Path(one) for one in options.public]
    roster = sign_roster(path, options.federation, public, Identity.load(Path(options.by)))
    _print(path, roster)
    print(f"signed by {fingerprint(roster.authority)}; every participant pins this fingerprint:")
    print(f"fedlearn keys roster pin {path} {fingerprint(roster.authority)}")
    _print_caution(roster)


@command(
    "keys roster pin",
    "keys roster pin roster.json 0f1e-2d3c-4b5a-6978-8796-a5b4-c3d2-e1f0",
    _ROSTER,
    takes("fingerprint", "of who has signed it", "FINGERPRINT"),
)
def roster_pin(options: argparse.Namespace) -> None:
    """Accept this roster and no other, with this signature; ask for the fingerprint in person or
    by telephone; once more for a newer roster."""
    from fedlearn.crypto.keyring import pin_path, pin_roster

    path, pinned = Path(options.path), options.fingerprint
    roster = pin_roster(path, pinned)
    _print(path, roster)
    print(f"signed by {pinned}, which is pinned in {pin_path(path)} with this list")
    print("From now on a run may have these sites and no other: are they whom you expect?")
    _print_caution(roster)


@command(
    "keys roster show",
    "keys roster show roster.json",
    _ROSTER,
    takes(
        "--pin",
        "whose signature it must carry (default: the one noted by `keys roster pin`)",
        "FINGERPRINT",
    ),
)
def roster_show(options: argparse.Namespace) -> None:
    """Verify a roster and say who is in it."""
    from fedlearn.crypto import keyring
    from fedlearn.crypto.identity import fingerprint
    from fedlearn.crypto.roster import Roster

    path = Path(options.path)
    pin, given = keyring.read_pin(path), options.pin
    signer = keyring.checked_fingerprint(given) if given else pin.authority if pin else ""
    roster = Roster.load(path, signer) if signer else keyring.load_unpinned(path)
    _print(path, roster)
    if signer:
        print(f"signed by {signer}, as pinned")
    else:
        print(f"signed by {fingerprint(roster.authority)}, which is NOT pinned: compare it with")
        print(f"whoever signs it, then run: fedlearn keys roster pin {path} FINGERPRINT")
    if pin and pin.roster != roster.digest():
        print("It is NOT the list that was pinned: see who is new, and pin it if that is right")


def _print_caution(roster: Roster) -> None:
    """Where the coordinator vouches for the sites itself."""
    if roster.authority == roster.coordinator:
        print(
            "The coordinator has signed its own roster, and could put sites of its own making on "
            "one. Where sites need not trust it, somebody else signs: "
            "fedlearn keys new NAME --role authority"
        )


_KEPT = "keep it with the private half, on a machine that is on no network"


def _print(path: Path, roster: Roster) -> None:
    from rich.markup import escape

    from fedlearn.core import terminal
    from fedlearn.crypto.identity import fingerprint

    title = f"{escape(str(path))}: federation {escape(roster.federation)}"
    table = terminal.texts("name", "role", "fingerprint", title=title)
    for one in roster.participants:
        table.add_row(escape(one.name), one.role, fingerprint(one.public))
    # Fingerprints are compared digit by digit: they are never cut to a narrow terminal.
    table.columns[2].no_wrap = True
    terminal.show(terminal.console(), table)
