"""Ctrl-C in a terminal reaches every process of a run: a round ends first, all else at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.ledger.report import verify
from tests import warm

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("heart_archive")]

ROUNDS = 8
RUN = [
    "simulate", "experiment=medical_heart", "privacy=none", "secagg=off", "transport=plain",
    f"rounds={ROUNDS}", "training.local_steps=150", "model.architecture=mlp",
]  # fmt: skip


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    """The run in a process group of its own, as a terminal would start it."""
    command = [sys.executable, "-m", "fedlearn", *RUN, f"out={out}", *more]
    return warm.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finished(out: Path, *more: str) -> dict[str, Any]:
    """The result of a run that nobody disturbs."""
    running = start(out, *more)
    _, complaint = running.communicate(timeout=300)
    assert running.returncode == 0, complaint
    return read(out)


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_interrupt__of_two_workers_finishes_the_round_and_can_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = start(out, "engine.workers=2")
    wait_for(lambda: (out / "metrics.jsonl").exists() or running.poll() is not None)
    os.killpg(running.pid, signal.SIGINT)
    _, complaint = running.communicate(timeout=120)
    assert running.returncode == 130, complaint
    assert "Traceback" not in complaint
    wait_for(lambda: gone(running.pid))

    stopped = read(out)
    assert stopped["status"] == "interrupted"
    assert 1 <= len(stopped["rounds"]) < ROUNDS
    for entry in stopped["rounds"]:
        assert entry["clients"] == {"invited": 4, "replied": 4, "dropped": {}}

    resumed = finished(out, "engine.workers=2", "resume=true")
    assert resumed["rounds"][: len(stopped["rounds"])] == stopped["rounds"]
    assert [entry["round"] for entry in resumed["rounds"]] == list(range(1, ROUNDS + 1))
    alone = finished(tmp_path / "alone", "engine.workers=1")
    assert resumed["model"]["sha256"] == alone["model"]["sha256"]


def cut_off(place: str, *command: str) -> str:
    """The command with Ctrl-C when it comes to `place`; what it complains of."""
    running = warm.Popen(
        cutting(1, place, *command),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    said, complaint = running.communicate(timeout=300)
    assert running.returncode == 130, said + complaint
    assert "Traceback" not in said + complaint
    assert "after this round" not in said
    wait_for(lambda: gone(running.pid))
    found: str = complaint
    return found


def cutting(times: int, place: str, *command: str) -> list[str]:
    return [sys.executable, "-m", "tests.simulations.cut_off", str(times), place, *command]


def again(*command: str) -> int:
    """The exit code of the same command with `resume=true`."""
    return warm.run([sys.executable, "-m", "fedlearn", *command, "resume=true"]).returncode


@pytest.mark.parametrize(
    ("place", "rounds"),
    [
        ("fedlearn.cli:parse", None),
        ("clients.records:load_pool", None),
        ("server.run:secagg_driver", None),
        ("server.run:Reporter.end", 2),
        ("fedlearn.report.page:write_report", 2),
    ],
)
def test_interrupt__outside_a_round_ends_at_once_and_can_be_resumed(
    tmp_path: Path, place: str, rounds: int | None
) -> None:
    out = tmp_path / "run"
    short = [*RUN, "rounds=2", "training.local_steps=1", f"out={out}"]
    assert "stopped" in cut_off(place, *short)
    if rounds is None:  # nothing was begun, and the same command begins
        assert not out.exists()
        return
    assert len(read(out)["rounds"]) == rounds
    assert again(*short) == 0
    assert read(out)["status"] == "finished"
    assert (out / "report.html").is_file()


def test_interrupt__in_the_first_round_leaves_its_price_in_the_run_that_goes_on(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    short = ["simulate", "experiment=medical_heart", "rounds=3", f"out={out}"]
    # The second one cuts the round off, after the sites have paid and trained.
    command = cutting(2, "server.federation:Federation._evaluate", *short)
    cut = warm.run(command, text=True, start_new_session=True)
    assert cut.returncode == 130, cut.stderr
    before = read(out)
    assert (before["status"], before["rounds"]) == ("interrupted", [])
    assert again(*short) == 3
    after = read(out)
    assert after["run_id"] == before["run_id"]
    assert len(after["rounds"]) == 2
    for ledger in (out / "sites").glob("*/ledger.jsonl"):
        assert sum(event.steps for event in verify(ledger).spent) == 3


def test_interrupt__of_a_comparison_that_checks_its_runs_ends_at_once(tmp_path: Path) -> None:
    out = tmp_path / "study"
    compare = ["compare", *RUN[1:], "seed=0,1", f"out={out}"]
    assert "stopped" in cut_off("simulations.sweeps.compare:SweepFolder.rehearse", *compare)
    assert not out.exists()
