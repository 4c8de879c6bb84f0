"""Columns of yes and no that are the labels of a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.pool import Pool
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Unscaled
from fedlearn.tasks import Labels

from ..reading import loaded

ROWS = ["61,1,no", "72,0,yes", "80,yes,1", "55,0,0", "54,false,TRUE", "50,,1"]


def config(folder: Path, rows: list[str] = ROWS, **settings: Any) -> Csv:
    path = folder / "chest.csv"
    path.write_text("\n".join(["age,edema,fracture", *rows]))
    base = Csv(path=str(path), label="findings", labels=("edema", "fracture"), scaling=Unscaled())
    return replace(base, **settings)


def read(folder: Path, rows: list[str] = ROWS, **how: Any) -> Pool:
    return loaded(config(folder, rows), task=Labels(), **how)


def test_columns__are_the_labels_and_no_features(tmp_path: Path) -> None:
    pool = read(tmp_path)
    assert pool.task.classes == ("edema", "fracture")
    assert pool.labels.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0], [0, 1]]
    assert pool.features.shape == (5, 1)
    assert any("no label, left out" in note for note in pool.notes)


def test_cell__that_is_neither_is_named_or_its_record_left_out(tmp_path: Path) -> None:
    rows = [*ROWS, "44,2,1"]
    with pytest.raises(DataError, match=r"column 'edema': line 8: neither yes nor no"):
        read(tmp_path, rows)
    pool = loaded(
        config(tmp_path, rows, classes=("edema", "fracture"), numeric=("age",)),
        task=Labels(), by_record=True,
    )  # fmt: skip
    assert len(pool) == 5


def test_label__is_a_name_of_its_own_and_columns_are_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scenario\.label=age: is a column of"):
        loaded(config(tmp_path, label="age"), task=Labels())
    with pytest.raises(ConfigError, match=r"scenario\.labels: no column 'rash'"):
        loaded(config(tmp_path, labels=("edema", "rash")), task=Labels())


def test_public_file__may_lack_the_labels(tmp_path: Path) -> None:
    own = config(tmp_path)
    assert own.of_nobody(own.path).labels == own.labels
    bare = tmp_path / "bare.csv"
    bare.write_text("age,edema\n61,1\n")
    other = own.of_nobody(str(bare))
    assert (other.labels, other.drop) == ((), ("edema",))
