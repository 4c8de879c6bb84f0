"""Records without a label get the numbers that the same records had in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import OwnText
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.deidentify import Deidentify
from fedlearn.data.tables.scaling import Ranges, StandardisePerSite
from fedlearn.data.texts.tokens import Tokenizer
from fedlearn.data.unlabelled import (
    found_categories,
    read_array,
    read_rows_of,
    read_texts,
    roles_of,
    row_scenario,
)
from fedlearn.tasks import TableInput

from .reading import loaded

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
    assert found.notes == ("1 texts are longer than 4 pieces and were cut off there",)
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
