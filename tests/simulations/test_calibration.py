"""The calibration in a result comes from the sums that sites release, or from their sum alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fedlearn.cli import main
from fedlearn.metrics.scores import SMALLEST


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("table") / "my.csv"
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["age", "hospital", "ill"])
        for site in ("north", "south", "west"):
            sheet.writerows([i % 80, site, int(i % 80 + 7 * i % 31 > 55)] for i in range(200))
    return [
        "scenario=csv", f"scenario.path={path}", "scenario.label=ill", "scenario.site=hospital",
        "model.architecture=linear", "privacy=none", "rounds=1", "secagg=ring",
    ]  # fmt: skip


def run(out: Path, overrides: list[str]) -> dict[str, Any]:
    assert main(["simulate", *overrides, f"out={out}"]) == 0
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.mark.slow
def test_calibration__needs_nothing_but_the_sum_over_the_sites(
    overrides: list[str], tmp_path: Path
) -> None:
    # Rounding of updates is the same in both, so the models are.
    apart = run(tmp_path / "a", [*overrides, "evaluation=per_site"])
    pooled = run(tmp_path / "b", [*overrides, "evaluation=pooled"])
    assert apart["model"]["sha256"] == pooled["model"]["sha256"]
    assert pooled["final"]["per_site"] == {}
    assert apart["calibration"] == pooled["calibration"]
    groups = apart["calibration"]["groups"]
    assert sum(group["count"] for group in groups) == sum(
        size["test"] for size in apart["data"]["sites"].values()
    )
    assert min(group["count"] for group in groups) >= SMALLEST
    # It is known of the end alone: the rounds say nothing of it.
    assert all("calibration" not in entry for entry in apart["rounds"])
