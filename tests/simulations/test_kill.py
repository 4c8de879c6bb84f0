"""Power cuts: a whole run killed at random moments; the ledgers never show less than was released.

`FEDLEARN_KILLS=100 pytest tests/simulations/test_kill.py -m slow` for the long version.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clients.ledger.report import verify
from tests import warm

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("heart_archive")]

KILLS = int(os.environ.get("FEDLEARN_KILLS", "8"))
SITES = ("cleveland", "hungary", "switzerland", "va_long_beach")


def write_sites(folder: Path) -> None:
    folder.mkdir()
    for name in SITES:
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\ndata: {{kind: csv, path: x.csv, label: y}}\nkeys: k\n"
            f"roster: r\nledger: state/{name}.jsonl\n"
            "policy: {epsilon_total: 1000.0, min_cohort: 1, require_transport: null, "
            "require_secagg: null}\n"
        )


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def kill_at_random(arguments: list[str], watched: Path, moment: float) -> None:
    """Start a run and kill it `moment` seconds after it has first written to a ledger."""
    before = size(watched)
    process = warm.Popen(
        [sys.executable, "-m", "fedlearn", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300  # a busy machine takes its time to start
        while size(watched) == before:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the run has never begun"
            time.sleep(0.001)
        time.sleep(moment)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def released(out: Path) -> int:
    """Rounds whose model is on the coordinator's disk."""
    path = out / "metrics.jsonl"
    lines = path.read_text().split("\n") if path.exists() else []
    return sum(1 for line in lines if line.endswith("}"))


@pytest.mark.timeout(30 * KILLS + 300)
@pytest.mark.parametrize("privacy", ["record", "distributed"])
def test_kill__at_any_moment_leaves_ledgers_that_verify_and_hold_all_that_was_released(
    tmp_path: Path, privacy: str
) -> None:
    write_sites(tmp_path / "sites")
    moments = np.random.default_rng().uniform(0, 1.2, KILLS // 2)
    total, state = 0, tmp_path / "sites" / "state"
    for number, moment in enumerate(moments):
        # Every third run is one that goes on where the one before was killed.
        again = number % 3 == 2 and (tmp_path / f"run{number - 1}" / "checkpoint").is_dir()
        out = tmp_path / f"run{number - 1 if again else number}"
        before = released(out)
        arguments = ["simulate", "experiment=medical_heart", "rounds=300", f"out={out}",
                     f"privacy={privacy}", f"sites={tmp_path / 'sites'}"]  # fmt: skip
        kill_at_random([*arguments, *(["resume=true"] if again else [])],
                       state / f"{SITES[number % 4]}.jsonl", moment)  # fmt: skip
        total += max(0, released(out) - before)
        for name in SITES:
            ledger = state / f"{name}.jsonl"
            if not ledger.exists():  # killed before this site was asked for the first round
                assert total == 0
                continue
            report = verify(ledger)
            assert sum(event.steps for event in report.spent) >= total
            if (out / "result.json").exists():
                run_id = json.loads((out / "result.json").read_text())["run_id"]
                mine = sum(event.steps for event in report.by_run[run_id])
                assert mine >= released(out)
    assert total > 0, "no run got as far as a round"
