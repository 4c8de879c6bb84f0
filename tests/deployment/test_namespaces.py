"""Machines of their own, as network namespaces: what a site can reach of its coordinator.

The coordinator and two sites have a network stack each, joined by cables, and run the
commands of docs/deployment.md. From where a site sits, every port is tried.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .processes import PATIENCE, end, environment, wait_for
from .world import World, command, make_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SITES = ("cleveland", "hungary")
LOOSE = "{unit: none, min_cohort: 1, require_transport: null, require_secagg: null}"
OPTIONS = (
    "experiment=medical_heart", "privacy=none", "secagg=off", "rounds=1", "out=runs/apart",
)  # fmt: skip

SCAN = """\
import socket, sys

def answers(port):
    with socket.socket() as one:
        one.settimeout(10)  # a closed port refuses at once
        return one.connect_ex((sys.argv[1], port)) == 0

print([port for port in range(1, 65536) if answers(port)])
"""


@dataclass(frozen=True)
class Machine:
    """A namespace with one cable, to the others by way of a bridge in the coordinator's."""

    name: str
    address: str

    def run(self, *arguments: str) -> str:
        return ip("netns", "exec", self.name, *arguments)

    def start(self, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
        with (folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, sys.executable, "-m", "fedlearn", *arguments],
                cwd=folder, env=environment(None), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output,
            )  # fmt: skip


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def machines() -> Iterator[Sequence[Machine]]:
    """The coordinator's machine, and one for each site."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    tag = f"fl{os.getpid()}"
    made = [Machine(f"{tag}-{i}", f"10.231.7.{i + 1}") for i in range(len(SITES) + 1)]
    try:
        ip("netns", "add", made[0].name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        for machine in made[1:]:
            ip("netns", "add", machine.name)
        join(made)
        yield made
    finally:
        for machine in made:
            subprocess.run(["ip", "netns", "del", machine.name], check=False)


def join(machines: Sequence[Machine]) -> None:
    hub = machines[0]
    hub.run("ip", "link", "set", "lo", "up")
    hub.run("ip", "link", "add", "bridge", "type", "bridge")
    hub.run("ip", "addr", "add", f"{hub.address}/24", "dev", "bridge")
    hub.run("ip", "link", "set", "bridge", "up")
    for i, machine in enumerate(machines[1:]):
        port = f"port{i}"
        machine.run("ip", "link", "set", "lo", "up")
        machine.run("ip", "link", "add", "eth0", "type", "veth", "peer", port)
        machine.run("ip", "link", "set", port, "netns", hub.name)
        machine.run("ip", "addr", "add", f"{machine.address}/24", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")
        hub.run("ip", "link", "set", port, "master", "bridge", "up")


@pytest.fixture
def world(machines: Sequence[Machine], tmp_path: Path, heart_archive: Path) -> World:
    host = machines[0].address
    made = make_world(tmp_path, SITES)
    folder = str(made.coordinator / "keys")
    command(["keys", "certificate", host, "--folder", folder])
    made.server_file.write_text(made.server_file.read_text().replace("127.0.0.1", host))
    for name in SITES:
        path = made.site_file(name)
        text = path.read_text().replace("127.0.0.1", host)
        head, _, _ = text.partition("policy:")
        server = text[text.index("server:") :]
        path.write_text(f"{head}policy: {LOOSE}\n{server}")
    return made


def test_namespaces__only_the_gateways_port_answers_a_site(
    machines: Sequence[Machine], world: World
) -> None:
    coordinator, *others = machines
    server = coordinator.start(world.coordinator, "server", "server.yaml", *OPTIONS)
    started = [server]
    try:
        log = world.coordinator / "state" / "server.jsonl"
        wait_for("the run", lambda: log.exists() and '"started"' in log.read_text(), unless=server)
        open_ports = json.loads(others[0].run(sys.executable, "-c", SCAN, coordinator.address))
        assert open_ports == [world.port], "and nothing else, of 65,535"
        assert json.loads(coordinator.run(sys.executable, "-c", SCAN, others[0].address)) == []
        for machine, name in zip(others, SITES, strict=True):
            started.append(machine.start(world.root / name, "client", "site.yaml"))
        assert server.wait(PATIENCE) == 0
    finally:
        for process in started:
            end(process)
    found = json.loads((world.coordinator / "runs/apart/result.json").read_text())
    assert (found["status"], sorted(found["data"]["sites"])) == ("finished", sorted(SITES))
