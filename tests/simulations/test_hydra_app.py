"""Hydra's own multirun over the same configs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.simulations.small import environment, table

pytestmark = pytest.mark.slow


def app(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulations.hydra_app", *words]
    return warm.run(command, text=True, env=environment(), cwd=folder, timeout=300)


def test_hydra__runs_every_combination_into_folders_that_a_report_finds(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    done = app(tmp_path, "-m", *table(tmp_path), "privacy=none", "seed=0,1",
               f"hydra.sweep.dir={sweep}")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(p.read_text()) for p in (sweep / "runs").glob("*/result.json")]
    assert {result["config"]["seed"] for result in results} == {0, 1}
    assert {result["status"] for result in results} == {"finished"}
    report = [sys.executable, "-m", "fedlearn", "report", str(sweep / "runs")]
    made = warm.run(report, text=True, env=environment(), timeout=120)
    assert made.returncode == 0, made.stderr
    assert (sweep / "runs" / "report.html").is_file()


def test_hydra__refuses_with_our_words_and_exit_codes(tmp_path: Path) -> None:
    done = app(tmp_path, "-m", "rounds=0,2", f"hydra.sweep.dir={tmp_path / 's'}")
    assert done.returncode == 2
    assert "fedlearn: rounds=0: must be > 0" in done.stderr
    assert "Traceback" not in done.stderr
