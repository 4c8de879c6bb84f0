"""`fedlearn keys kit` and `fedlearn keys join`: start-up kits, made and opened."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from fedlearn.cli.form import command, takes
from fedlearn.core.errors import ConfigError


@command(
    "keys kit",
    "keys kit server.yaml --to kits",
    takes("file", "the file of the coordinator", "SERVERFILE", there=ConfigError),
    takes("--to", "the folder where the kits go (default: kits)", "FOLDER", default="kits"),
    takes(
        "--address",
        "where sites reach the coordinator (default: the first name of its certificate, and its "
        "port)",
        "HOST:PORT",
    ),
    takes("--authority", "who certifies it (default: ca.crt beside its certificate)", "FILE"),
)
def keys_kit(options: argparse.Namespace) -> None:
    """Make a signed start-up kit for every site of the pinned roster: the roster, the authority's
    certificate, its site file, a unit and a compose file; no secret is in it."""
    from server import serverfile
    from server.kits import signed_by, write_kits

    file, authority = serverfile.load(Path(options.file)), options.authority
    roster, kits = write_kits(
        file,
        Path(options.to),
        options.address,
        None if authority is None else Path(authority),
        datetime.now(UTC),
    )
    for path in kits:
        print(f"{path}: send it to that site")
    print(f"Each site opens its own with: fedlearn keys join NAME.kit.zip {signed_by(roster)}")
    print("It hears that fingerprint from whoever signs the roster, by another way than the kit.")


@command(
    "keys join",
    "keys join cleveland.kit.zip 0f1e-2d3c-4b5a-6978-8796-a5b4-c3d2-e1f0",
    takes("kit", "as the coordinator has sent it", "KIT", there=ConfigError),
    takes("fingerprint", "of who has signed the list of sites", "FINGERPRINT"),
    takes("--check", "look at it, and write nothing", action="store_true"),
)
def keys_join(options: argparse.Namespace) -> None:
    """Check the kit of a site, and write its files into this folder, with the list of sites pinned;
    ask for the fingerprint in person or by telephone."""
    from clients.kit import join

    done = join(Path(options.kit), options.fingerprint, Path(), write=not options.check)
    kit = done.kit
    print(f"site {kit.site} of the federation {kit.roster.federation}, coordinator {kit.address}")
    print(f"sites: {', '.join(kit.roster.sites())}; are they whom you expect?")
    if options.check:
        print("every signature is right; nothing was written")
        return
    for path in done.written:
        print(f"{path}: written")
    for path in done.left:
        print(f"{path}: is yours, and was left as it is")
    print("Fill in the data block of site.yaml; then: fedlearn client site.yaml --check")
