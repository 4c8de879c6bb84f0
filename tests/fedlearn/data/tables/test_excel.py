"""Sheets of Excel: every cell by its value, and what no table holds refused by its name."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.data import Csv, load_pool
from fedlearn.data.check.files import check
from fedlearn.data.tables.excel import is_excel, read_excel, sheets_note

from ....effort import examples
from ..reading import loaded

openpyxl = pytest.importorskip("openpyxl", reason="needs fedlearn[xlsx]")

ROWS: list[list[Any]] = [["age", "dose", "share", "seen", "ward", "ill"]] + [
    [20 + i * 7 % 41, None if i == 3 else i / 8, 0.45, datetime(2021, 1, 1 + i % 28), "BA"[i % 2],
     "yes" if i % 3 else "no"]
    for i in range(40)
]  # fmt: skip


def book(path: Path, rows: Sequence[Sequence[Any]] = ROWS, **more: Sequence[Sequence[Any]]) -> Any:
    """A workbook with these rows in its first sheet, saved; other sheets by their names."""
    made = openpyxl.Workbook()
    for row in rows:
        made.active.append(row)
    for name, own in more.items():
        sheet = made.create_sheet(name)
        for row in own:
            sheet.append(row)
    made.save(path)
    return made


def test_excel__is_the_same_table_as_the_csv_of_its_values(tmp_path: Path) -> None:
    book(tmp_path / "a.xlsx")
    lines = [",".join("" if v is None else str(v).split(" ")[0] for v in row) for row in ROWS]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    csv = Csv(path=str(tmp_path / "a.csv"), label="ill", drop=("seen",))
    one, two = loaded(csv), loaded(replace(csv, path=str(tmp_path / "a.xlsx")))
    assert one.sha256 == two.sha256
    table = read_excel(tmp_path / "a.xlsx")
    assert table.column("seen")[0] == "2021-01-01"
    assert table.column("share")[0] == "0.45"
    assert table.places([3]) == "row 5"


values = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12),
    st.floats(-1e12, 1e12).map(lambda x: round(x, 6)), st.text("abä患0123. ", max_size=8),
    st.dates(date(1950, 1, 1), date(2090, 1, 1)),
)  # fmt: skip


@settings(max_examples=examples(60, 5), deadline=None)
@given(st.lists(st.tuples(values, values), min_size=2, max_size=6))
def test_excel__gives_back_what_openpyxl_wrote(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Any]]
) -> None:
    path = tmp_path_factory.mktemp("book") / "a.xlsx"
    book(path, [["a", "b"], ["x", 1], *rows])
    table = read_excel(path, header="first")
    kept = [row for row in rows if any(v is not None and str(v).strip() for v in row)]
    assert len(table) == 1 + len(kept)
    for place, name in enumerate("ab"):
        for cell, row in zip(table.column(name)[1:], kept, strict=True):
            right = row[place]
            if isinstance(right, bool) or not isinstance(right, (int, float)):
                assert cell == ("" if right is None else str(right).strip())
            else:
                assert float(cell) == pytest.approx(float(right), rel=1e-12)


def test_excel__passes_over_empty_rows_and_columns_and_keeps_codes(tmp_path: Path) -> None:
    rows = [[], ["code", None, "n"], ["007", None, 1], [None] * 3, ["012", " ", timedelta(hours=1)]]
    book(tmp_path / "a.xlsx", rows)
    table = read_excel(tmp_path / "a.xlsx")
    assert table.header == ("code", "n")
    assert table.column("code") == ["007", "012"]
    assert table.column("n") == ["1", "3600"]
    assert table.lines.tolist() == [3, 5]
    assert table.cells("code").is_text


@pytest.mark.parametrize(
    ("merge", "said"),
    [
        ("A1:B1", "row 1, the first with a value, .* cells A1:B1 are merged"),
        ("E4:E7", "cells E4:E7 are merged, so that only the first of them holds the value"),
    ],
)
def test_excel__refuses_merged_cells_by_name(tmp_path: Path, merge: str, said: str) -> None:
    made = book(tmp_path / "a.xlsx")
    made.active.merge_cells(merge)
    made.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=said):
        read_excel(tmp_path / "a.xlsx")
    assert any(merge in problem for problem in check(tmp_path / "a.xlsx").problems)


def test_excel__refuses_columns_without_a_name_and_formulas_without_values(tmp_path: Path) -> None:
    made: list[list[Any]] = [["Report 2024"], ["a", "b"], [1, "=A3*2"], [2, 5]]
    book(tmp_path / "a.xlsx", made)
    with pytest.raises(DataError) as caught:
        read_excel(tmp_path / "a.xlsx")
    first, second = str(caught.value).splitlines()
    assert "row 1, the first with a value" in first
    assert "B have no name there" in first
    assert "cells B3 hold formulas without values" in second
    table = read_excel(tmp_path / "a.xlsx", names=["a", "b"], by_record=True)
    assert table.column("b") == ["", "b", "", "5"]


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, "20 or so"), (3, datetime(2021, 1, 5, 9, 30)), (3, "in May"), (4, 7),
     (8, "beside the table")],
)  # fmt: skip
def test_excel__read_by_record_has_no_cell_change_what_another_becomes(
    tmp_path: Path, place: int, value: Any
) -> None:
    rows = [[*row, None, None, None] for row in ROWS]
    odd = [value if i == place else one for i, one in enumerate(rows[2])]
    found = []
    for name, own in (("as-it-was", [rows[2]]), ("odd", [odd]), ("without", [])):
        path = tmp_path / f"{name}.xlsx"
        book(path, [*rows[:2], *own, *rows[3:]])
        table = read_excel(path, by_record=True)
        assert table.header == tuple(ROWS[0])
        cells = [*zip(*(table.column(column) for column in table.header), strict=True)]
        found.append([cells[0], *cells[1 + len(own) :]])
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == len(ROWS) - 2


def test_excel__a_number_of_too_many_digits_is_a_gap(tmp_path: Path) -> None:
    book(tmp_path / "a.xlsx", [["a"], [987654], [2]])
    with zipfile.ZipFile(tmp_path / "a.xlsx") as made:
        parts = {name: made.read(name) for name in made.namelist()}
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as made:
        for name, content in parts.items():
            made.writestr(name, content.replace(b"987654", b"1" * 400))
    for by_record in (False, True):
        table = read_excel(tmp_path / "b.xlsx", by_record=by_record)
        assert table.column("a") == ["", "2"]


def test_excel__read_by_record_may_hold_none(tmp_path: Path) -> None:
    book(tmp_path / "a.xlsx", [])
    assert len(read_excel(tmp_path / "a.xlsx", names=["a", "b"], by_record=True)) == 0


def test_excel__says_which_of_several_sheets_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    made = book(path, Other=[["x", "ill"], *[[i, i % 2] for i in range(20)]])
    assert read_excel(path, "Other").header == ("x", "ill")
    with pytest.raises(ConfigError, match=r"no sheet 'other'.*there are 'Sheet', 'Other'"):
        read_excel(path, "other")
    report = check(path)
    assert "the first of 2 sheets is read, 'Sheet'" in report.facts[0]
    assert "scenario.sheet=Sheet" in report.settings
    pool = loaded(Csv(path=str(path), label="ill", drop=("seen",)))
    assert "the first of 2 sheets" in pool.notes[0]
    made["Sheet"].sheet_state = "hidden"
    made.active = 1
    made.save(path)
    assert (read_excel(path).header, sheets_note(path)) == (("x", "ill"), [])


def test_excel__is_read_as_data_check_says_and_refused_where_it_is_no_workbook(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.xlsx"
    book(path)
    report = check(path)
    scenario = compose([*report.settings, "privacy=none"]).scenario
    assert len(load_pool(scenario, Streams(0), Path())) == 40
    (tmp_path / "a.csv").write_text("a,ill\n1,yes\n2,no\n")
    with pytest.raises(ConfigError, match="is no Excel file"):
        loaded(Csv(path=str(tmp_path / "a.csv"), label="ill", sheet="x"))
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook><sheets>")
    assert is_excel(path)
    assert "cannot be read as Excel" in check(path).problems[0]
    path.write_bytes(whole[: len(whole) // 2])
    assert "is a zip file" in check(path).problems[0]
    path.write_bytes(b"\xd0\xcf\x11\xe0" + whole)
    assert "an old Excel file (.xls), or one with a password" in check(path).problems[0]


def test_excel__of_texts_and_of_prompts_is_learned_as_such(tmp_path: Path) -> None:
    words = "a letter of five words or more number"
    book(
        tmp_path / "t.xlsx",
        [["text", "label"], *[[f"{words} {i}", "ab"[i % 2]] for i in range(30)]],
    )
    assert check(tmp_path / "t.xlsx").settings[0] == "scenario=text"
    book(
        tmp_path / "p.xlsx",
        [["prompt", "completion"], *[[f"{i}?", f"{words} {i}"] for i in range(9)]],
    )
    assert "scenario=language" in check(tmp_path / "p.xlsx").settings
