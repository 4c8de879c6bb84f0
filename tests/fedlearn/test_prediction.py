"""What a run measured of its model, its export says of the same records, from the file alone."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.records import read_simulated
from fedlearn.cli import main
from fedlearn.config.saved import load_file
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import OwnText
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.deidentify import Deidentify
from fedlearn.data.tables.scaling import Ranges, StandardisePerSite
from fedlearn.data.texts.tokens import Tokenizer
from fedlearn.prediction import (
    found_categories,
    load,
    read_array,
    read_rows_of,
    read_texts,
    roles_of,
    row_scenario,
    unnamed_categories,
)
from fedlearn.results.categories import kept_categories
from fedlearn.tasks import TableInput
from simulations.run import notes

from .data.reading import loaded

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
    form = model.file.task.input
    assert unnamed_categories(model.file.scenario, form) == ("Geschlecht",)
    text = (folder / "model" / "model.json").read_text(encoding="utf-8")
    assert '"Station":["B","A"]' in text
    assert '"m"' not in text
    assert main(["predict", str(folder / "model"), str(folder / "alle.csv")]) == 2
    assert "the categories of Geschlecht were found in records" in capsys.readouterr().err


def test_categories__that_were_found_stay_with_the_sites_of_the_run(
    folder: Path, tmp_path: Path, capsys: Output
) -> None:
    kept = folder / "run" / "sites" / "categories.json"
    assert kept_categories(folder / "run") == {"Geschlecht": ("m", "w")}
    assert kept.stat().st_mode & 0o777 == 0o600
    for path in (folder / "run").glob("*.json"):
        assert '"w"' not in path.read_text(encoding="utf-8")
    (tmp_path / "sites").mkdir()
    for damage in ('{"Geschlecht": [1]}', "[", "[]", '{"Geschlecht": 3}'):
        (tmp_path / "sites" / "categories.json").write_text(damage)
        with pytest.raises(DataError, match="is damaged"):
            kept_categories(tmp_path)


@pytest.mark.parametrize(
    ("taken", "found"),
    [({"part": "part", "drop": ("who",)}, ("a", "b", "w")),
     ({"person": "who", "drop": ("part",)}, ("a", "b", "z"))],
)  # fmt: skip
def test_categories__of_rows_that_a_run_leaves_out_are_none_of_its_model(
    tmp_path: Path, taken: dict[str, Any], found: tuple[str, ...]
) -> None:
    """Of neither part, nobody's, or without a label."""
    path = tmp_path / "t.csv"
    path.write_text("c,who,part,y\na,p1,train,1\nb,p2,test,0\na,p3,train,0\nb,p4,train,1\n"
                    "z,p5,later,0\nw,,train,1\nu,p6,train,\n")  # fmt: skip
    config = Csv(path=str(path), label="y", allow_identifiers=("c",), **taken)
    form = loaded(config).task.form.input
    assert isinstance(form, TableInput)
    assert found_categories(config, ["c"]) == {"c": found}
    assert form.cardinalities == (len(found) + 1,)


def test_predict__needs_no_table_of_whoever_has_the_run_or_an_export_with_categories(
    folder: Path, tmp_path: Path, capsys: Output
) -> None:
    table, shared = folder / "alle.csv", tmp_path / "shared"
    assert main(["predict", str(folder / "model"), str(table), "--like", str(table)]) == 0
    right = capsys.readouterr().out
    assert main(["export", str(folder / "run"), "--to", str(shared), "--categories"]) == 0
    assert "--like" not in capsys.readouterr().out
    for words in (
        [str(folder / "run"), str(table)],
        [str(folder / "model"), str(table), "--like", str(folder / "run")],
        [str(shared), str(table)],
    ):
        assert main(["predict", *words]) == 0
        assert capsys.readouterr().out == right
    assert main(["predict", str(folder / "model"), str(table), "--like", str(tmp_path)]) == 2
    assert "--like RUN" in capsys.readouterr().err


def test_simulation__says_what_predict_will_lack_before_it_trains(folder: Path) -> None:
    config = load_file(folder / "run" / "config.yaml", [])
    (said,) = (note for note in notes(config) if "export has none" in note)
    assert "the categories of Geschlecht are found in records" in said
    assert "scenario.categories.Geschlecht=[...]" in said
    named = load_file(folder / "run" / "config.yaml", ["scenario.categories.Geschlecht=[m,w]"])
    assert not any("export has none" in note for note in notes(named))


def test_predict__says_what_is_wrong_with_its_options(folder: Path, capsys: Output) -> None:
    words = ["predict", str(folder / "model"), str(folder / "alle.csv"), "--like", str(folder)]
    assert main([*words, "--decimal", ";", "--separator", "dot"]) == 2
    said = capsys.readouterr().err
    assert "decimal=;: must be '.' or ','" in said
    assert "separator=dot: must be 'comma', 'semicolon', 'tab' or 'pipe'" in said
    # What the user can give is named, and not the key of a study.
    (folder / "tab.csv").write_text("a\tb\n1\t2\n")
    assert (
        main(
            [
                "predict",
                str(folder / "model"),
                str(folder / "tab.csv"),
                "--like",
                str(folder / "run"),
            ]
        )
        == 5
    )
    said = capsys.readouterr().err
    assert "set --separator tab" in said
    assert "scenario.separator" not in said
    assert main(["predict", str(folder / "run" / "checkpoint"), str(folder / "alle.csv")]) == 5
    assert "give a folder that `fedlearn export` wrote" in capsys.readouterr().err


def test_load__refuses_a_model_that_is_not_the_one_named(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "model", tmp_path / "copy")
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.json names"):
        load(copy)
    shutil.copy(folder / "model" / "model.safetensors", path)
    for width, numeric in ((33, 2), (10**18, 2), (32, 10**18)):
        said = json.loads((folder / "model" / "model.json").read_text())
        said["model"]["width"], said["task"]["input"]["numeric"] = width, numeric
        (copy / "model.json").write_text(json.dumps(said))
        with pytest.raises(DataError, match="is not of the model beside it"):
            load(copy)
    (copy / "model.json").write_text("{}")
    with pytest.raises(DataError, match="not a model that this version reads"):
        load(copy)


# --- records without a label ---------------------------------------------------------


ROWS = [
    f"{'' if i % 7 == 0 else 40 + i};{'' if i % 5 == 0 else 'mw'[i % 2]};"
    f"{i / 8:.2f};{'ABC'[i % 3]};{'ja' if i % 3 else 'nein'}".replace(".", ",")
    for i in range(40)
]
HEAD = "Alter;Geschlecht;Blutdruck (mmHg);Station;krank"


@pytest.fixture
def config(tmp_path: Path) -> Csv:
    """A table with gaps, decimal commas, and categories of which some are named."""
    path = tmp_path / "Häuser.csv"
    path.write_text("\n".join([HEAD, *ROWS]), encoding="cp1252")
    return Csv(
        path=str(path),
        label="krank",
        separator="semicolon",
        encoding="cp1252",
        decimal=",",
        categories={"Station": ("C", "A")},
        scaling=Ranges(columns={"Alter": (18, 100)}),
        deidentify=Deidentify(bands={"Alter": 10}),
    )


def shape_in(config: Csv) -> tuple[TableInput, np.ndarray]:
    pool = loaded(config)
    assert isinstance(pool.task.input, TableInput)
    return pool.task.input, pool.features


def test_rows__have_the_numbers_of_training_whatever_the_order_of_columns(config: Csv) -> None:
    shape, trained = shape_in(config)
    names = ("Geschlecht",)
    categories = {**config.categories, **found_categories(config, names)}
    # The same rows with other columns, in another order and without the label.
    rows = [row.split(";") for row in ROWS]
    new = Path(config.path).with_name("new.csv")
    lines = ["Station;Alter;x;Geschlecht;Blutdruck (mmHg)"]
    lines += [";".join([row[3], row[0], "9", row[1], row[2]]) for row in rows]
    new.write_text("\n".join(lines), encoding="cp1252")
    found = read_rows_of(replace(config, path=str(new)), shape, categories)
    np.testing.assert_array_equal(found.features, trained)
    assert found.lines == tuple(range(2, 42))
    assert found.notes == (
        "column 'Station': 13 values that the model never saw, taken as missing",
    )


def test_roles__are_told_apart_where_a_column_is_called_like_a_gap() -> None:
    names = ("a", "x_missing", "b", "a_missing", "b_missing", "kind")
    roles = roles_of(TableInput(numeric=5, cardinalities=(3,), names=names))
    assert roles.numeric == ("a", "x_missing", "b")
    assert roles.gaps == ("a", "b")
    assert roles.categorical == ("kind",)


def test_rows__without_a_column_or_with_words_among_numbers_are_refused(config: Csv) -> None:
    shape, _ = shape_in(config)
    categories = {"Station": ("C", "A"), "Geschlecht": ("m", "w")}
    new = Path(config.path).with_name("new.csv")
    new.write_text("Alter;Station\n40;A")
    with pytest.raises(DataError, match=r"no column 'Blutdruck \(mmHg\)'.*\n.*'Geschlecht'"):
        read_rows_of(replace(config, path=str(new)), shape, categories)
    new.write_text("Alter;Geschlecht;Blutdruck (mmHg);Station\n40;m;hoch;A")
    with pytest.raises(DataError, match=r"line 2: column 'Blutdruck .mmHg.' holds no number"):
        read_rows_of(replace(config, path=str(new)), shape, categories)
    with pytest.raises(ConfigError, match="has 2 categories, and these are 1"):
        read_rows_of(config, shape, {**categories, "Geschlecht": ("m",)})


def test_rows__are_not_made_where_a_site_keeps_what_they_are_made_by(config: Csv) -> None:
    assert row_scenario(config) is config
    assert row_scenario(replace(config, scaling=StandardisePerSite())) is None
    assert row_scenario(replace(config, record="id", time="t")) is None
    hashed = Deidentify(hash=("Station",), key="key")
    assert row_scenario(replace(config, deidentify=hashed)) is None


@pytest.mark.parametrize("name", ["new.jsonl", "new.csv"])
def test_texts__are_read_from_tables_and_from_lines(tmp_path: Path, name: str) -> None:
    scenario = OwnText(
        path="-",
        label="art",
        text="inhalt",
        tokenizer=Tokenizer(kind="hashing", buckets=50, max_length=4),
    )
    contents = {
        "new.jsonl": '{"inhalt": "Zur Prüfung"}\n{"inhalt": "eins zwei drei vier"}\n',
        "new.csv": "nr,inhalt\n1,Zur Prüfung\n2,eins zwei drei vier\n",
    }
    path = tmp_path / name
    path.write_text(contents[name], encoding="utf-8")
    scenario = replace(scenario, path=str(path))
    found = read_texts(scenario, tmp_path)
    assert found.features.shape == (2, 4)
    assert found.features[0, -1] == 0 < found.features[1].min()
    assert found.notes == ("1 text is longer than 4 pieces and cut off there",)
    with pytest.raises(DataError, match=r"no column 'text' \(--text\); there are .*inhalt"):
        read_texts(replace(scenario, text="text"), tmp_path)


def test_arrays__of_another_shape_or_of_words_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.npz"
    np.savez(path, features=np.zeros((3, 2), np.float32))
    assert read_array(path, (2,)).lines == (1, 2, 3)
    with pytest.raises(DataError, match=r"is \[3, 2\]; wanted: \[n, 4\]"):
        read_array(path, (4,))
    np.savez(path, features=np.full((3, 2), np.nan))
    with pytest.raises(DataError, match="finite"):
        read_array(path, (2,))
    with pytest.raises(DataError, match="no array 'features'"):
        read_array(tmp_path / "none.npz", (2,))
