"""Server and sites as processes of their own, over TLS, from enrolment to the last round.

One federation serves all tests of this file, in their order: what a site's ledger
holds after one run is what the next one finds.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.numpy import load_file

from fedlearn.cli import main
from fedlearn.privacy.noise import TEST_NOISE

from .processes import PATIENCE, QUICK, Stage, children, listening, staged, wait_for
from .world import HOSPITALS, make_world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, heart_archive: Path) -> Iterator[Stage]:
    world = make_world(tmp_path_factory.mktemp("federation"))
    with staged(world, cold=True) as running:
        for name in world.sites:
            running.site(name)
        yield running


class Capture:
    """What passes the loopback interface, where the system lets us see it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.allowed = True
        self._ended = threading.Event()
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind(("lo", 0))
            self._socket.settimeout(0.2)
        except PermissionError:
            self.allowed = False
            return
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                self.frames.append(self._socket.recv(1 << 17))
            except TimeoutError:
                continue

    def end(self, ports: set[int]) -> bytes:
        """All frames to or from `ports`; other programs use this interface, too."""
        if self.allowed:
            self._ended.set()
            self._thread.join()
            self._socket.close()
        return b"".join(frame for frame in self.frames if _ports(frame) & ports)


def _ports(frame: bytes) -> set[int]:
    """Source and destination of a frame of Ethernet, IPv4 and TCP; empty for any other."""
    if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
        return set()
    start = 14 + 4 * (frame[14] & 0x0F)
    return set(struct.unpack("!HH", frame[start : start + 4]))


def result(stage: Stage, name: str) -> dict[str, Any]:
    path = stage.world.coordinator / "runs" / name / "result.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_rehearsal__gives_bit_for_bit_the_model_of_the_simulation(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture()
    server = stage.server("rounds=2", "out=runs/first")
    there = stage.world.coordinator / "runs" / "first" / "result.json"
    wait_for("a round", there.exists, unless=server)
    look_from_a_sites_position(stage)
    assert set(children(server.pid)) == {"superlink", "gateway"}
    inside = listening(children(server.pid)["superlink"])
    assert {address for address, _ in inside} == {"0100007F"}, "on 127.0.0.1 and nowhere else"
    ports = {stage.world.port, *(port for _, port in inside)}
    assert server.wait(PATIENCE) == 0

    monkeypatch.setenv(TEST_NOISE, stage.noise)
    as_deployed = ("evaluation=private", "spare_rounds=1")
    assert main(["simulate", *QUICK, "rounds=2", *as_deployed, f"out={tmp_path / 'run'}"]) == 0
    simulated = json.loads((tmp_path / "run" / "result.json").read_text())
    deployed = result(stage, "first")
    assert deployed["model"]["sha256"] == simulated["model"]["sha256"]
    assert deployed["final"] == simulated["final"]
    assert deployed["data"]["sites"].keys() == simulated["data"]["sites"].keys()
    # How many records a site of its own has stays there.
    assert all(set(one.values()) == {None} for one in deployed["data"]["sites"].values())
    assert deployed["privacy"]["epsilon"] is None, "noise that repeats promises nothing"
    # A deployed site only commits itself to its records.
    assert simulated["data"]["sha256"] not in deployed["data"]["sha256"]
    assert len(deployed["data"]["sha256"].split("+")) == len(HOSPITALS)

    on_the_way = capture.end(ports)
    if capture.allowed:
        assert len(on_the_way) > 100_000
        for tensor in load_file(tmp_path / "run" / "model.safetensors").values():
            assert tensor.tobytes()[:8] not in on_the_way
        for word in (b"confusion", b"server-round", b"medical_heart", b"/v1/fleet"):
            assert word not in on_the_way


def look_from_a_sites_position(stage: Stage) -> None:
    """The fleet's API answers a site; the other two answer nobody, and strangers get no TLS."""
    name = stage.world.sites[0]
    folder = stage.world.root / name
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    url = f"https://127.0.0.1:{stage.world.port}"
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
        httpx.get(f"{url}/health", verify=context)
    context.load_cert_chain(folder / "keys" / f"{name}.tls")
    with httpx.Client(verify=context, base_url=url) as site:
        assert site.get("/health").status_code == 200
        unsigned = site.post("/v1/fleet/pull-messages")
        assert 400 <= unsigned.status_code < 500
        assert unsigned.status_code != 404
        for path in ("control/start-run", "control/list-nodes", "runtime/acquire-task"):
            assert site.post(f"/v1/{path}").status_code == 404
        assert site.get("/docs").status_code == 404


def test_rehearsal__goes_on_without_a_site_that_was_taken_off_the_roster(stage: Stage) -> None:
    names = [name for name in HOSPITALS if name != "switzerland"]
    stage.world.sign(names, everywhere=False)  # a part of what the sites have pinned
    before = spent(stage, "switzerland")
    server = stage.server("rounds=1", "out=runs/third", "privacy.epsilon=1.0")
    wait_for(
        "its refusal",
        lambda: "it does not accept this site's certificate" in stage.log("switzerland"),
        unless=server,
    )
    assert server.wait(PATIENCE) == 0
    assert sorted(result(stage, "third")["data"]["sites"]) == names
    assert spent(stage, "switzerland") == before


def spent(stage: Stage, name: str) -> bytes:
    ledger = stage.world.ledger(name)
    return ledger.read_bytes() if ledger.exists() else b""


def test_rehearsal__tells_the_coordinator_why_a_site_refuses(stage: Stage) -> None:
    server = stage.server("rounds=1", "out=runs/fourth", "secagg=off")
    assert server.wait(PATIENCE) == 3
    said = (stage.world.coordinator / "server.log").read_text()
    for name in HOSPITALS:
        if name != "switzerland":
            assert f"site {name}: " in said
    assert "require_secagg" in said
    assert not (stage.world.coordinator / "runs" / "fourth").exists()


def test_rehearsal__leaves_no_run_state_but_the_last(stage: Stage) -> None:
    for name in HOSPITALS:
        states = list((stage.world.root / name / "state" / "runtime").glob("run-*"))
        assert len(states) <= 1
        assert all(path.stat().st_mode & 0o77 == 0 for path in states)
