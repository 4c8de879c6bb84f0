"""Runs on records of several labels: with and without privacy, asked afterwards as any other."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.cli import main
from fedlearn.config import compose
from fedlearn.report.page import write_report
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

pytestmark = pytest.mark.slow
FINDINGS = ("edema", "fracture", "rash")


def table(path: Path, rows: int = 2000) -> None:
    """Three measurements that tell of three findings, which go together; four hospitals."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["one", "two", "three", "hospital", *FINDINGS])
        for i in range(rows):
            x = rng.normal(size=3)
            found = np.array([x[0] + 0.5 * x[1], x[1] - 0.5, x[0] + x[2] - 1]) > 0
            flipped = found ^ (rng.random(3) < 0.03)
            sheet.writerow([*x.round(3), f"h{i % 4}", *flipped.astype(int)])


def words(path: Path) -> list[str]:
    return [
        "task=labels", "scenario=csv", f"scenario.path={path}", "scenario.label=findings",
        f"scenario.labels=[{','.join(FINDINGS)}]", "scenario.site=hospital", "rounds=8",
        f"scenario.classes=[{','.join(FINDINGS)}]", "scenario.numeric=[one,two,three]",
        "scenario.scaling.columns={one:[-4,4],two:[-4,4],three:[-4,4]}", "scenario.gaps=[]",
        "model=tabular", "model.architecture=linear", "training.nominal_records=350",
        "training.learning_rate=8", "training.local_steps=10", "training.sample_rate=0.2",
        "training.optimizer=sgd",
    ]  # fmt: skip


def run(out: Path, *more: str) -> dict[str, Any]:
    path = out.parent / "chest.csv"
    if not path.exists():
        table(path)
    simulate(compose([*words(path), *more, f"out={out}"]), Silent(), Stop())
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels") / "clear"
    run(
        out,
        "rounds=25",
        "privacy=none",
        "secagg=off",
        "scenario.validation_fraction=0.1",
        "training.keep=best",
    )
    return out


def test_run__is_near_a_regression_of_each_label(clear: Path) -> None:
    result = json.loads((clear / "result.json").read_text())
    found, plain = result["final"]["evaluate"], result["baseline"]["evaluate"]
    assert found["micro_f1"] > plain["micro_f1"] - 0.05 > result["final"]["uninformed"]["micro_f1"]
    assert list(result["by_class"]["classes"]) == list(FINDINGS)
    assert all(one["auc"]["value"] > 0.9 for one in result["by_class"]["classes"].values())
    assert result["data"]["classes"] == list(FINDINGS)
    assert result["validation"]["metric"] == "micro_f1"


def test_report_and_predictions__are_of_every_label(
    clear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_report(clear).read_text()
    for said in ("micro F1", "It says which labels a record has", "Every class against all others"):
        assert said in text
    asked = tmp_path / "asked.csv"
    asked.write_text("one,two,three\n3,3,3\n-3,-3,-3\n")
    assert main(["export", str(clear), "--to", str(tmp_path / "export")]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "export"), str(asked)]) == 0
    header, one, other = capsys.readouterr().out.splitlines()
    assert header == "line,predicted,chance of edema,chance of fracture,chance of rash"
    assert one.startswith("2,edema; fracture; rash,")
    assert other.startswith("3,none,")


@pytest.mark.parametrize("privacy", ["record", "distributed"])
def test_private_run__learns_and_is_tested_within_one_epsilon(tmp_path: Path, privacy: str) -> None:
    more = (
        ["training.local_steps=1", "rounds=15", "training.learning_rate=16"]
        if privacy == "distributed"
        else []
    )
    result = run(
        tmp_path / "run", f"privacy={privacy}", "privacy.epsilon=16", "evaluation=private", *more
    )
    found = result["final"]
    assert found["evaluate"]["micro_f1"] > found["uninformed"]["micro_f1"] + 0.03
    assert 14 < result["privacy"]["epsilon"] <= 16
    assert "auc" not in json.dumps(found["evaluate"])
    interval = result["fairness"]["all_sites"]["micro_f1"]
    assert interval["low"] < interval["value"] < interval["high"]


def test_screening__that_compares_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="a record has several"):
        run(tmp_path / "run", "privacy=none", "screening=sums")
