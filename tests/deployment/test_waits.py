"""What ends no run: sites that are cut off, a gateway that is killed, a SuperLink that is killed.

Two of four sites lose their network for longer than it takes to be missed. Then the gateway is
killed, then the SuperLink. Each time the run says whom it waits for and goes on by itself; what
was paid for and lost stays paid for, within what was promised. Only where sites stay away for
longer than the coordinator waits does it end, with exit code 4, and the same command goes on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clients.kit import join
from clients.ledger.report import verify
from clients.studies.view import look
from fedlearn.cli import main
from fedlearn.privacy.events import GaussianEvent
from server.queue import Queue
from server.status import status_of

from .cable import Cable
from .processes import PATIENCE, QUICK, Stage, children, end, staged, wait_for
from .world import HOSPITALS, World, make_world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

CUT = ("hungary", "va_long_beach")
ROUNDS, SPARE = 20, 3
RUN = (f"rounds={ROUNDS}", f"spare_rounds={SPARE}", "strategy.min_sites=3", "out=runs/waits")
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, heart_archive: Path
) -> Iterator[tuple[Stage, Cable]]:
    world = make_world(tmp_path_factory.mktemp("waits"))
    open_kits(world)
    with world.server_file.open("a") as file:
        file.write("metrics: fedlearn.prom\nalerts: [/bin/sh, alert.sh]\n")
    (world.coordinator / "alert.sh").write_text('echo "$1" >> alerts')
    cable = Cable(world.port)
    for name in CUT:
        path = world.site_file(name)
        path.write_text(path.read_text().replace(f":{world.port}", f":{cable.port}"))
    with staged(world, noise=None, options=QUICK) as stage:
        for name in world.sites:
            stage.site(name)
        yield stage, cable
    cable.close()


def open_kits(world: World) -> None:
    """All that sites have of their coordinator they take from kits; their own files stay."""
    assert main(["keys", "kit", str(world.server_file), "--to", str(world.root / "kits")]) == 0
    for name in world.sites:
        folder = world.root / name
        for path in (*folder.glob("roster.json*"), folder / "ca.crt"):
            path.unlink()
        kit = world.root / "kits" / f"{name}.kit.zip"
        done = join(kit, world.authority.fingerprint, folder, write=True)
        assert [path.name for path in done.left] == ["site.yaml"]


def events(stage: Stage, name: str) -> Lines:
    """What the coordinator has noted under a name."""
    path = stage.world.coordinator / "state" / "server.jsonl"
    whole = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in whole if f'"event": "{name}"' in line]
    return [one for one in found if one["event"] == name]


def rounds(stage: Stage) -> int:
    path = stage.world.coordinator / "runs" / "waits" / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def result(stage: Stage) -> dict[str, Any]:
    path = stage.world.coordinator / "runs" / "waits" / "result.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_outages__end_no_run_and_cost_what_was_lost(running: tuple[Stage, Cable]) -> None:
    stage, cable = running
    server = stage.server(*RUN, "reply_timeout=60.0")
    wait_for("the first round", lambda: rounds(stage) >= 1, unless=server)
    cable.cut()
    wait_for(
        "whom it waits for",
        lambda: any(one["for"] == list(CUT) for one in events(stage, "waiting")),
        unless=server,
    )
    assert result(stage)["status"] == "waiting"
    found = status_of(stage.world.coordinator / "state", datetime.now(UTC))
    assert (found.state, found.awaited) == ("waiting", CUT)
    assert found.round == rounds(stage)
    cable.mend()
    seen = rounds(stage)
    wait_for("a round with all again", lambda: rounds(stage) > seen, unless=server)
    os.kill(children(server.pid)["gateway"], signal.SIGKILL)
    wait_for(
        "another gateway",
        lambda: [one["program"] for one in events(stage, "restarted")] == ["gateway"],
        unless=server,
    )
    seen = rounds(stage)
    wait_for("a round through it", lambda: rounds(stage) > seen, unless=server)
    cut_off = len(events(stage, "cut_off"))
    os.kill(children(server.pid)["superlink"], signal.SIGKILL)
    wait_for("that it is noticed", lambda: len(events(stage, "cut_off")) > cut_off, unless=server)
    assert server.wait(PATIENCE) == 0, stage.said_by_coordinator()
    said = (stage.world.coordinator / "server.log").read_text()
    assert "waiting for hungary, va_long_beach" in " ".join(said.split())
    assert "a bug in fedlearn" not in said
    found = status_of(stage.world.coordinator / "state", datetime.now(UTC))
    assert (found.state, found.round, found.rounds) == ("finished", ROUNDS, ROUNDS)
    assert 'state="finished"} 1.0' in (stage.world.coordinator / "fedlearn.prom").read_text()
    alerts = (stage.world.coordinator / "alerts").read_text().split()
    assert alerts.count("run_ended") == 1
    assert {"site_down", "budget"} <= {*alerts}
    assert re.search(r"superlink: carries the run no more", " ".join(said.split()))
    check_accounts(stage)


def check_accounts(stage: Stage) -> None:
    """All rounds are there; ledgers are whole, and nobody has paid for more than was promised."""
    found = result(stage)
    assert found["status"] == "finished"
    assert [one["round"] for one in found["rounds"]] == list(range(1, ROUNDS + 1))
    lost = len(events(stage, "cut_off"))
    for name in HOSPITALS:
        report = verify(stage.world.ledger(name))
        assert not report.torn
        paid = sum(
            event.steps
            for event in report.by_run[found["run_id"]]
            if isinstance(event, GaussianEvent)
        )
        gave = sum(name not in one["clients"]["dropped"] for one in found["rounds"])
        known = found["privacy"]["per_site"][name]["steps"]
        assert gave <= paid <= known <= ROUNDS + SPARE
        assert paid <= gave + lost + (ROUNDS - gave)
        assert (
            found["privacy"]["per_site"][name]["epsilon"] <= found["config"]["privacy"]["epsilon"]
        )


def test_outage__that_lasts_ends_the_run_with_4_and_the_same_command_goes_on(
    running: tuple[Stage, Cable],
) -> None:
    stage, cable = running
    file = stage.world.server_file
    text = file.read_text()
    file.write_text(re.sub("wait_seconds: .*", "wait_seconds: 8.0", text))
    run = [*RUN[1:3], "rounds=40", "out=runs/ends", "privacy.epsilon=2.0", "reply_timeout=60.0"]
    server = stage.server(*run)
    metrics = stage.world.coordinator / "runs" / "ends" / "metrics.jsonl"
    wait_for("the first round", lambda: metrics.exists() and metrics.read_text(), unless=server)
    cable.cut()
    assert server.wait(PATIENCE) == 4, stage.said_by_coordinator()
    cable.mend()
    said = " ".join(stage.said_by_coordinator().split())
    assert "2 of at least 3 sites connected; waited 8 seconds for hungary, va_long_beach" in said
    assert re.search(r"[0-9]+ of 40 rounds are kept; the same command goes on from there", said)
    kept = metrics.read_text().count("\n")
    file.write_text(text)
    again = stage.server(*run)
    wait_for("another round", lambda: metrics.read_text().count("\n") > kept, unless=again)
    copied(stage, again)


def test_queue__is_served_over_sites_that_stay_connected(running: tuple[Stage, Cable]) -> None:
    stage, _ = running
    folder, state = stage.world.coordinator, stage.world.coordinator / "state"
    for process in stage.started:
        if process.args[-2:] == ["client", "site.yaml"]:  # type: ignore[index]
            continue
        end(process)
    if "copy" in stage.sites:
        end(stage.sites["copy"])
    others = HOSPITALS[1:]  # the first was one of two just now
    online = {name: stage.lives(name) for name in others}
    queue, small = Queue(state), (*QUICK, *RUN[1:3], "privacy.epsilon=0.5", "reply_timeout=60.0")
    queue.add([*small, "rounds=2"], folder / "runs" / "first")
    queue.add([*small, "rounds=60"], folder / "runs" / "long")
    queue.add([*small, "rounds=2"], folder / "runs" / "never")
    queue.stop(3)
    asking = stage.world.site_file(others[0])
    text = asking.read_text()
    asking.write_text(text.replace("policy:\n", "policy:\n  approval: ask\n"))
    server = stage.queue()
    check_approval(stage, server, others[0])
    asking.write_text(text)

    def states() -> list[str]:
        return [one.state for one in queue.studies()]

    metrics = folder / "runs" / "long" / "metrics.jsonl"
    wait_for("the second study", metrics.exists, unless=server)
    assert states() == ["finished", "running", "aborted"]
    queue.stop(2)
    wait_for("its end", lambda: states()[1] == "stopped", unless=server)
    kept = len(metrics.read_text().splitlines())
    queue.resume(2)
    wait_for("more of it", lambda: len(metrics.read_text().splitlines()) > kept, unless=server)
    now = {name: stage.lives(name) - online[name] for name in others}
    assert {*now.values()} == {1}, "they came online once, for all studies"
    os.kill(server.pid, signal.SIGINT)
    assert server.wait(PATIENCE) == 130
    assert states()[1] == "running", "it is resumed when a coordinator serves the queue again"


def check_approval(stage: Stage, server: subprocess.Popen[bytes], name: str) -> None:
    """A study waits for the owner of a site, and for nothing else, and goes on once he approves."""
    why = {name: "awaiting its owner's approval"}
    wait_for(
        "whose owner it waits for",
        lambda: any(one.get("why") == why for one in events(stage, "waiting")),
        unless=server,
    )
    found = status_of(stage.world.coordinator / "state", datetime.now(UTC))
    assert (found.awaited, dict(found.why)) == ((name,), why)
    before = verify(stage.world.ledger(name)).reserved
    file = stage.world.site_file(name)
    asked = look(file).studies[0]  # the last that has asked
    assert main(["studies", "approve", str(file), asked.terms[:16]]) == 0
    wait_for(
        "that it trains",
        lambda: verify(stage.world.ledger(name)).reserved > before,
        unless=server,
    )
    assert verify(stage.world.ledger(name)).decided


def copied(stage: Stage, server: subprocess.Popen[bytes]) -> None:
    """A site's folder is copied, and both are started: the coordinator and both of them say so."""
    shutil.copytree(stage.world.root / "cleveland", stage.world.root / "copy")
    (stage.world.root / "copy" / "client.log").unlink()
    stage.site("copy")
    wait_for("that it is noticed", lambda: events(stage, "copied"), unless=server)
    assert {one["site"] for one in events(stage, "copied")} == {"cleveland"}
    wait_for("that it hears", lambda: '"copied"' in stage.log("cleveland"), unless=server)
    wait_for("that the copy hears", lambda: '"copied"' in stage.log("copy"), unless=server)
