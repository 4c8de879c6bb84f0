from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.columns import MISSING
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.deidentify import Deidentify, deidentified, site_key
from fedlearn.data.tables.table import Table
from fedlearn.tasks import TableInput

from ..reading import loaded

HEADER = ("patient", "born", "age", "postcode", "note")
ROWS = (
    ("ann", "1961-03-12", "59", "80331", "80331"),
    ("bob", "04.11.1987", "-1", "80339", "ann"),
    ("ann", "NA", "", "10115", "bob"),
)
TABLE = Table(
    header=HEADER, columns=tuple(map(encode, zip(*ROWS, strict=True))), lines=np.arange(2, 5)
)


def treated(**ways: Any) -> Table:
    return deidentified(Deidentify(**ways), TABLE, MISSING)


def test_deidentify__generalises_numbers_dates_and_codes() -> None:
    table = treated(bands={"age": 10}, years={"born": 5}, prefixes={"postcode": 2})
    assert table.column("age") == ["50", "-10", ""]
    assert table.column("born") == ["1960", "1985", "NA"]
    assert table.column("postcode") == ["80", "80", "10"]
    assert table.column("note") == TABLE.column("note")
    assert list(table.lines) == list(TABLE.lines)


def test_bands__are_written_with_the_tables_decimal_sign() -> None:
    table = Table(header=("dose",), columns=(encode(["1,7", "1,2"]),), lines=np.arange(2, 4))
    config = Deidentify(bands={"dose": 0.5})
    assert deidentified(config, table, (), ",").column("dose") == ["1,5", "1"]


def test_deidentify__hashes_with_the_sites_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "hash.key"
    ways = {"hash": ("patient", "note"), "key": str(path)}
    table = treated(**ways)
    patients = table.column("patient")
    assert patients[0] == patients[2] != patients[1]
    assert patients[0] not in table.column("note")  # equal values of two columns do not link them
    secret = bytes.fromhex(path.read_text())
    text = b"fedlearn/deidentify/v1\0patient\0ann"
    assert patients[0] == "h" + hmac.digest(secret, text, "sha256").hex()[:16]
    assert patients[0] != "h" + hashlib.sha256(b"ann").hexdigest()[:16]
    assert treated(**ways).column("patient") == patients
    other = treated(hash=("patient", "note"), key=str(tmp_path / "other.key"))
    assert not {*other.column("patient")} & {*patients}


def test_site_key__is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "hash.key"
    secret = site_key(path)
    assert len(secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert site_key(path) == secret
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 0640 lets others in; run: chmod 600"):
        site_key(path)
    path.chmod(0o600)
    path.write_text("secret\n")
    with pytest.raises(ConfigError, match="holds no key of 32 bytes"):
        site_key(path)
    with pytest.raises(ConfigError, match="cannot be made"):
        site_key(tmp_path / "absent" / "hash.key")


def test_deidentify__says_which_cells_are_not_of_the_kind() -> None:
    with pytest.raises(DataError) as caught:
        treated(bands={"note": 10}, years={"postcode": 1})
    assert str(caught.value).splitlines() == [
        "column 'postcode': lines 2, 3, 4: not a date with a year of four digits",
        "column 'note': lines 3, 4: not a number",
    ]


def csv(folder: Path, **settings: Any) -> Csv:
    """A table of 40 people whose columns give them away."""
    lines = ["patient_id,dob,age,y"]
    lines += [f"p{i % 20},19{50 + i}-01-01,{20 + i * 7 % 40},{i % 2}" for i in range(40)]
    path = folder / "my.csv"
    path.write_text("\n".join(lines))
    return Csv(path=str(path), label="y", **settings)


def test_csv__takes_a_treated_column_for_what_it_now_is(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        loaded(csv(tmp_path))
    assert "'patient_id': its name says a record number" in str(caught.value)
    assert "scenario.deidentify.years.NAME=1" in str(caught.value).splitlines()[1]
    ways = Deidentify(hash=("patient_id",), key=str(tmp_path / "k"), years={"dob": 10})
    pool = loaded(csv(tmp_path, deidentify=ways))
    names = ("dob", "age", "patient_id")
    assert pool.task.input == TableInput(
        numeric=2, cardinalities=(21,), names=names, squashed=(0, 1)
    )
    # A prefix that leaves the date a date is no remedy.
    whole = Deidentify(prefixes={"dob": 10})
    with pytest.raises(DataError, match="'dob': its values look like dates"):
        loaded(csv(tmp_path, drop=("patient_id",), deidentify=whole))


def test_csv__refuses_contradictory_treatments_together(tmp_path: Path) -> None:
    ways = Deidentify(hash=("age", "weight"), bands={"age": 5})
    with pytest.raises(ConfigError) as caught:
        loaded(csv(tmp_path, deidentify=ways))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "scenario.deidentify.hash",
        "scenario.deidentify.key",
        "scenario.deidentify",
    ]


def test_csv__finds_its_files_from_any_folder(tmp_path: Path) -> None:
    config = Csv(path="my.csv", label="y", deidentify=Deidentify(key="k")).under(tmp_path)
    assert config.path == str(tmp_path / "my.csv")
    assert config.deidentify.key == str(tmp_path / "k")
    assert Csv(path="my.csv", label="y").under(tmp_path).deidentify.key == ""
