"""A table in its owner's names, codes and units is, once read, the one in those of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.config import decode, encode
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.pool import Pool
from fedlearn.data.tables.cells import encode as cells_of
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Ranges
from fedlearn.data.tables.table import Table
from fedlearn.data.tables.translation import Translation, in_order
from fedlearn.data.tables.units import conversion
from tests.effort import examples

from ..reading import loaded

RUN: dict[str, Any] = {
    "label": "ill",
    "numeric": ("glucose", "age"),
    "categories": {"sex": ("female", "male"), "ward": ("a", "b")},
    "gaps": ("glucose",),
    "classes": ("no", "yes"),
    "scaling": Ranges(columns={"glucose": (2, 30), "age": (0, 100)}),
}
COLUMNS = ("age", "glucose", "sex", "ward", "ill")
THEIRS = {
    "alter": "age",
    "glukose": "glucose",
    "geschlecht": "sex",
    "station": "ward",
    "krank": "ill",
}
CODES = {
    "sex": {"w": "female", "1": "male"},
    "ill": {"0": "no", "1": "yes"},
}


def write(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")
    return path


def read(path: Path, **settings: Any) -> Pool:
    return loaded(Csv(path=str(path), **RUN, **settings), by_record=True, by_name=True)


RECORD = st.tuples(
    st.integers(0, 100).map(str),
    st.one_of(st.just(""), st.integers(16, 480).map(lambda n: str(n / 16))),
    st.sampled_from(["female", "male", ""]),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["no", "yes"]),
)


@settings(deadline=None, max_examples=examples(100))
@given(
    records=st.lists(RECORD, min_size=1, max_size=12),
    order=st.permutations(range(len(COLUMNS))),
    power=st.integers(-6, 6),
)
def test_translated__is_bit_for_bit_the_plain_one_where_factors_are_exact(
    records: list[tuple[str, ...]],
    order: list[int],
    power: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    plain = write(folder / "plain.csv", [*COLUMNS], [list(row) for row in records])
    back = {name: {ours: theirs for theirs, ours in codes.items()} for name, codes in CODES.items()}
    theirs = {ours: name for name, ours in THEIRS.items()}

    def written(name: str, cell: str) -> str:
        if name == "glucose" and cell:
            return repr(float(cell) * 2.0**power)
        return back.get(name, {}).get(cell, cell)

    names = [COLUMNS[i] for i in order]
    other = write(
        folder / "other.csv",
        [theirs[name] for name in names],
        [[written(name, row[COLUMNS.index(name)]) for name in names] for row in records],
    )
    one = read(plain)
    two = read(other, rename=THEIRS, map=CODES, units={"glucose": 2.0**-power})
    np.testing.assert_array_equal(one.features, two.features)
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.is_train, two.is_train)
    assert one.task == two.task
    assert one.schemas == two.schemas


@given(value=st.floats(-1e9, 1e9), scale=st.floats(1e-6, 1e6), offset=st.floats(-1e6, 1e6))
def test_number_in_another_unit__is_within_three_units_of_the_last_place(
    value: float, scale: float, offset: float
) -> None:
    from fractions import Fraction

    made = only_number(repr(value), (scale, offset))
    exact = Fraction(value) * Fraction(scale) + Fraction(offset)
    largest = max(abs(value * scale), abs(offset), 5e-324)
    assert abs(Fraction(made) - exact) <= 3 * Fraction(float(np.spacing(largest)))


def only_number(cell: str, unit: Any, missing: tuple[str, ...] = ("", "NA")) -> float:
    table = Table(header=("x",), columns=(cells_of([cell]),), lines=np.array([2]))
    found = Translation(rename={}, map={}, units={"x": unit}).of(table, missing, ".")
    cells = found.cells("x")
    return float(cells.numbers(".")[cells.codes[0]])


# Factors as printed for laboratories (AMA Manual of Style, SI conversion table), to their digits.
@pytest.mark.parametrize(
    ("pair", "factor", "digits"),
    [
        ("mg/dL to mmol/L of glucose", 0.0555, 4),
        ("mg/dl to mmol/l of cholesterol", 0.0259, 4),
        ("mg/dl to mmol/l of triglycerides", 0.0113, 4),
        ("mg/dl to µmol/l of creatinine", 88.4, 1),
        ("mg/dl to mmol/l of urea nitrogen", 0.357, 3),
        ("mg/dl to μmol/l of uric acid", 59.48, 2),
        ("mg/dl to umol/l of bilirubin", 17.104, 3),
        ("mg/dl to mmol/l of calcium", 0.25, 2),
        ("mg/dl to mmol/l of magnesium", 0.411, 3),
        ("mg/dl to mmol/l of phosphorus", 0.323, 3),
        ("ug/dl to umol/l of iron", 0.179, 3),
        ("g/dl to g/l", 10.0, 6),
        ("g/dl to mmol/l of haemoglobin", 0.6206, 4),
        ("ng/ml to nmol/l of vitamin D", 2.496, 3),
        ("ug/dl to nmol/l of cortisol", 27.588, 1),
        ("ng/dl to nmol/l of testosterone", 0.0347, 4),
        ("ug/dl to nmol/l of thyroxine", 12.871, 2),
        ("lb to kg", 0.45359237, 9),
        ("in to cm", 2.54, 9),
        ("mmHg to kPa", 0.133322, 6),
        ("kcal to kJ", 4.184, 9),
    ],
)
def test_pair__has_the_factor_that_is_printed(pair: str, factor: float, digits: int) -> None:
    scale, offset = conversion(pair)
    assert offset == 0
    assert round(scale, digits) == pytest.approx(factor, abs=0.6 * 10**-digits)


@pytest.mark.parametrize(
    ("pair", "value", "is_value"),
    [
        ("F to C", 98.6, 37.0),
        ("C to F", -40.0, -40.0),
        ("K to C", 273.15, 0.0),
        ("% to mmol/mol of HbA1c", 6.5, 47.53),  # 48, as it is rounded
        ("mmol/mol to % of hba1c", 53.0, 7.0),
        ("mmol/l to mg/dl of glucose", 5.5, 99.1),
    ],
)
def test_pair__converts_what_everybody_knows(pair: str, value: float, is_value: float) -> None:
    scale, offset = conversion(pair)
    assert value * scale + offset == pytest.approx(is_value, abs=0.05)


@given(st.data())
def test_pair__and_its_way_back_are_one(data: st.DataObject) -> None:
    kinds = [["kg", "lb", "oz"], ["c", "k", "f"], ["mg/dl", "g/l", "ng/ml"], ["h", "days"]]
    names = data.draw(st.sampled_from(kinds))
    one, two = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    (a, b), (c, d) = conversion(f"{one} to {two}"), conversion(f"{two} to {one}")
    x = data.draw(st.floats(-1e6, 1e6))
    assert (x * a + b) * c + d == pytest.approx(x, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("mg/dl", "is no pair of units"),
        ("mg/dl to mmol/l", "say of what, as 'of glucose'"),
        ("mg/dl to mmol/l of gold", "'gold' is no substance"),
        ("stone to kg", "'stone' is no unit"),
        ("kg to cm", "measure different things"),
        ("kg to cm of glucose", "not two ways to measure glucose"),
        ("a" * 10_000 + " to b", "is no pair of units"),
        ("", "is no pair of units"),
    ],
)
def test_pair__that_is_none_is_refused_with_the_way_out(pair: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        conversion(pair)


def test_settings__that_cannot_be_meant_are_refused_all_at_once() -> None:
    wrong: dict[str, Any] = {
        "rename": {"a": "c", "b": "c"},
        "units": {"x": 0.0, "y": "mg/dl to mmol/l", "z": (1.0, 2.0)},
    }
    with pytest.raises(ConfigError) as caught:
        Csv(path="x.csv", label="ill", **wrong)
    text = json.dumps({"path": "x.csv", "label": "ill", **wrong})
    with pytest.raises(ConfigError) as decoded:
        decode(Csv, text)
    for error in (caught.value, decoded.value):
        assert [line.partition(":")[0] for line in error.problems] == [
            "rename",
            "units.x",
            "units.y",
        ]
    given_units = Csv(path="x.csv", label="ill", units={"z": (1.0, 2.0), "y": "F to C", "x": 3})
    assert decode(Csv, encode(given_units)) == given_units


def test_columns__that_are_not_there_are_all_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["age", "glucose", "sex", "ward", "ill"], [["1"] * 5])
    with pytest.raises(ConfigError) as caught:
        read(path, rename={"gone": "lost"}, map={"nowhere": {"a": "b"}}, units={"never": 2.0})
    assert [line.partition(" in ")[0] for line in caught.value.problems] == [
        "scenario.rename: no column 'gone'",
        "scenario.map: no column 'nowhere'",
        "scenario.units: no column 'never'",
    ]


def test_renamed_column__never_hides_another(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["age", "alter", "ill"], [["1", "2", "no"]])
    with pytest.raises(ConfigError, match="column 'age' would be there twice"):
        loaded(Csv(path=str(path), label="ill", rename={"alter": "age"}))
    swapped = loaded(
        Csv(path=str(path), label="ill", rename={"alter": "age", "age": "before"},
            numeric=("age", "before"), classes=("no", "yes"), gaps=(),
            scaling=Ranges(columns={"age": (0, 4), "before": (0, 4)})),
        by_name=True, by_record=True,
    )  # fmt: skip
    np.testing.assert_array_equal(swapped.features, [[0.0, -0.5]])


def test_gap__has_no_unit_and_no_number_becomes_one() -> None:
    assert np.isnan(only_number("NA", 2.0))
    missing = ("", "-9")
    assert np.isnan(only_number("-9", "F to C", missing))
    cold = only_number("15.8", "F to C", missing)  # is -9 degrees, which stands for a gap
    assert cold == pytest.approx(-9)
    assert cold != -9.0
    nothing = only_number("1", (1.0, -1.0), ("", "0"))
    assert nothing != 0
    assert abs(nothing) < 1e-300


def test_word__among_numbers_stays_one(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["dose", "ill"], [["1", "no"], ["much", "yes"]])
    with pytest.raises(DataError, match="line 3"):
        loaded(Csv(path=str(path), label="ill", numeric=("dose",), units={"dose": 10.0}))


def test_arrow__numbers_and_codes_are_translated_as_texts_are(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pa.table({"g": [90.0, None, 180.0], "s": [1, 2, 1], "ill": ["no", "yes", "yes"]})
    arrow = tmp_path / "t.parquet"
    pq.write_table(table, arrow)
    rows = [["90.0", "1", "no"], ["", "2", "yes"], ["180.0", "1", "yes"]]
    text = write(tmp_path / "t.csv", ["g", "s", "ill"], rows)
    both: dict[str, Any] = {
        "label": "ill", "classes": ("no", "yes"), "numeric": ("glucose",),
        "rename": {"g": "glucose", "s": "sex"},
        "categories": {"sex": ("f", "m")}, "map": {"sex": {"1": "m", "2": "f"}},
        "units": {"glucose": "mg/dl to mmol/l of glucose"}, "gaps": (),
        "scaling": Ranges(columns={"glucose": (0, 20)}),
    }  # fmt: skip
    found = [loaded(Csv(path=str(p), **both), by_record=True) for p in (text, arrow)]
    np.testing.assert_array_equal(found[0].features, found[1].features)
    np.testing.assert_allclose(found[0].features[:, 0], [-0.5004, 0.0, -0.00087], atol=1e-4)
    np.testing.assert_array_equal(found[0].features[:, -1], [2, 1, 2])


@given(st.permutations(["ill", "age", "z", "b", "a", "glucose"]))
def test_order__follows_from_names_alone(header: list[str]) -> None:
    columns = tuple(cells_of([name]) for name in header)
    table = Table(header=tuple(header), columns=columns, lines=np.array([2]))
    found = in_order(table, ("glucose", "age"), {"b": (), "a": ()})
    assert found.header == ("glucose", "age", "a", "b", "ill", "z")
    assert [found.column(name) for name in found.header] == [[name] for name in found.header]
