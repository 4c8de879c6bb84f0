"""Times to an event at four hospitals: from a table to a report, and to what is said of others."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import fedlearn as fl
from fedlearn.cli import main
from fedlearn.core.errors import ConfigError, DataError


def write_patients(path: Path, n: int = 600, **cells: str) -> Path:
    """Two numbers of which one tells of the risk, a hospital, days, and whether they died."""
    rng = np.random.default_rng(3)
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["stage", "weight", "hospital", "days", "died"])
        for i in range(n):
            stage, weight = rng.uniform(0, 4), rng.normal(75, 10)
            died, lost = rng.exponential(2000 * np.exp(-stage)), rng.exponential(900)
            row = [f"{stage:.2f}", f"{weight:.0f}", "abcd"[i % 4], f"{min(died, lost):.1f}"]
            sheet.writerow([*row, str(int(died <= lost))])
        if cells:
            usual = {"stage": "1", "weight": "70", "hospital": "a", "days": "5", "died": "1"}
            sheet.writerow((usual | cells).values())
    return path


TABLE = [
    "scenario=csv",
    "scenario.label=days",
    "scenario.event=died",
    "scenario.site=hospital",
    "scenario.scaling.columns={stage: [0, 4], weight: [40, 140]}",
    "partition=natural",
    "task=survival",
    "task.horizon=1000",
    "task.intervals=10",
    "model=tabular",
    "model.architecture=linear",
]


def run(folder: Path, *more: str, path: Path | None = None) -> fl.Result:
    table = path or write_patients(folder / "patients.csv")
    return fl.simulate(*TABLE, f"scenario.path={table}", *more, out=folder / "run")


@pytest.mark.slow
def test_survival__is_learned_told_and_predicted(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    result = run(tmp_path, "privacy=none", "rounds=12")
    assert result.metrics["c_index"] > 0.7
    assert result.metrics["brier"] < 0.2
    assert set(result.per_site) == {"a", "b", "c", "d"}
    assert any("hazard regression" in remark.says for remark in result.verdict)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "concordance (Harrell&#39;s C)" in page
    capsys.readouterr()
    table = tmp_path / "new.csv"
    table.write_text("stage,weight\n0.1,75\n3.9,75\n")
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "model")]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "model"), str(table)]) == 0
    early, late = (
        line.split(",") for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()
    )
    assert float(early[1]) < 0.6 < float(late[1])


@pytest.mark.slow
def test_survival__costs_an_epsilon_and_so_do_its_curves(tmp_path: Path) -> None:
    table = write_patients(tmp_path / "patients.csv", 6000)  # of few noise leaves no pair
    settings = ["privacy=distributed", "privacy.epsilon=8", "evaluation=private", "rounds=4"]
    result = run(tmp_path, *settings, path=table)
    assert result.epsilon is not None
    assert result.epsilon <= 8
    assert 0 <= result.metrics["c_index"] <= 1
    assert "brier" not in result.metrics


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"days": "-3"}, "line 602.*below zero"),
        ({"days": ""}, ""),
        ({"died": "maybe"}, "line 602.*neither 1 nor 0"),
        ({"died": ""}, "line 602.*neither 1 nor 0"),
        ({"days": "soon"}, "line 602.*no time"),
    ],
)
def test_survival__of_a_record_that_has_none_is_refused_by_its_line(
    tmp_path: Path, cells: dict[str, str], words: str
) -> None:
    table = write_patients(tmp_path / "patients.csv", **cells)
    if not words:
        assert run(tmp_path, "privacy=none", "rounds=1", path=table).metrics
        return
    with pytest.raises(DataError, match=words):
        run(tmp_path, "privacy=none", "rounds=1", path=table)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["scenario.event=''"], "scenario.event: task=survival asks"),
        (["scenario.event=deaths"], "scenario.event: no column 'deaths'"),
        (["scenario.event=days"], "is another role's column"),
        (["scenario.event=died", "task=regression", "task.low=0", "task.high=9999"], "no events"),
    ],
)
def test_events__that_do_not_fit_the_task_are_refused(
    tmp_path: Path, more: list[str], words: str
) -> None:
    table = write_patients(tmp_path / "patients.csv", 40)
    settings = [one for one in TABLE if not (len(more) > 1 and one.startswith("task"))]
    with pytest.raises(ConfigError, match=words):
        fl.simulate(*settings, f"scenario.path={table}", *more, out=tmp_path / "run")


@pytest.mark.slow
def test_survival__of_breast_cancer_in_six_regions_orders_patients(
    tmp_path: Path, brca: Path
) -> None:
    result = fl.simulate(
        "scenario=csv", f"scenario.path={brca}", "scenario.label=T", "scenario.event=E",
        "scenario.site=region", "scenario.part=fold", "scenario.drop=[fold2]", "partition=natural",
        "task=survival", "task.horizon=3650", "task.degree=1", "model=tabular",
        "model.architecture=linear", "privacy=none", "rounds=10", out=tmp_path / "run",
    )  # fmt: skip
    assert result.metrics["c_index"] > 0.7
