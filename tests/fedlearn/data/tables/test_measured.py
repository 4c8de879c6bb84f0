"""Numbers with units in their cells: one unit is read, others are converted or said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError
from fedlearn.data.check.files import check
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.measured import split
from fedlearn.data.tables.written import number_of, way_of

from ....effort import examples
from ..reading import loaded

POUND, INCH = Fraction("0.45359237"), Fraction("0.0254")


@settings(max_examples=examples(200), deadline=None)
@given(
    st.integers(0, 10**6), st.integers(0, 99), st.sampled_from([".", ","]),
    st.sampled_from([("kg", "kg", 1), ("KG", "kg", 1), ("lbs", "kg", POUND), ("in", "m", INCH),
                     ("µg/dl", "ug/dl", 1), ("g/l", "mg/dl", 100), ("Stück", "Stück", 1)]),
    st.sampled_from(["", " ", "\u00a0"]),
)  # fmt: skip
def test_cells__in_another_unit_are_what_exact_arithmetic_makes_of_them(
    whole: int, part: int, decimal: str, unit: tuple[str, str, Fraction], between: str
) -> None:
    written, wanted, factor = unit
    number = number_of(f"{whole}{decimal}{part:02}{between}{written}", f"in {wanted}", decimal)
    assert number is not None
    right = Fraction(f"{whole}.{part:02}") * Fraction(factor)
    assert float(number.replace(",", ".")) == pytest.approx(float(right), rel=1e-14)


@settings(max_examples=examples(200), deadline=None)
@given(st.text(max_size=12))
def test_cells__are_split_without_losing_a_sign(text: str) -> None:
    number, unit = split(text)
    assert not number or sorted("".join((number + unit).split())) == sorted("".join(text.split()))


@pytest.mark.parametrize(
    ("cells", "way"),
    [
        (["70 kg", "65.5 kg", "80kg"], "in kg"),
        (["70 kg", "154 lb", "80 kg"], "in kg"),
        (["€ 1,200", "€ 950", "12,000 EUR"], "in eur"),
        (["36.6 °C", "98.6 F", "37 C"], "in c"),
        (["120 mm Hg", "80 mmHg", "95 mmHg"], "in mmhg"),
        (["3 doses", "4 doses", "9 doses"], "in doses"),
        (["5 mg/dl", "6 mg/dl", "1.2 mmol/l"], None),
        (["1a", "2a", "3a"], None),
        (["T1", "T2", "T3"], None),
        (["12 May", "13 May", "14 May"], None),
        (["9 am", "10 am", "11 pm"], None),
        (["12 Mill Lane", "13 High Street", "9 Old Road"], None),
        (["70 kg", "65", "80"], None),
    ],
)
def test_way__is_a_unit_where_all_cells_have_one(cells: list[str], way: str | None) -> None:
    assert way_of(encode(cells), ("",), ".") == way


def test_way__is_the_unit_of_most_records_and_not_of_most_different_cells() -> None:
    cells = ["70 kg", "71 kg"] * 20 + [f"{pounds} lb" for pounds in range(120, 125)]
    assert way_of(encode(cells), ("",), ".") == "in kg"


def _table(path: Path, cells: list[str]) -> Path:
    rows = [f'"{cell}",{"mf"[i % 2]},{i // 2 % 2}' for i, cell in enumerate(cells)]
    path.write_text("\n".join(["x,sex,ill", *rows]))
    return path


def test_check__names_the_unit_and_what_is_converted_and_reads_it_so(tmp_path: Path) -> None:
    cells = [f"{i}.5 kg" if i % 5 else f"{i} lb" for i in range(20, 90)]
    report = check(_table(tmp_path / "a.csv", cells))
    assert report.problems == ()
    assert any("20 lb is read as 9.0718" in fact for fact in report.facts)
    assert "scenario.written.x='in kg'" in report.settings
    config = compose([*report.settings, "privacy=none"]).scenario
    assert isinstance(config, Csv)
    pool = loaded(config)
    back = np.expm1(np.abs(pool.features[:, 0]) * np.log(1001))
    right = [i + 0.5 if i % 5 else i * float(POUND) for i in range(20, 90)]
    np.testing.assert_allclose(np.sort(back), np.sort(right), rtol=1e-4)


def test_check__says_which_units_are_mixed_and_the_way_out_works(tmp_path: Path) -> None:
    cells = [f"{90 + i} mg/dl" if i % 3 else f"{5 + i / 10:.1f} mmol/l" for i in range(60)]
    path = _table(tmp_path / "a.csv", cells)
    report = check(path)
    (problem,) = report.problems
    assert "do not convert into one another: mg/dl (40 values), mmol/l (20 values)" in problem
    assert "scenario.drop=[x]" in report.settings
    config = Csv(path=str(path), label="ill", written={"x": "in mmol/l of glucose"})
    assert loaded(config).features[:, 0].max() < np.log1p(13) / np.log(1001)
    with pytest.raises(ConfigError, match=r"written\.x: 'inches' is none of percent"):
        compose(
            ["scenario=csv", "scenario.path=x", "scenario.label=y", "scenario.written.x=inches"]
        )


def test_run__says_that_numbers_with_units_are_categories(tmp_path: Path) -> None:
    path = _table(tmp_path / "a.csv", [f"{i % 9 + 50} kg" for i in range(60)])
    pool = loaded(Csv(path=str(path), label="ill"))
    assert any("scenario.written.x='in kg'" in note for note in pool.notes)
