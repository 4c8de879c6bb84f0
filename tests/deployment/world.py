"""A federation on disk, made with the commands that a coordinator and its sites would type."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from fedlearn.cli import main
from fedlearn.crypto.identity import Identity

HOSPITALS = ("cleveland", "hungary", "switzerland", "va_long_beach")

SITE = """\
name: {name}
data: {{kind: heart}}
keys: keys/{name}
roster: roster.json
ledger: state/ledger.jsonl
policy:
  epsilon_total: {budget}
  min_cohort: 3
  require_transport: sealed
  require_secagg: masked
server: {{address: "127.0.0.1:{port}", authority: ca.crt}}
"""

SERVER = """\
listen: "127.0.0.1:{port}"
keys: keys/coordinator
roster: roster.json
introductions: keys
tls: keys/server.tls
wait_seconds: {wait}
"""

NOTARY = "notary"
HELPER = """\
name: notary
keys: keys/notary
roster: roster.json
approved: [{approved}]
server: {{address: "127.0.0.1:{port}", authority: ca.crt}}
"""


@dataclass(frozen=True)
class World:
    """`root/coordinator` and `root/NAME` for every site, each with its own files only."""

    root: Path
    port: int
    sites: tuple[str, ...] = HOSPITALS

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    @property
    def server_file(self) -> Path:
        return self.coordinator / "server.yaml"

    def site_file(self, name: str) -> Path:
        return self.root / name / "site.yaml"

    def ledger(self, name: str) -> Path:
        return self.root / name / "state" / "ledger.jsonl"

    @property
    def authority(self) -> Identity:
        """Who signs rosters: nobody of those who take part."""
        return Identity.load(self.root / "board" / "keys" / "authority")

    def sign(self, sites: Sequence[str], *, everywhere: bool = True) -> None:
        """A roster of these sites, at the coordinator and, `everywhere`, at each of them."""
        keys, roster = self.coordinator / "keys", self.coordinator / "roster.json"
        roster.unlink(missing_ok=True)
        introductions = [str(keys / f"{name}.pub") for name in (*sites, "coordinator")]
        by = str(self.root / "board" / "keys" / "authority")
        signed = ["--by", by, "--federation", "heart", "--to", str(roster)]
        command(["keys", "roster", "sign", *introductions, *signed])
        command(["keys", "roster", "pin", str(roster), self.authority.fingerprint])
        for name in sites if everywhere else ():
            own = self.root / name / "roster.json"
            shutil.copy(roster, own)
            command(["keys", "roster", "pin", str(own), self.authority.fingerprint])


def make_world(root: Path, sites: tuple[str, ...] = HOSPITALS, wait: float = 120.0) -> World:
    """Keys, certificates, roster, pins, and the two kinds of files."""
    world = World(root, free_port(), sites)
    keys = world.coordinator / "keys"
    board = str(root / "board" / "keys")
    command(["keys", "new", "authority", "--role", "authority", "--folder", board])
    command(["keys", "new", "coordinator", "--role", "server", "--folder", str(keys)])
    command(["keys", "certificate", "localhost", "127.0.0.1", "--folder", str(keys)])
    for name in sites:
        command(["keys", "new", name, "--folder", str(root / name / "keys")])
        shutil.copy(root / name / "keys" / f"{name}.pub", keys)
        shutil.copy(keys / "ca.crt", root / name)
    world.sign(sites)
    for name in sites:
        text = SITE.format(name=name, port=world.port, budget=20.0)
        world.site_file(name).write_text(text)
    world.server_file.write_text(SERVER.format(port=world.port, wait=wait))
    return world


def copied_world(root: Path, sites: tuple[str, ...], *, notary: bool = False) -> World:
    """As `make_world` makes it, and `with_notary`, with one set of keys for all such copies.

    For tests of what happens in one federation; worlds that are to be strangers are made.
    """
    made, files = _made(sites, notary)
    for folder in {name.parent for name, *_ in files}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, mode, content in files:
        (root / name).write_bytes(content)
        (root / name).chmod(mode)
    return replace(made, root=root)


@cache
def _made(sites: tuple[str, ...], notary: bool) -> tuple[World, list[tuple[Path, int, bytes]]]:
    """A world that is no more, and its files: names under its root, modes and contents."""
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), sites)
        if notary:
            with_notary(world)
        paths = [path for path in world.root.rglob("*") if path.is_file()]
        files = [(p.relative_to(world.root), p.stat().st_mode, p.read_bytes()) for p in paths]
    return world, files


def with_notary(world: World) -> Path:
    """A world with a second server; its file, which approves of nothing yet."""
    own, keys = world.root / NOTARY, world.coordinator / "keys"
    command(["keys", "new", NOTARY, "--role", "helper", "--folder", str(own / "keys")])
    shutil.copy(own / "keys" / f"{NOTARY}.pub", keys)
    shutil.copy(keys / "ca.crt", own)
    roster = world.coordinator / "roster.json"
    roster.unlink()
    names = (*world.sites, "coordinator", NOTARY)
    by = ["--by", str(world.root / "board" / "keys" / "authority"), "--federation", "heart"]
    introductions = [str(keys / f"{name}.pub") for name in names]
    command(["keys", "roster", "sign", *introductions, *by, "--to", str(roster)])
    for name in (*world.sites, NOTARY, "coordinator"):
        path = world.root / name / "roster.json"
        if path != roster:
            shutil.copy(roster, path)
        command(["keys", "roster", "pin", str(path), world.authority.fingerprint])
    for name in world.sites:
        file = world.site_file(name)
        text = file.read_text().replace("require_secagg: masked", "require_secagg: two_server")
        file.write_text(text.replace("  epsilon_total: 20.0\n", "  unit: none\n"))
    approve(world, "")
    return own / "helper.yaml"


def approve(world: World, terms: str) -> None:
    """Write what a notary approves of."""
    text = HELPER.format(port=world.port, approved=terms)
    (world.root / NOTARY / "helper.yaml").write_text(text)


def command(arguments: Sequence[str]) -> None:
    assert main(arguments) == 0, arguments


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
