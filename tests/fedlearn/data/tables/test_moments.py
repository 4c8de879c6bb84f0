"""Dates are read as they are written, and never in the other way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import DataError
from fedlearn.data.check.files import check
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.moments import Dates, moment_of, ways_of

from ....effort import examples
from ..inputs import given as file_given
from ..reading import loaded

moments = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0)
)
FORMS: dict[Dates, list[str]] = {
    "dates": ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"],
    "day_first": ["%d/%m/%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%d-%m-%Y, %H:%M:%S"],
    "month_first": ["%m/%d/%Y %H:%M:%S", "%m-%d-%Y %H:%M:%S"],
}


@settings(max_examples=examples(200), deadline=None)
@given(moments, st.sampled_from([(way, form) for way, forms in FORMS.items() for form in forms]))
def test_moment__is_the_one_that_was_written(moment: datetime, how: tuple[Dates, str]) -> None:
    way, form = how
    assert moment_of(moment.strftime(form), way) == moment.replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "cell", ["", "31/02/2026", "13/13/2026", "1/2/26", "1/2.2026", "soon", "٣"]
)
def test_cells__that_are_no_dates_are_none(cell: str) -> None:
    assert all(np.isnan(moment_of(cell, way)) for way in FORMS)


def test_ways__are_two_where_nothing_tells() -> None:
    assert ways_of(["05/01/2021", "12/02/2021"]) == ["day_first", "month_first"]
    assert ways_of(["05/01/2021", "13/02/2021"]) == ["day_first"]
    assert ways_of(["05/01/2021", "02/13/2021"]) == ["month_first"]
    assert ways_of(["05.01.2021", "12.02.2021"]) == ["day_first"], "no month has a dot behind it"
    assert ways_of([]) == ways_of(["x"]) == []


def visits(folder: Path, days: list[str]) -> Path:
    path = folder / "a.csv"
    rows = [f"p{i},{day},{20 + j},{i % 2}" for i in range(12) for j, day in enumerate(days)]
    path.write_text("\n".join(["patient,date,pulse,ill", *rows]))
    return path


def test_rows__are_put_in_order_by_days_and_not_by_letters(tmp_path: Path) -> None:
    path = visits(tmp_path, ["05/12/2021", "06/01/2022", "31/01/2021"])
    report = check(path)
    assert "scenario.times=day_first" in report.settings
    pool = loaded(
        Csv(path=str(path), label="ill", record="patient", time="date", times="day_first", steps=3)
    )
    back = np.expm1(pool.features[0, :, 0] * np.log(1001))
    assert back == pytest.approx([22, 20, 21], rel=1e-4)
    with pytest.raises(DataError, match=r"scenario.times=day_first or month_first"):
        loaded(Csv(path=str(path), label="ill", record="patient", time="date"))


def test_dates__that_may_be_read_in_two_ways_are_nobodys_guess(tmp_path: Path) -> None:
    report = check(visits(tmp_path, ["05/12/2021", "06/01/2022"]))
    assert not any(word.startswith("scenario.times") for word in report.settings)
    assert any("where they are one record over time" in hint for hint in report.hints)


def test_example__with_days_in_front_is_read_by_its_own_settings() -> None:
    assert "scenario.times=day_first" in check(file_given("series.csv")).settings
