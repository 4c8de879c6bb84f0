"""Numbers that stand for gaps are found where they are far from all others, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.data.check.files import check
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.columns import MISSING
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Ranges
from fedlearn.data.tables.sentinels import sentinels

from ....effort import examples
from ..inputs import given as file_given
from ..reading import loaded

COLUMNS = {
    "age": lambda rng: rng.integers(18, 96, 90),
    "pressure": lambda rng: rng.normal(130, 20, 90).round(0).astype(int),
    "creatinine": lambda rng: rng.lognormal(0, 0.4, 90).round(2),
    "temperature": lambda rng: rng.normal(37, 0.8, 90).round(1),
    "change": lambda rng: rng.normal(0, 3, 90).round(2),
    "steps": lambda rng: rng.integers(100, 20_000, 90),
    "answer": lambda rng: rng.integers(-3, 4, 90),
    "year": lambda rng: rng.integers(1990, 2024, 90),
}
SIGNS = {"age": ["-999", "999", "-1", "9999"], "pressure": ["-999", "9999", "-9", "-1"],
         "creatinine": ["-999", "999.0", "-1", "99"], "temperature": ["-999", "999", "-1", "99"],
         "change": ["-999", "9999"], "steps": ["-999", "-1", "999999"],
         "answer": ["-999", "99"], "year": ["9999", "-1", "-99"]}  # fmt: skip


def found(cells: list[str]) -> list[str]:
    return [text for one in sentinels(encode(cells), MISSING, ".") for text in one.texts]


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([*COLUMNS]), st.data())
def test_sentinels__are_what_was_put_there_and_nothing_else(
    seed: int, name: str, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    cells = [str(value) for value in COLUMNS[name](rng)]
    assert found(cells) == []
    signs = data.draw(st.lists(st.sampled_from(SIGNS[name]), max_size=2, unique=True))
    for sign in signs:
        for row in rng.choice(90, 6, replace=False):
            cells[row] = sign
    there = [sign for sign in signs if cells.count(sign) > 1]
    assert {*found(cells)} == {*there}


def test_sentinels__of_dates_are_known() -> None:
    assert found(["1900-01-01", "2020-03-04", "1900-01-01", "2021-01-02"]) == ["1900-01-01"]


def test_run__says_what_may_be_a_gap_and_how_many_lie_outside_a_range(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{'-999' if i % 10 == 0 else 20 + i * 7 % 60},{'AB'[i % 3 > 0]}" for i in range(90)]
    path.write_text("age,ill\n" + "\n".join(rows))
    ranges = Ranges(columns={"age": (18, 60)})
    pool = loaded(Csv(path=str(path), label="ill", scaling=ranges))
    ages = np.array([int(row.split(",")[0]) for row in rows])
    beyond = int(((ages < 18) | (ages > 60)).sum())
    assert any("-999 (9 rows) may stand for a gap" in note for note in pool.notes)
    assert any(f"{beyond} of 90 numbers lie outside" in note for note in pool.notes)
    report = check(path)
    assert any("-999" in setting for setting in report.settings)
    mended = loaded(Csv(path=str(path), label="ill", scaling=ranges, missing=(*MISSING, "-999")))
    assert not any("may stand for a gap" in note for note in mended.notes)
    assert report.columns[0].span == (min(ages[ages > 0]), np.median(ages[ages > 0]), max(ages))


@pytest.mark.parametrize("name", ["klinik.csv", "numbers.csv"])
def test_given_tables__have_999_for_a_gap(name: str) -> None:
    report = check(file_given(name))
    (missing,) = [one for one in report.settings if one.startswith("scenario.missing")]
    assert "'-999'" in missing
    assert all(one.span is None or one.span[0] > -900 for one in report.columns)
