"""What a run measured of its model, its export says of the same records, from the file alone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clients.records import read_simulated
from fedlearn.cli import main
from fedlearn.config.saved import load_file
from fedlearn.core.errors import DataError
from fedlearn.prediction import load, unnamed_categories

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, a run on it, and the export of the run."""
    folder = tmp_path_factory.mktemp("Häuser")
    rows = [
        f"{'' if i % 9 == 0 else 20 + i % 50},{'mw'[i % 2]},{'AB'[i % 3 % 2]},{'NS'[i // 60]},"
        f"{'ja' if i % 50 > 20 else 'nein'}"
        for i in range(120)
    ]
    table = folder / "alle.csv"
    table.write_text("\n".join(["Alter,Geschlecht,Station,Haus,krank", *rows]))
    assert main(["simulate", "scenario=csv", f"scenario.path={table}", "scenario.label=krank",
                 "scenario.site=Haus", "scenario.categories.Station=[B,A]", "secagg=off",
                 "scenario.scaling.columns.Alter=[18,100]", "model.architecture=mlp",
                 "privacy=none", "rounds=3", f"out={folder / 'run'}"]) == 0  # fmt: skip
    assert main(["export", str(folder / "run"), "--to", str(folder / "model")]) == 0
    return folder


def test_prediction__is_as_good_as_the_run_measured(folder: Path) -> None:
    pool, _ = read_simulated(load_file(folder / "run" / "config.yaml", []))
    model = load(folder / "model")
    found = model.read(folder / "alle.csv", folder / "alle.csv")
    np.testing.assert_array_equal(found.features, pool.features)
    chances = model.answers(found.features)
    np.testing.assert_allclose(chances.sum(1), 1)
    test, said = ~pool.is_train, chances.argmax(1)
    final = json.loads((folder / "run" / "result.json").read_text())["final"]["evaluate"]
    right = float((said == pool.labels)[test].mean())
    assert right == pytest.approx(final["accuracy"], abs=1e-9)
    own = chances[np.arange(len(said)), pool.labels][test]
    assert float(-np.log(own).mean()) == pytest.approx(final["loss"], abs=1e-4)


def test_predict__writes_a_line_for_every_record(folder: Path, capsys: Output) -> None:
    table, to = folder / "alle.csv", folder / "said.csv"
    words = ["predict", str(folder / "model"), str(table), "--like", str(table)]
    assert main([*words, "--to", str(to)]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == to.read_text(encoding="utf-8")
    with to.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["line"]) for row in rows] == list(range(2, 122))
    assert all(
        row["predicted"] == ("ja" if float(row["chance of ja"]) > 0.5 else "nein") for row in rows
    )
    assert len({row["predicted"] for row in rows}) == 2


def test_export__holds_no_category_that_was_found_in_records(folder: Path, capsys: Output) -> None:
    model = load(folder / "model")
    assert unnamed_categories(model.file) == ("Geschlecht",)
    text = (folder / "model" / "model.json").read_text(encoding="utf-8")
    assert '"Station":["B","A"]' in text
    assert '"m"' not in text
    assert main(["predict", str(folder / "model"), str(folder / "alle.csv")]) == 2
    assert "the categories of Geschlecht were found in records" in capsys.readouterr().err


def test_predict__says_what_is_wrong_with_its_options(folder: Path, capsys: Output) -> None:
    words = ["predict", str(folder / "model"), str(folder / "alle.csv"), "--like", "x.csv"]
    assert main([*words, "--decimal", ";", "--separator", "dot"]) == 2
    said = capsys.readouterr().err
    assert "decimal=;: must be '.' or ','" in said
    assert "separator=dot: must be 'comma', 'semicolon', 'tab' or 'pipe'" in said
    assert main(["predict", str(folder / "run"), str(folder / "alle.csv")]) == 5
    assert "give a folder that `fedlearn export` wrote" in capsys.readouterr().err


def test_load__refuses_a_model_that_is_not_the_one_named(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "model", tmp_path / "copy")
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.json names"):
        load(copy)
    (copy / "model.json").write_text("{}")
    with pytest.raises(DataError, match="not a model that this version reads"):
        load(copy)
