"""`fedlearn server` says what is true: where no run comes about, and of its sites."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.core.errors import ProtocolError
from fedlearn.core.vector import Vector
from server import health as health_module
from server.deployment import composed, left_open
from server.federation import Federation
from server.health import SiteHealth, Watch, health, stopped
from server.run_state import ReleasedSums
from tests.deployment.processes import PATIENCE, children, environment, staged, wait_for
from tests.deployment.world import World, make_world

RUN = ["privacy=none", "secagg=off", "transport=plain", "model.architecture=linear",
       "training.sample_rate=0.5", "rounds=3"]  # fmt: skip


def lines(complaint: str) -> list[str]:
    """What was said of the end, on standard error."""
    return [line for line in complaint.splitlines() if line.startswith("fedlearn: ")]


def serve(world: World, *overrides: str) -> list[str]:
    """A coordinator to which nobody comes; what it complains of."""
    command = [sys.executable, "-m", "fedlearn", "server", str(world.server_file), *overrides]
    done = subprocess.run(command, env=environment(None), capture_output=True, text=True,
                          check=False, timeout=PATIENCE)  # fmt: skip
    assert done.returncode == 4, done.stderr
    return lines(done.stderr)


@pytest.mark.slow
@pytest.mark.usefixtures("heart_archive")
def test_exit_4__says_from_where_which_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = Federation._evaluate

    def fails_in_two(
        self: Federation, number: int, model: Vector, there: Sequence[str]
    ) -> ReleasedSums:
        if number == 2:
            raise ProtocolError("", "evaluate", "no site answered")
        return evaluate(self, number, model, there)

    run = [*RUN, f"out={tmp_path / 'run'}"]
    with monkeypatch.context() as patched:
        patched.setattr(Federation, "_evaluate", fails_in_two)
        assert main(["simulate", *run]) == 4
    reason, way = lines(capsys.readouterr().err)
    assert reason.endswith("evaluate: no site answered")
    kept = "fedlearn: 1 of 3 rounds are kept"
    assert way == f"{kept}; the same command with resume=true goes on from there"
    # The same run by a coordinator.
    world = make_world(tmp_path / "world", ("a", "b"), wait=0.5)
    _, way = serve(world, *run)
    assert way == f"{kept}; the same command goes on from there"
    # And so it does.
    assert main(["simulate", *run, "resume=true"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], len(result["rounds"])) == ("finished", 3)
    # Where nothing was begun, nothing is promised.
    assert len(serve(world, *RUN, f"out={tmp_path / 'other'}")) == 1


@pytest.mark.slow
def test_interrupt__of_a_server_that_waits_for_sites_ends_it_and_its_programs(
    tmp_path: Path,
) -> None:
    world = make_world(tmp_path, ("a", "b"), wait=PATIENCE)
    with staged(world, None, RUN) as stage:
        server = stage.server("out=run")
        health = world.coordinator / "state" / "health.json"
        wait_for("the server to look for sites", health.exists, unless=server)
        programs = children(server.pid)
        assert set(programs) == {"superlink", "gateway"}
        # What a terminal does: every process of its group gets it. The two are in none of ours, for
        # in the middle of a round they have to be there to its end.
        assert server.pid not in map(os.getpgid, programs.values())
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait(PATIENCE) == 130
        for process in programs.values():
            with pytest.raises(ProcessLookupError):
                os.kill(process, 0)
    said = stage.said_by_coordinator()
    assert "fedlearn: stopped" in said
    assert "Traceback" not in said
    assert {one["state"] for one in json.loads(health.read_text())} == {"not watched"}
    assert not (world.coordinator / "run").exists()


# --- health.json ---------------------------------------------------------------------

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def test_health__has_a_line_for_every_site_and_keeps_since_when() -> None:
    names = {1: "a", 2: "b", 3: "c"}
    first = health({1: "online", 2: "registered", 3: "online"}, names, [], NOW)
    assert [(one.site, one.state) for one in first] == [
        ("a", "online"), ("b", "never seen"), ("c", "online"),
    ]  # fmt: skip
    later = NOW + timedelta(seconds=30)
    now = {1: "online", 2: "online", 3: "offline", 9: "online"}
    second = health(now, names, first, later)
    before, stamp = "2026-05-04T00:00:00+00:00", "2026-05-04T00:00:30+00:00"
    assert second == [
        SiteHealth(site="a", state="online", since=before, as_of=stamp),
        SiteHealth(site="b", state="online", since=stamp, as_of=stamp),
        SiteHealth(site="c", state="offline", since=stamp, as_of=stamp),
    ]


def test_health__of_a_stopped_server_claims_nothing() -> None:
    seen = health({1: "online"}, {1: "a"}, [], NOW)
    (left,) = stopped(seen, NOW + timedelta(seconds=9))
    assert left.state == "not watched"
    assert (left.since, left.as_of) == ("2026-05-04T00:00:09+00:00", seen[0].as_of)


def test_watch__tells_what_it_sees_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "LOOK_SECONDS", 0.01)
    path, looks, online = tmp_path / "health.json", [0], threading.Event()

    def read() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(path.read_text())
        return found

    def look() -> dict[int, str]:
        looks[0] += 1
        if looks[0] == 3:  # what the second look found is on disk
            assert [one["state"] for one in read()] == ["online"]
            online.set()
        return {1: "online" if looks[0] > 1 else "registered"}

    with Watch(look, {1: "a"}, path):
        assert online.wait(60)
    (left,) = read()
    assert left["state"] == "not watched"
    assert left["as_of"] <= left["since"]


def test_check__says_what_a_run_leaves_to_the_files_of_sites() -> None:
    """A site whose file says it neither answers no more than that its records cannot be used."""
    table = ["scenario=csv", "scenario.path=x.csv", "scenario.label=y"]
    (said,) = left_open(composed(table))
    assert "scenario.numeric and scenario.categories, scenario.gaps, scenario.classes" in said
    given = ["scenario.numeric=[age]", "scenario.gaps=[]", "scenario.classes=[a,b]"]
    assert left_open(composed([*table, *given])) == []
    assert left_open(composed([*table, "privacy=none"])) == []
    assert left_open(composed(["experiment=medical_heart"])) == []
