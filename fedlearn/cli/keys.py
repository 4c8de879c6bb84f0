"""`fedlearn keys`: identities, certificates, and the signed list of who takes part."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedlearn.cli.form import Commands, add, group


def add_keys(tasks: Commands[argparse.ArgumentParser]) -> None:
    """All under `keys`."""
    new = add(
        tasks,
        "keys new",
        "make an identity: NAME, which stays here, and NAME.pub for the coordinator",
        "keys new cleveland --folder keys",
        _keys_new,
    )
    new.add_argument("name", metavar="NAME", help="the participant's name in the roster")
    new.add_argument("--folder", default="keys", help="where both files go (default: keys)")
    new.add_argument(
        "--role",
        choices=("site", "server", "helper"),
        default="site",
        help="what it does in a federation (default: site)",
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
        "keys roster sign keys/*.pub --by keys/coordinator --federation heart --to roster.json",
        _roster_sign,
    )
    sign.add_argument("public", nargs="+", metavar="NAME.pub", help="who takes part")
    sign.add_argument("--by", required=True, metavar="KEY", help="the coordinator's identity")
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
        "accept a roster, now and later, only with this signature; ask for the "
        "fingerprint in person or by telephone",
        f"keys roster pin roster.json {fingerprint}",
        _roster_pin,
    )
    pin.add_argument("path", metavar="ROSTER", help="as `keys roster sign` wrote it")
    pin.add_argument("fingerprint", metavar="FINGERPRINT", help="of the coordinator's identity")
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
    from fedlearn.cli import keyring_display

    keyring_display.new(Path(options.folder), options.name, options.role)
    return 0


def _keys_certificate(options: argparse.Namespace) -> int:
    from fedlearn.cli import keyring_display

    keyring_display.certify(Path(options.folder), options.hosts)
    return 0


def _keys_show(options: argparse.Namespace) -> int:
    from fedlearn.cli import keyring_display

    keyring_display.show(Path(options.path))
    return 0


def _roster_sign(options: argparse.Namespace) -> int:
    from fedlearn.cli import keyring_display

    public = [Path(path) for path in options.public]
    keyring_display.sign(Path(options.to), options.federation, public, Path(options.by))
    return 0


def _roster_pin(options: argparse.Namespace) -> int:
    from fedlearn.cli import keyring_display

    keyring_display.pin(Path(options.path), options.fingerprint)
    return 0


def _roster_show(options: argparse.Namespace) -> int:
    from fedlearn.cli import keyring_display

    keyring_display.show_roster(Path(options.path), options.pin)
    return 0
