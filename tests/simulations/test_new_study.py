"""`fedlearn new`: a study file that says what was understood, and is the config that it says."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.cli import main
from fedlearn.config import to_tree
from fedlearn.config.saved import load_file
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError
from simulations.new_study import new_study
from tests.effort import examples

Output = pytest.CaptureFixture[str]


def table(path: Path, *, smoker: str = "smoker", label: str = "outcome") -> Path:
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["age", smoker, "clinic", label])
        for i in range(90):
            sheet.writerow([20 + i * 7 % 60, "yn"[i % 2], "abc"[i % 3], "no" if i % 5 else "yes"])
    return path


def test_new__writes_a_file_that_is_the_config_it_speaks_of(tmp_path: Path) -> None:
    path, found = new_study(tmp_path / "wards", table(tmp_path / "my.csv"))
    config = load_file(path, [])
    assert config == found.config
    assert (config.experiment, config.out) == ("wards", "runs/wards")
    assert config.scenario.label == "outcome"  # type: ignore[attr-defined]
    text = path.read_text()
    assert "a table, 90 records" in text
    assert "#   age: numeric, 60 different values" in text
    for one in found.derived:  # every value by rule, with its reason
        name = one.key.split(".")[-1]
        (line,) = (line for line in text.splitlines() if line.startswith(f"  {name}: "))
        assert line == f"  {one.word.replace(one.key + '=', name + ': ')}  # by rule: {one.reason}"
    assert "  test_fraction: 0.25" in text
    assert "column: [low, high], public knowledge" in text, "the remarks of configs/"


def test_new__takes_what_is_set_otherwise_instead_of_what_was_understood(
    tmp_path: Path, capsys: Output
) -> None:
    data = table(tmp_path / "my.csv")
    new = ["new", str(tmp_path / "one"), "--data", str(data)]
    given = ["scenario.drop=[smoker]", "training.nominal_records=7", "rounds=3"]
    assert main([*new, "scenario.drp=[smoker]"]) == 2
    assert "did you mean scenario.drop?" in capsys.readouterr().err
    assert main([*new, *given]) == 0
    config = load_file(tmp_path / "one" / "study.yaml", [])
    assert config.scenario.drop == ("smoker",)  # type: ignore[attr-defined]
    assert (config.training.nominal_records, config.rounds) == (7, 3)
    assert config.scenario.label == "outcome"  # type: ignore[attr-defined]


def test_new__takes_the_label_that_is_asked_for_and_names_the_columns_there_are(
    tmp_path: Path, capsys: Output
) -> None:
    data = table(tmp_path / "my.csv")
    path, found = new_study(tmp_path / "one", data, "smoker")
    assert found.config.scenario.label == "smoker"  # type: ignore[attr-defined]
    assert load_file(path, []) == found.config
    new = ["new", str(tmp_path / "two"), "--data", str(data)]
    assert main([*new, "--label", "smokr"]) == 2
    assert "no such column; there are age, smoker, clinic, outcome" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_new__never_writes_over_a_study_and_makes_none_of_what_cannot_be_read(
    tmp_path: Path, capsys: Output
) -> None:
    data = table(tmp_path / "my.csv")
    new = ["new", str(tmp_path / "study"), "--data"]
    assert main([*new, str(tmp_path / "none.csv")]) == 5
    assert not (tmp_path / "study").exists()
    assert main([*new, str(data)]) == 0
    before = (tmp_path / "study" / "study.yaml").read_bytes()
    assert main([*new, str(data)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "study" / "study.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["a # b", "a: b", "- a", "a\nb: 3", "'", "Größe [cm]", "%", "a\tb"]
)
def test_new__of_columns_with_any_name_loads_back(tmp_path: Path, name: str) -> None:
    data = table(tmp_path / "my.csv", smoker=name)
    for label in (name, None):
        path, found = new_study(tmp_path / f"study {label is None}", data, label)
        assert load_file(path, []) == found.config


def test_new__gives_every_value_back_whatever_text_it_is(tmp_path: Path) -> None:
    data = table(tmp_path / "my.csv")

    @given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=12))
    @settings(max_examples=examples(10), deadline=None)
    def always(name: str) -> None:
        (tmp_path / "study" / "study.yaml").unlink(missing_ok=True)
        try:
            path, found = new_study(tmp_path / "study", table(data, label=name), name)
        except ConfigError:  # names that a table gives no column
            return
        assert load_file(path, []) == found.config

    always()


def test_new__says_what_to_type_next_and_that_runs(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my study", "--data", str(table(tmp_path / "my.csv"))]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:3] == ["fedlearn", "simulate", "--config"]
    assert main([*command[1:], "rounds=1", "secagg=off", "transport=plain"]) == 0
    result = json.loads((tmp_path / "runs" / "my study" / "result.json").read_text())
    assert result["config"]["experiment"] == "my study"
    assert "by rule" not in capsys.readouterr().out.split("custom:")[0], "the file is exact"


def test_cfg__shows_what_would_be_run_and_runs_nothing(tmp_path: Path, capsys: Output) -> None:
    data = table(tmp_path / "my.csv")
    words = ["scenario=csv", f"scenario.path={data}", "scenario.label=outcome"]
    words += ["scenario.site=clinic", f"out={tmp_path / 'run'}"]
    assert main(["simulate", *words, "--cfg"]) == 0
    shown = capsys.readouterr().out
    assert "# by rule, training.local_steps=10" in shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert not (tmp_path / "run").exists()
    again = load_file(tmp_path / "shown.yaml", [])
    assert to_tree(again) == yaml_file.read(tmp_path / "shown.yaml")
    assert again.training.local_steps == 10
