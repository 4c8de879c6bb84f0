"""A table that nobody has seen before, from one command to a model that is worth something."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedlearn.cli import main
from fedlearn.data.check.files import check

Cells = list[str]


def visit(rng: np.random.Generator) -> tuple[Cells, float]:
    """A measured value of any size with a comma, a ward, a habit, days; 23 of 100 come back."""
    crp, ward = rng.lognormal(2, 1), rng.choice(["A", "B", "C", "D"])
    smoker, stay = rng.random() < 0.3, rng.integers(1, 30)
    score = np.log(crp) - 4.5 + 1.5 * smoker + 1.5 * (ward == "C") + stay / 40
    cells = [f"{crp:.1f}".replace(".", ","), str(ward), "yes" if smoker else "no", str(stay)]
    return cells, 2.5 * score


def patient(rng: np.random.Generator) -> tuple[Cells, float]:
    """Two numbers that vary by less than their size, and a ward that tells nothing."""
    age, dose = rng.integers(20, 91), rng.uniform(0, 5)
    cells = [str(age), f"{dose:.2f}".replace(".", ","), str(rng.choice(["A", "B", "C"]))]
    return cells, 6 * (age / 90 + dose / 5 - 1.25)


def stay(rng: np.random.Generator) -> tuple[Cells, float]:
    """Numbers of usual size; an outcome of 4 in 100."""
    age, pressure, creatinine = rng.integers(18, 95), rng.normal(130, 20), rng.lognormal(0, 0.4)
    score = 0.06 * (age - 60) + 0.03 * (pressure - 130) + 2 * np.log(creatinine) - 3.3
    return [str(age), f"{pressure:.0f}", f"{creatinine:.2f}".replace(".", ",")], 1.5 * score


def write_table(
    path: Path, names: Cells, record: Callable[[np.random.Generator], tuple[Cells, float]], n: int
) -> None:
    """Of the columns `names`, 12 percent of the cells missing; a clinic, a label."""
    rng = np.random.default_rng(11)
    with path.open("w", newline="") as file:
        sheet = csv.writer(file, delimiter=";")
        sheet.writerow([*names, "clinic", "readmitted"])
        for _ in range(n):
            cells, odds = record(rng)
            cells = [cell if rng.random() > 0.12 else "" for cell in cells]
            ill = rng.random() < 1 / (1 + np.exp(-odds))
            sheet.writerow([*cells, rng.choice(["x", "y", "z"]), "yes" if ill else "no"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "record", "records", "settings"),
    [
        (["crp", "ward", "smoker", "stay"], visit, 1500, []),
        (["age", "dose", "ward"], patient, 900, []),
        (["age", "pressure", "creatinine"], stay, 3000,
         ["training.class_weights.yes=12", "training.learning_rate=2"]),
    ],
)  # fmt: skip
def test_simulate__beats_the_majority_on_a_table_never_seen_before(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: Cells,
    record: Callable[[np.random.Generator], tuple[Cells, float]],
    records: int,
    settings: list[str],
) -> None:
    path, out = tmp_path / "visits.csv", tmp_path / "run"
    write_table(path, names, record, records)
    command = ["simulate", "scenario=csv", f"scenario.path={path}", "scenario.label=readmitted",
               "scenario.site=clinic", "scenario.separator=semicolon", "scenario.decimal=','",
               f"out={out}", *settings]  # fmt: skip
    assert main(command) == 0
    result = json.loads((out / "result.json").read_text())
    assert set(result["data"]["sites"]) == {"x", "y", "z"}
    assert result["privacy"]["epsilon"] <= 4
    found = result["final"]["evaluate"]
    # The majority has a balanced accuracy and an AUC of .5.
    assert found["balanced_accuracy"] > 0.53
    assert found["auc"] > 0.7
    if not settings:  # else the rare class is bought with the accuracy of the other
        assert found["accuracy"] > majority(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("privacy", "least"), [("privacy=none", 0.75), ("privacy.epsilon=4", 0.55)]
)
def test_simulate__learns_from_what_data_check_suggests_for_a_wide_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], privacy: str, least: float
) -> None:
    """Forty columns, ten of which tell something: steps neither crawl nor overshoot.

    At epsilon 4 the AUC was .67, .70 and .72 in three draws of the noise: .55 is far below.
    """
    path, out = tmp_path / "wide.csv", tmp_path / "run"
    rng = np.random.default_rng(5)
    values = rng.lognormal(0, 1, (2400, 40)) * 10.0 ** rng.integers(-2, 5, 40)
    odds = (np.log(values[:, :10]) - np.log(values[:, :10]).mean(0)).sum(1) * 0.7 - 1.8
    ill = rng.random(2400) < 1 / (1 + np.exp(-odds))
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow([*(f"m{i}" for i in range(40)), "clinic", "outcome"])
        for row, label in zip(values, ill, strict=True):
            sheet.writerow([*(f"{v:.4g}" for v in row), rng.choice(["x", "y", "z"]), int(label)])
    assert main(["simulate", *check(path).settings, privacy, f"out={out}"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["final"]["evaluate"]["auc"] > least
    losses = [entry["evaluate"]["loss"] for entry in result["rounds"]]
    assert losses[-1] < 1.1 * min(losses)


def majority(path: Path) -> float:
    """How common the commoner class is."""
    with path.open(newline="") as file:
        labels = [row["readmitted"] for row in csv.DictReader(file, delimiter=";")]
    return max(labels.count("yes"), labels.count("no")) / len(labels)


def test_simulate__says_what_is_unusual_in_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.csv"
    rows = [f"{20 + i * 7 % 30},{'ns'[i % 2]},{i // 2 % 2}" for i in range(40)]
    path.write_text("\n".join(["age,site,y", *rows, "31,n,", rows[0]]))
    command = ["simulate", "scenario=csv", f"scenario.path={path}", "scenario.label=y",
               "scenario.site=site", "privacy=none", "secagg=off", "transport=plain", "rounds=1",
               "model.architecture=linear", f"out={tmp_path / 'run'}"]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "line 42: no label, left out" in shown
    assert "line 43: copies of an earlier record" in shown
