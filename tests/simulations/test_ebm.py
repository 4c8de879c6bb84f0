"""Additive models are trained wherever other models are, for every task, and paid for the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.cli import main
from tests.attacks import lab as lab_module
from tests.attacks.lab import Lab

pytestmark = pytest.mark.slow

TASKS = {
    "two classes": ("scenario.label=ill",),
    "three classes": ("scenario.label=stage",),
    "regression": ("scenario.label=cost", "task=regression", "task.low=0", "task.high=1000"),
    "survival": (
        "scenario.label=days", "scenario.event=died", "task=survival", "task.horizon=1000",
    ),
}  # fmt: skip
LABELS = ("ill", "stage", "cost", "days", "died")
LEAD = {"two classes": "auc", "three classes": "accuracy", "regression": "r2",
        "survival": "c_index"}  # fmt: skip
PRIVATE = ("privacy.epsilon=8", "privacy.delta=1e-4")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients of four sites, whose outcomes all rise with their age."""
    rng, count = np.random.default_rng(5), 800
    age = rng.integers(20, 90, count)
    risk = 1 / (1 + np.exp(-(age - 55) / 8))
    columns = {
        "age": age,
        "sex": rng.choice(["f", "m"], count),
        "site": rng.choice([*"abcd"], count),
        "ill": (rng.random(count) < risk).astype(int),
        "stage": np.digitize(age + 8 * rng.normal(size=count), [42, 66]),
        "cost": np.clip(11 * age + 80 * rng.normal(size=count), 0, 1000).round(1),
        "days": np.clip(rng.exponential(60 / (risk + 0.02)), 1, 2000).round(),
        "died": (rng.random(count) < 0.8).astype(int),
    }
    path = tmp_path_factory.mktemp("ebm") / "t.csv"
    rows = zip(*(values.astype(str) for values in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *map(",".join, rows)]))
    return path


def words(table: Path, task: str, out: Path, *more: str) -> list[str]:
    label = TASKS[task][0].partition("=")[2]
    drop = [one for one in LABELS if one != label and not (task == "survival" and one == "died")]
    return [
        "simulate", "scenario=csv", f"scenario.path={table}", "scenario.site=site",
        f"scenario.drop=[{','.join(drop)}]", "+scenario.scaling.columns.age=[20,90]",
        "+scenario.categories.sex=[f,m]", "partition=natural", "model=ebm", "rounds=12",
        *TASKS[task], *more, f"out={out}",
    ]  # fmt: skip


def result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


@pytest.mark.parametrize("privacy", ["none", "record", "distributed"])
@pytest.mark.parametrize("task", TASKS)
def test_ebm__learns_every_task_with_each_kind_of_noise(
    table: Path, task: str, privacy: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    asked = () if privacy == "none" else PRIVATE
    assert main(words(table, task, out, f"privacy={privacy}", *asked)) == 0
    found = result(out)
    assert found["final"]["evaluate"][LEAD[task]] > {"regression": 0.2}.get(task, 0.6)
    if asked:
        assert 7.5 < found["privacy"]["epsilon"] <= 8


def test_ebm__is_the_same_in_processes_of_ray(table: Path, tmp_path: Path) -> None:
    options = ("privacy=none", "secagg=off", "transport=plain")
    here, there = tmp_path / "here", tmp_path / "ray"
    assert main(words(table, "two classes", here, *options)) == 0
    command = words(table, "two classes", there, *options, "engine=ray")
    subprocess.run([sys.executable, "-m", "fedlearn", *command], env=os.environ, check=True)
    assert result(there)["model"]["sha256"] == result(here)["model"]["sha256"]
    assert result(there)["final"] == result(here)["final"]


def test_ebm__is_trained_by_deployed_sites_and_paid_from_their_ledgers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tuple(word for word in lab_module.STUDY if word != "model.architecture=linear")
    monkeypatch.setattr(lab_module, "STUDY", study)
    lab = Lab.make(tmp_path, "model=ebm")
    federation = lab.federate()
    start = federation.progress.model
    entries = [federation.run_round(number) for number in (1, 2)]
    assert all(entry.clients.replied == len(lab.world.sites) for entry in entries)
    assert np.abs(federation.progress.model - start).max() > 0
    assert federation.algorithm.deviation(federation.progress.algorithm) is not None
    assert {lab.spent_at(site) for site in lab.world.sites} == {2}
