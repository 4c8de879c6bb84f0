"""`fedlearn keys`: identities, certificates, and the signed list of who takes part.

It prints fingerprints for people to compare, and never a secret.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedlearn.cli.form import Commands, add, group

if TYPE_CHECKING:
    from fedlearn.crypto.roster import Roster

_MADE: Final = {
    "ca.key": "the authority's key; needed to renew the server's certificate, else keep it offline",
    "ca.crt": "the authority's certificate; send it to every site with the roster",
    "server.tls": "the server's key and certificate; it stays on this machine",
}


def add_keys(tasks: Commands[argparse.ArgumentParser]) -> None:
    """All under `keys`."""
    new = add(
        tasks,
        "keys new",
        "make an identity: NAME, which stays here, and NAME.pub for the roster",
        "keys new cleveland --folder keys",
        _keys_new,
    )
    new.add_argument("name", metavar="NAME", help="the participant's name in the roster")
    new.add_argument("--folder", default="keys", help="where both files go (default: keys)")
    new.add_argument(
        "--role",
        choices=("site", "server", "helper", "authority"),
        default="site",
        help="what it does in a federation (default: site); an authority signs rosters",
    )
    show = add(
        tasks,
        "keys show",
        "the fingerprint of an identity, private or public",
        "keys show keys/cleveland.pub",
        _keys_show,
    )
    show.add_argument("path", metavar="PATH", help="of NAME or NAME.pub")
    certify = add(
        tasks,
        "keys certificate",
        "make or renew the certificate under which sites reach the coordinator",
        "keys certificate fed.example.org --folder keys",
        _keys_certificate,
    )
    certify.add_argument("hosts", nargs="+", metavar="HOST", help="its names or IP addresses")
    certify.add_argument("--folder", default="keys", help="where the files go (default: keys)")
    roster = group(tasks, "keys roster", "the signed list of who takes part",
                    "keys roster show roster.json")  # fmt: skip
    _add_roster(roster)


def _add_roster(tasks: Commands[argparse.ArgumentParser]) -> None:
    sign = add(
        tasks,
        "keys roster sign",
        "sign public identities into a new roster; compare their fingerprints first",
        "keys roster sign keys/*.pub --by keys/authority --federation heart --to roster.json",
        _roster_sign,
    )
    sign.add_argument("public", nargs="+", metavar="NAME.pub", help="who takes part")
    sign.add_argument(
        "--by", required=True, metavar="KEY", help="the identity of who vouches for the list"
    )
    sign.add_argument(
        "--federation", required=True, metavar="NAME", help="what the roster is of, for its readers"
    )
    sign.add_argument(
        "--to", default="roster.json", metavar="FILE", help="the roster (default: roster.json)"
    )
    fingerprint = "0f1e-2d3c-4b5a-6978-8796-a5b4-c3d2-e1f0"
    pin = add(
        tasks,
        "keys roster pin",
        "accept this roster and no other, with this signature; ask for the fingerprint in "
        "person or by telephone; once more for a newer roster",
        f"keys roster pin roster.json {fingerprint}",
        _roster_pin,
    )
    pin.add_argument("path", metavar="ROSTER", help="as `keys roster sign` wrote it")
    pin.add_argument("fingerprint", metavar="FINGERPRINT", help="of who has signed it")
    show = add(
        tasks,
        "keys roster show",
        "verify a roster and say who is in it",
        "keys roster show roster.json",
        _roster_show,
    )
    show.add_argument("path", metavar="ROSTER", help="as `keys roster sign` wrote it")
    show.add_argument("--pin", metavar="FINGERPRINT", help="whose signature it must carry "
                      "(default: the one noted by `keys roster pin`)")  # fmt: skip


def _keys_new(options: argparse.Namespace) -> int:
    """Make an identity and say what to do with its two files."""
    from datetime import UTC, datetime

    from fedlearn.crypto import keyring
    from fedlearn.crypto.certificate_files import tls_path
    from fedlearn.crypto.identity import fingerprint

    folder, role = Path(options.folder), options.role
    made = keyring.new_identity(folder, options.name, role, datetime.now(UTC))
    private = folder / options.name
    print(f"{private}: the private identity; it stays on this machine, and only you can read it")
    if role == "site":
        print(f"{tls_path(private)}: the key of its connection; it stays on this machine, too")
    offline = role == "authority"
    public = _KEPT if offline else "send this file to whoever signs the roster"
    print(f"{keyring.public_path(private)}: {public}")
    print(f"fingerprint: {fingerprint(made.public)}")
    whom = "every site" if offline else "whoever signs the roster"
    print(f"Tell {whom} the fingerprint by another way than the file, such as a telephone.")
    return 0


def _keys_certificate(options: argparse.Namespace) -> int:
    """Make or renew the certificate of the coordinator's server and say what is whose."""
    from datetime import UTC, datetime

    from fedlearn.crypto.certificate_files import issue_server_credential

    for path in issue_server_credential(Path(options.folder), options.hosts, datetime.now(UTC)):
        print(f"{path}: {_MADE[path.name]}")
    return 0


def _keys_show(options: argparse.Namespace) -> int:
    """Say whose identity a file holds."""
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
    return 0


def _roster_sign(options: argparse.Namespace) -> int:
    """Sign a roster and show it."""
    from fedlearn.crypto.identity import Identity, fingerprint
    from fedlearn.crypto.keyring import sign_roster

    path, public = Path(options.to), [Path(one) for one in options.public]
    roster = sign_roster(path, options.federation, public, Identity.load(Path(options.by)))
    _print(path, roster)
    print(f"signed by {fingerprint(roster.authority)}; every participant pins this fingerprint:")
    print(f"fedlearn keys roster pin {path} {fingerprint(roster.authority)}")
    _print_caution(roster)
    return 0


def _roster_pin(options: argparse.Namespace) -> int:
    """Pin a signature to a roster and show it."""
    from fedlearn.crypto.keyring import pin_path, pin_roster

    path, pinned = Path(options.path), options.fingerprint
    roster = pin_roster(path, pinned)
    _print(path, roster)
    print(f"signed by {pinned}, which is pinned in {pin_path(path)} with this list")
    print("From now on a run may have these sites and no other: are they whom you expect?")
    _print_caution(roster)
    return 0


def _roster_show(options: argparse.Namespace) -> int:
    """Verify a roster against `--pin`, or against the pin beside it, and show it."""
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
    return 0


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
