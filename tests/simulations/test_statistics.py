"""Figures of tables before training: of real sites, under real masks, from real ledgers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import fedlearn as fl
from clients.ledger.ledger import load
from fedlearn.cli import main
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, PrivacyError
from fedlearn.privacy.accounting import epsilon
from fedlearn.results.statistics import USABLE, words_of

pytestmark = pytest.mark.slow

SITES = ("north", "south", "west", "east")
ONE_OF_A_KIND = "hermaphrodite-xyzzy"


def people(folder: Path, count: int = 4000) -> tuple[list[str], dict[str, np.ndarray]]:
    """A study of four sites in a new file of `folder`, and its columns."""
    rng = np.random.default_rng(11)
    columns = {
        "age": np.clip(rng.normal(56, 11, count), 20, 90).round(),
        "crp": np.exp(rng.normal(1.2, 1.0, count)).round(2),
        "sex": rng.choice(["f", "m"], count, p=[0.45, 0.55]),
        "unit": rng.choice(["icu", "ward", "day"], count, p=[0.2, 0.6, 0.2]),
        "hospital": rng.choice(SITES, count),
    }
    columns["ill"] = (rng.random(count) < np.where(columns["sex"] == "m", 0.4, 0.2)).astype(int)
    columns["unit"] = columns["unit"].astype(object)
    columns["unit"][17] = ONE_OF_A_KIND
    written = {name: values.astype(str) for name, values in columns.items()}
    written["crp"][rng.random(count) < 0.15] = ""
    path = folder / "people.csv"
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(written)
        sheet.writerows(zip(*written.values(), strict=True))
    words = [
        "scenario=csv", f"scenario.path={path}", "scenario.label=ill", "scenario.site=hospital",
        "+scenario.scaling.columns.age=[20,90]", "+scenario.categories.sex=[f,m]",
        "model.architecture=mlp",
    ]  # fmt: skip
    return words, {**columns, "crp": written["crp"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, np.ndarray]]:
    return people(tmp_path_factory.mktemp("people"))


def test_statistics__are_near_the_truth_and_name_no_category_of_one_record(
    study: tuple[list[str], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    words, columns = study
    found = fl.statistics(
        *words, "privacy=distributed", "privacy.epsilon=1", "statistics.tables=[[sex,ill]]",
        out=tmp_path / "table",
    )  # fmt: skip
    assert found.epsilon is not None
    assert 0.95 < found.epsilon <= 1
    rows = {(row["column"], row["statistic"]): row for row in found.rows()}
    gaps = columns["crp"] == ""
    known = {
        ("", "records"): 4000, ("age", "mean"): columns["age"].mean(),
        ("age", "quantile 0.5"): np.median(columns["age"]), ("crp", "missing"): gaps.sum(),
        ("crp", "quantile 0.5"): np.median(columns["crp"][~gaps].astype(float)),
        ("sex", "share of m"): (columns["sex"] == "m").mean(),
        ("unit", "share of ward"): (columns["unit"] == "ward").mean(),
        ("sex, ill", "count of m, 1"): ((columns["sex"] == "m") & (columns["ill"] == 1)).sum(),
    }  # fmt: skip
    for name, value in known.items():
        # Beyond twice an interval for 95 percent is nobody by chance.
        row = rows[name]
        middle, half = (row["low"] + row["high"]) / 2, row["high"] - row["low"]
        assert abs(value - middle) <= half, (name, value, row)
        assert half < 0.4 * max(abs(value), 100), (name, row)
    for path in (tmp_path / "table").rglob("*"):
        if path.is_file():
            assert ONE_OF_A_KIND.encode() not in path.read_bytes(), path
    (unit,) = [one for one in found.pooled.choices if one.name == "unit"]
    assert {one.name for one in unit.categories} == {"icu", "ward", "day"}
    assert unit.threshold is not None
    # And what is found feeds the next run, which asks for no more than it.
    words = words_of(found.usable)
    assert 'scenario.categories.unit=["day","icu","ward"]' in words
    assert any(word.startswith("scenario.scaling.columns.crp=[0,") for word in words)
    assert not any("ill" in word for word in words)


def test_statistics__without_privacy_are_exact_and_by_site(
    study: tuple[list[str], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    words, columns = study
    found = fl.statistics(*words, "privacy=none", "statistics.by_site=true", out=tmp_path / "open")
    assert found.epsilon is None
    assert sorted(found.by_site) == sorted(SITES)
    assert found.pooled.records.value == 4000
    (age,) = [one for one in found.pooled.numbers if one.name == "age"]
    assert age.mean is not None
    assert age.mean.value == pytest.approx(columns["age"].mean(), abs=1e-4)
    for site, table in found.by_site.items():
        own = columns["age"][columns["hospital"] == site]
        (there,) = [one for one in table.numbers if one.name == "age"]
        assert table.records.value == len(own)
        assert there.quantiles["0.5"].value == pytest.approx(
            np.quantile(own, 0.5, method="inverted_cdf"), abs=1e-6
        )


def test_statistics__and_training_are_paid_from_one_ledger(
    study: tuple[list[str], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    words, _ = study
    sites = tmp_path / "sites"
    sites.mkdir()
    for site in SITES:
        (sites / f"{site}.yaml").write_text(
            f"name: {site}\nledger: {tmp_path}/{site}.jsonl\n"
            "policy: {epsilon_total: 3.0, delta: 1.0e-5, min_cohort: 3}\n"
        )
    words = [*words, f"sites={sites}"]
    table = fl.statistics(*words, "privacy.epsilon=1", out=tmp_path / "table")
    run = fl.simulate(*words, "privacy.epsilon=1", "rounds=1", out=tmp_path / "run")
    for site in SITES:
        _, spending = load(tmp_path / f"{site}.jsonl")
        events = spending.spent
        assert len(events) == 2
        both = epsilon(events, 1e-5)
        assert max(table.epsilon or 0, run.epsilon or 0) < both < 2
    with pytest.raises(PrivacyError, match="budget"):
        fl.statistics(*words, "privacy.epsilon=2.9", out=tmp_path / "more")
    assert not (tmp_path / "more" / "statistics.json").exists()


def test_statistics__that_cannot_be_made_are_refused_with_the_way_out(
    study: tuple[list[str], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    words, _ = study
    for word, says in {
        "evaluation=none": "evaluation=none: lets no figure leave a site",
        "statistics.correlations=[age,crp]": "'crp' has no public range; give one",
        "statistics.tables=[[unit,ill]]": "the categories of 'unit' are not public",
        "statistics.columns=[agee]": "no column 'agee'",
        "screening=sums": "screening=sums: is of a run that trains",
        "statistics=none": "is what the command does",
    }.items():
        with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
            fl.statistics(*words, word, out=tmp_path / "no")


def test_command__shows_the_table_and_feeds_a_study(
    study: tuple[list[str], dict[str, np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, _ = study
    out = tmp_path / "table"
    assert main(["statistics", *words, "privacy.epsilon=2", f"out={out}"]) == 0
    shown = capsys.readouterr().out
    assert "age [20 to 90]" in shown
    assert "Each single row is protected with epsilon 2" in shown
    page = (out / "report.html").read_text()
    assert "Table one" in page
    assert "<script>" in page
    assert main(["report", str(out), "--language", "de"]) == 0
    assert "Mittelwert" in (out / "report.html").read_text()
    # Ranges and categories that were paid for are those of the next run; what is typed goes before.
    own = [word for word in words if "scaling" not in word and "categories" not in word]
    own.append("scenario.scaling.columns.age=[0,120]")
    asked = ["simulate", "--statistics", str(out / USABLE), "--cfg", *own]
    capsys.readouterr()
    assert main(asked) == 0
    tree = yaml_file.parse(capsys.readouterr().out, "the config")["scenario"]
    assert tree["scaling"]["columns"]["age"] == [0.0, 120.0]
    assert tree["scaling"]["columns"]["crp"][0] == 0.0
    assert tree["categories"]["sex"] == ["f", "m"]


def test_persons__count_once_however_many_rows_they_have(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    rows = ["patient,age,ill,hospital"]
    for site in SITES:
        for person in range(300):
            visits = 40 if person == 0 else 1
            age = 88 if person == 0 else 40 + person % 10
            rows += [f"{site}{person},{age},{person % 2},{site}"] * visits
    path.write_text("\n".join(rows) + "\n")
    found = fl.statistics(
        "scenario=csv", f"scenario.path={path}", "scenario.label=ill", "scenario.site=hospital",
        "scenario.person=patient", "+scenario.scaling.columns.age=[20,90]", "privacy.epsilon=20",
        "model.architecture=mlp", out=tmp_path / "table",
    )  # fmt: skip
    (age,) = found.pooled.numbers
    assert age.mean is not None
    assert found.pooled.records.low - 5 <= 1200 <= found.pooled.records.high + 5
    assert age.mean.value == pytest.approx(44.6, abs=1.0), "not 52, as of all rows"
    assert "Each person is protected" in found.statement
