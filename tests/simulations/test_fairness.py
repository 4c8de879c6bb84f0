"""For whom a model works: from the records at the sites to the report, and what stays there."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fedlearn.cli import main
from tests.simulations.small import compare, points

pytestmark = pytest.mark.slow

Output = pytest.CaptureFixture[str]
Tree = dict[str, Any]

SITES = {"north": (96, 48), "south": (80, 5), "west": (64, 64)}
"""Site -> records of women and of men; about a quarter is tested on."""

GROUPS = ["fairness=groups", "fairness.column=sex", "fairness.values=[f,m]", "fairness.smallest=3"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run on a table whose column `sex` is not learned from."""
    path = tmp_path_factory.mktemp("data") / "my.csv"
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["age", "sex", "hospital", "ill"])
        for site, sizes in SITES.items():
            for sex, size in zip("fm", sizes, strict=True):
                sheet.writerows([30 + i % 60, sex, site, int(i % 5 > 1)] for i in range(size))
    return ["scenario=csv", f"scenario.path={path}", "scenario.label=ill",
            "scenario.site=hospital", "scenario.drop=[sex]", "rounds=2", "transport=plain",
            "training.learning_rate=0.1"]  # fmt: skip


def run(out: Path, *overrides: str) -> Tree:
    assert main(["simulate", *overrides, "seed=1", f"out={out}"]) == 0
    result: Tree = json.loads((out / "result.json").read_text())
    return result


def test_groups__of_a_masked_sum_are_those_of_the_sites_together(
    base: list[str], tmp_path: Path
) -> None:
    plain = [*base, "privacy=none", *GROUPS]
    clear = run(tmp_path / "clear", *plain, "secagg=ring", "fairness.smallest=1")["fairness"]
    sums = run(tmp_path / "sum", *plain, "secagg=masked", "evaluation=pooled",
               "fairness.smallest=1")["fairness"]  # fmt: skip
    assert sums["groups"]["all_sites"] == clear["groups"]["all_sites"]
    assert sums["all_sites"] == clear["all_sites"]
    assert sums["per_site"] == sums["groups"]["per_site"] == {}
    by_site = clear["groups"]["per_site"].values()
    for name, group in clear["groups"]["all_sites"].items():
        here = [found[name] for found in by_site if name in found]
        assert group["count"] == sum(one["count"] for one in here)
        right = sum(one["count"] * one["evaluate"]["accuracy"]["value"] for one in here)
        assert group["evaluate"]["accuracy"]["value"] == pytest.approx(right / group["count"])


def test_groups__that_are_too_small_stay_at_their_site(base: list[str], tmp_path: Path) -> None:
    result = run(tmp_path / "run", *base, "privacy=none", "secagg=off", *GROUPS)
    groups = result["fairness"]["groups"]
    # South tests on two men: their result is hidden behind that of the women.
    assert groups["withheld"] == {"south": ["f", "m"]}
    assert set(groups["per_site"]) == {"north", "west"}
    assert all(one["count"] >= 3 for found in groups["per_site"].values() for one in found.values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "For whom it works how well" in page
    assert "south: f, m" in page
    value = groups["all_sites"]["m"]["evaluate"]["accuracy"]
    assert f"{value['value']:.3f}" in page
    said = result["privacy"]["statement"]
    assert "every site released its own" in said
    assert "groups by 'sex' that have at least 3 test records" in said


def test_groups__by_an_unknown_column_are_refused_before_anything_is_trained(
    base: list[str], tmp_path: Path, capsys: Output
) -> None:
    out = tmp_path / "run"
    wrong = ["fairness=groups", "fairness.column=race", "fairness.values=[a,b]"]
    assert main(["simulate", *base, "secagg=off", *wrong, f"out={out}"]) == 2
    assert "fairness.column=race: no such column; there are age, sex" in capsys.readouterr().err
    wrong = ["fairness=groups", "fairness.column=age", "fairness.values=[a,b]"]
    assert main(["simulate", *base, "secagg=off", *wrong, f"out={out}"]) == 2
    assert "holds numbers; give fairness.edges" in capsys.readouterr().err
    assert not out.exists()


def test_compare__says_what_privacy_adds_to_the_gaps(base: list[str], tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    done = compare(*base, "secagg=off", *GROUPS, "privacy=record", "privacy.delta=1e-3",
                   "privacy.epsilon=1", "seed=1,2", "compare.baselines=true",
                   f"out={out}")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

    def gap(name: str, among: str) -> float:
        result = json.loads((out / name / "result.json").read_text())
        if among == "groups":
            return float(result["fairness"]["groups"]["gap"]["value"])
        found = [site["accuracy"] for site in result["final"]["per_site"].values()]
        return max(found) - min(found)

    for seed in (1, 2):
        found = points(out)[f"seed={seed}"]["fairness"]
        for among in ("sites", "groups"):
            added = gap(f"seed={seed}", among) - gap(f"non-private,seed={seed}", among)
            assert found[among] == pytest.approx(gap(f"seed={seed}", among))
            assert found[f"{among}_added"] == pytest.approx(added)
        twin = points(out)[f"non-private,seed={seed}"]["fairness"]
        assert twin["sites_added"] is None
    page = (out / "report.html").read_text()
    assert "privacy adds" in page
    assert "gap by sex" in page
