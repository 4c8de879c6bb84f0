"""Numbers as people write them are the numbers that were written, and nothing else is one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.check.files import check
from fedlearn.data.tables.cells import as_arrow, encode, parse
from fedlearn.data.tables.columns import MISSING
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.written import WAYS, Way, number_of, way_of

from ....effort import examples
from ..inputs import given as file_given
from ..reading import loaded

GROUPS = {",": [".", "'", "\u2019", " ", "\u00a0", "\u202f"],
          ".": [",", "'", "\u2019", " ", "\u00a0", "\u202f"]}  # fmt: skip


def value(text: str, way: Way, decimal: str) -> float:
    number = number_of(text, way, decimal)
    assert number is not None, text
    return float(parse(as_arrow([number]), decimal)[0])


decimals = st.sampled_from(".,")
signs = st.sampled_from(["", "-", "+", "\u2212"])
wholes, places = st.integers(0, 10**12), st.text("0123456789", max_size=6)


@settings(max_examples=examples(300), deadline=None)
@given(decimals, signs, wholes, places, st.data())
def test_thousands__are_the_number_that_was_grouped(
    decimal: str, sign: str, whole: int, fraction: str, data: st.DataObject
) -> None:
    group = data.draw(st.sampled_from(GROUPS[decimal]))
    text = f"{sign}{whole:,}".replace(",", group) + (f"{decimal}{fraction}" if fraction else "")
    wanted = (-1 if sign in ("-", "\u2212") else 1) * float(f"{whole}.{fraction or 0}")
    assert value(text, "thousands", decimal) == wanted


@settings(max_examples=examples(300), deadline=None)
@given(decimals, signs, wholes, places, st.sampled_from(["%", " %", "\u00a0%", "\uff05"]))
def test_percent__is_a_hundredth_and_needs_its_sign(
    decimal: str, sign: str, whole: int, fraction: str, mark: str
) -> None:
    text = f"{sign}{whole}" + (f"{decimal}{fraction}" if fraction else "")
    wanted = Fraction(f"{whole}.{fraction or 0}") / 100 * (-1 if sign in ("-", "\u2212") else 1)
    assert value(text + mark, "percent", decimal) == float(wanted)
    assert number_of(text, "percent", decimal) is None


@settings(max_examples=examples(300), deadline=None)
@given(decimals, wholes, places, st.sampled_from(["<", "< ", "<=", "\u2264", ">", ">= ", "\u2265"]))
def test_limits__are_half_below_and_the_limit_above(
    decimal: str, whole: int, fraction: str, mark: str
) -> None:
    plain = f"{whole}" + (f"{decimal}{fraction}" if fraction else "")
    exact = Fraction(f"{whole}.{fraction or 0}")
    below = mark[0] in "<\u2264"
    assert value(mark + plain, "limits", decimal) == float(exact / 2 if below else exact)
    assert value(plain, "limits", decimal) == float(exact)
    assert value(f"<-{plain}", "limits", decimal) == -float(exact), "half of it would be more"


@settings(max_examples=examples(300), deadline=None)
@given(st.text(max_size=12), st.sampled_from(WAYS), decimals)
def test_texts__that_are_no_numbers_are_none(text: str, way: Way, decimal: str) -> None:
    number = number_of(text, way, decimal)
    if number is not None:
        assert np.isfinite(parse(as_arrow([number]), decimal)[0])
        assert any(map(str.isdigit, text))


@pytest.mark.parametrize(
    "text",
    ["", "%", "<", "1,00", "1,0000", "1,000.000,1", "12,34", "0,512", ".", "-", "<<1", "1e3"],
)
def test_texts__in_none_of_the_ways_are_left_alone(text: str) -> None:
    assert [number_of(text, way) for way in WAYS] == [None] * len(WAYS)


def test_way__is_told_from_most_cells_and_never_from_plain_numbers() -> None:
    assert way_of(encode(["1.5", "2", "3.25"]), ("",), ".") is None
    assert way_of(encode(["1.5", "<0.5", "3.25", "", "7"]), ("",), ".") == "limits"
    assert way_of(encode(["15%", "5 %", "3.25%", ""]), ("",), ".") == "percent"
    assert way_of(encode(["15%", "5", "3.25", "7"]), ("",), ".") is None, "a share or a number"
    assert way_of(encode(["1,200", "950", "12,000,000"]), ("",), ".") == "thousands"
    assert way_of(encode(["a", "b", "c", "d"]), ("",), ".") is None


def table(folder: Path, cells: list[str]) -> Path:
    path = folder / "a.csv"
    rows = [f'"{cell}",{"mf"[i % 2]},{i % 2}' for i, cell in enumerate(cells)]
    path.write_text("\n".join(["x,sex,ill", *rows]))
    return path


def test_check__reads_what_its_own_settings_read(tmp_path: Path) -> None:
    path = table(tmp_path, [f"<{i}" if i < 5 else f"{i}.5" for i in range(1, 60)])
    report = check(path)
    assert report.problems == ()
    assert "column 'x': <1 is read as 0.5 (scenario.written.x=limits)" in report.facts
    assert "scenario.written.x=limits" in report.settings
    pool = loaded(Csv(path=str(path), label="ill", written={"x": "limits"}, drop=("sex",)))
    back = np.expm1(np.abs(pool.features[:, 0]) * np.log(1001))
    wanted = [i / 2 if i < 5 else i + 0.5 for i in range(1, 60)]
    assert sorted(back) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("few", [1, 5])
def test_check__finds_words_for_gaps_beside_numbers_that_are_written_otherwise(
    tmp_path: Path, decimal: str, few: int
) -> None:
    numbers = [f"{'<' if i <= few else ''}{i}{decimal}5" for i in range(1, 60)]
    report = check(table(tmp_path, [*numbers, "n.b.", "it's lost", "n.b.", "it's lost"]))
    assert report.problems == ()
    scenario = compose([*report.settings, "scenario.drop=[sex]", "privacy=none"]).scenario
    assert isinstance(scenario, Csv)
    assert scenario.written == {"x": "limits"}
    assert {*scenario.missing} == {*MISSING, "n.b.", "it's lost"}
    assert len(loaded(scenario)) == 63


def test_words_among_numbers__are_refused_with_a_list_that_keeps_the_other_signs(
    tmp_path: Path,
) -> None:
    path = table(tmp_path, ["n.b.", "NA", "", *(f"{i * i}.5" for i in range(60))])
    with pytest.raises(DataError, match="line 2: not a number") as refused:
        loaded(Csv(path=str(path), label="ill"))
    override = str(refused.value).partition("stands for a gap: ")[2].replace("SIGN", "n.b.")
    words = ["scenario=csv", f"scenario.path={path}", "scenario.label=ill", override]
    scenario = compose([*words, "partition=iid", "privacy=none"]).scenario
    assert len(loaded(scenario)) == 63


def test_cells__that_are_not_written_so_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, ["5%", "7%", "many", *(f"{i}%" for i in range(60))])
    with pytest.raises(DataError, match="column 'x': line 4: not a number"):
        loaded(Csv(path=str(path), label="ill", written={"x": "percent"}))
    with pytest.raises(ConfigError, match=r"scenario.written: no column 'y'"):
        loaded(Csv(path=str(path), label="ill", written={"y": "percent"}))


@pytest.mark.parametrize(
    ("cells", "separator", "decimal"),
    [
        (["1,002", "15,600", "250,000", "7"], ",", "."),
        (["1,002", "15,600", "250,000", "7"], ";", ","),
        (["1,5", "15,62", "2,25", "7"], ",", ","),
    ],
)
def test_commas__are_decimal_signs_where_they_cannot_be_anything_else(
    tmp_path: Path, cells: list[str], separator: str, decimal: str
) -> None:
    path = tmp_path / "a.csv"
    rows = [f'"{cells[i % 4]}"{separator}{i % 3}{separator}{i % 2}' for i in range(24)]
    path.write_text("\n".join([separator.join(["x", "n", "ill"]), *rows]))
    assert ("scenario.decimal=','" in check(path).settings) == (decimal == ",")


def test_numbers__of_the_example_are_all_read() -> None:
    report = check(file_given("numbers.csv"))
    kinds = {column.name: column.kind for column in report.columns}
    assert {kinds[name] for name in ("crp", "cost", "share", "lab", "temp")} == {"numeric"}
    assert not any(word.startswith("scenario.drop") for word in report.settings)
