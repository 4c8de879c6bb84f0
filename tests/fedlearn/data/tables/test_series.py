"""A table in long form: what a record over time is made of, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.partition import Natural
from fedlearn.data.pool import Pool, deal
from fedlearn.data.scenario import OpenFormError
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import StandardisePerSite, Unscaled
from fedlearn.tasks import SeriesInput

from ..reading import loaded

HEADER = "patient_id,hour,pulse,ward,hospital,died"
ROWS = [
    "p1,2,62,A,north,no",
    "p1,0,60,A,north,no",
    "p2,1,81,B,north,yes",
    "p1,1,61,B,north,no",
    "p3,0,70,A,south,no",
    "p2,0,80,A,north,yes",
    "p4,5,90,,south,yes",
    "p4,3,,A,south,yes",
]


def config(folder: Path, rows: list[str] = ROWS, **settings: Any) -> Csv:
    path = folder / "stays.csv"
    path.write_text("\n".join([HEADER, *rows]))
    base = Csv(path=str(path), label="died", site="hospital", record="patient_id", time="hour",
               steps=3, scaling=Unscaled())  # fmt: skip
    return replace(base, **settings)


def read(folder: Path, rows: list[str] = ROWS, **settings: Any) -> Pool:
    return loaded(config(folder, rows, **settings))


def test_series__has_the_rows_of_a_record_in_order_and_then_padding(tmp_path: Path) -> None:
    pool = read(tmp_path)
    assert isinstance(pool.task.input, SeriesInput)
    assert pool.task.input.steps == 3
    assert pool.task.input.row.names == ("pulse", "pulse_missing", "ward")
    expected = [  # pulse, pulse_missing, ward (A 1, B 2), held
        [[60, 0, 1, 1], [61, 0, 2, 1], [62, 0, 1, 1]],
        [[80, 0, 1, 1], [81, 0, 2, 1], [0, 0, 0, 0]],
        [[70, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 1, 1, 1], [90, 0, 0, 1], [0, 0, 0, 0]],
    ]
    np.testing.assert_array_equal(pool.features, expected)
    assert pool.labels.tolist() == [0, 1, 0, 1]
    assert pool.natural_site is not None
    assert pool.natural_site.tolist() == ["north", "north", "south", "south"]
    assert pool.notes == ()


@pytest.mark.parametrize(("keep", "kept"), [("last", [61, 62]), ("first", [60, 61])])
def test_series__of_more_rows_keeps_the_last_or_the_first_and_says_so(
    tmp_path: Path, keep: str, kept: list[int]
) -> None:
    pool = read(tmp_path, steps=2, keep=keep)
    assert pool.features[0, :, 0].tolist() == kept
    assert any("1 of 4 records have more than scenario.steps=2 rows" in n for n in pool.notes)


def test_series__is_ordered_by_dates_too(tmp_path: Path) -> None:
    days = {"0": "2026-01-31", "1": "2026-02-01", "2": "2026-02-01T08:15", "3": "2026-03-01",
            "5": "2026-10-05"}  # fmt: skip
    cells = [row.split(",") for row in ROWS]
    dated = [",".join([who, days[hour], *rest]) for who, hour, *rest in cells]
    np.testing.assert_array_equal(read(tmp_path, dated).features, read(tmp_path).features)


def test_series__has_times_of_the_kind_that_it_is_given_whatever_most_of_them_are(
    tmp_path: Path,
) -> None:
    dates = [row.replace(",", ",2026-01-1", 1) for row in ROWS[:-1]]
    assert loaded(config(tmp_path, [*dates, "p5,2026-02-01,1,A,south,no"], times="dates"))
    with pytest.raises(DataError, match="not a number"):
        read(tmp_path, dates, times="numbers")
    for times, left_open in (("", True), ("numbers", False)):
        with pytest.raises(OpenFormError) as refused:
            loaded(config(tmp_path, times=times), complete=True)
        assert ("scenario.times" in str(refused.value)) is left_open


FORM = {
    "classes": ("no", "yes"), "numeric": ("pulse",), "gaps": ("pulse",), "times": "numbers",
    "categories": {"ward": ("A", "B")},
}  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        ["p9,soon,60,A,north,no"],
        [",1,60,A,north,no"],
        ["p9,1,60,A,north,no", "p9,2,60,A,north,yes"],
        ["p9,1,60,A,north,no", "p9,2,60,A,south,no"],
        ["p9,1,60,A,north,dead"],
    ],
)
def test_series__read_by_record_leaves_out_those_that_are_none(
    tmp_path: Path, more: list[str]
) -> None:
    before = loaded(config(tmp_path, **FORM), by_record=True)
    after = loaded(config(tmp_path, [*more, *ROWS], **FORM), by_record=True)
    assert after.sha256 == before.sha256
    assert loaded(config(tmp_path, [], **FORM), by_record=True).features.shape == (0, 3, 4)


def test_series__takes_label_and_site_from_any_row_of_a_record(tmp_path: Path) -> None:
    sparse = [row.replace(",north,no", ",,") for row in ROWS[:2]] + ROWS[2:]
    np.testing.assert_array_equal(read(tmp_path, sparse).features, read(tmp_path).features)


def test_series__is_dealt_and_split_by_record(tmp_path: Path) -> None:
    rows = [f"q{i},{t},{i},A,{'ns'[i % 2]},{'yes' if i % 4 < 2 else 'no'}"
            for i in range(40) for t in range(1 + i % 3)]  # fmt: skip
    pool = read(tmp_path, rows)
    assert len(pool) == 40
    assert 0 < (~pool.is_train).sum() < 20
    sites = deal(pool, Natural().assign(pool, np.random.default_rng(0)))
    assert {name: len(site.train) + len(site.test) for name, site in sites.items()} == {
        "n": 20, "s": 20,
    }  # fmt: skip
    assert [column.name for column in sites["n"].schema] == ["pulse", "ward"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["p1,9,60,A,north,yes"], "column 'died': line 2: a 'patient_id' that begins there has"),
        (["p3,9,60,A,north,no"], "column 'hospital': line 6: a 'patient_id' that begins there has"),
        (["p3,0,60,A,south,no"], "column 'hour': line 10: a second row of one 'patient_id'"),
        (["p3,late,60,A,south,no"], "column 'hour': line 10: not a number, as others are"),
        ([",4,60,A,south,no"], "column 'patient_id': line 10: does not say whose row it is"),
        (["p9,0,60,A,south,who", "p9,1,60,A,south,who"], "line 10 on: the only record of class"),
    ],
)
def test_series__names_rows_that_fit_no_record(tmp_path: Path, more: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, [*ROWS, *more])


def test_series__says_how_dates_are_written_where_no_time_is_read(tmp_path: Path) -> None:
    rows = [row.split(",") for row in ROWS]
    german = [",".join([row[0], f"{1 + i:02}.03.2026", *row[2:]]) for i, row in enumerate(rows)]
    with pytest.raises(DataError, match=r"not a number or a date as 2026-01-31: nothing in it is"):
        read(tmp_path, german)


def test_series__says_that_two_records_are_alike(tmp_path: Path) -> None:
    copy = [row.replace("p2", "p5") for row in ROWS if row.startswith("p2")]
    assert any("1 records hold what another record" in n for n in read(tmp_path, ROWS + copy).notes)


def test_series__larger_than_memory_is_refused_before_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"would take about .* of memory"):
        read(tmp_path, steps=10**12)


def test_csv__refuses_half_a_long_form(tmp_path: Path) -> None:
    base = ["scenario=csv", f"scenario.path={tmp_path}/x.csv", "scenario.label=died"]
    with pytest.raises(ConfigError, match=r"scenario\.time: name the column"):
        compose([*base, "scenario.record=patient_id"])
    with pytest.raises(ConfigError, match=r"scenario\.record: name the column"):
        compose([*base, "scenario.time=hour"])
    (found,) = config(tmp_path, scaling=StandardisePerSite()).problems()
    assert found.startswith("scenario.scaling.kind=standardise_per_site: is for one row a record")
    with pytest.raises(ConfigError, match=r"scenario\.record=died: is another role's column"):
        read(tmp_path, record="died")
