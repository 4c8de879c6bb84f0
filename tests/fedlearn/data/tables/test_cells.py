"""A column whose different cells are held once says what all of its cells would say."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.data.tables.cells import (
    TEXT,
    Cells,
    encode,
    encode_numbers,
    number_text,
    parse,
)

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

CELL = st.one_of(
    st.sampled_from(["", " ", "NA", " 1", "1 ", "1_0", "1e999", "inf", "nan", "٣", "1.5", "-.5e2"]),
    st.text("0123456789+-.,eE_ x٣", max_size=6),
    st.floats().map(repr),
)
CELLS = st.lists(CELL, max_size=30)
FLOAT = st.one_of(st.floats(), st.sampled_from([-0.0, 2.0**53, 1e16, 1e-7, 5e-324, 3.0]))
MISSING = ("", "NA", "inf", "-99", "3", "1e+16", "1.5", "2,5")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_parse__reads_every_float_that_python_writes(number: float) -> None:
    assert read(repr(number)) == number
    assert read(repr(number).replace(".", ","), ",") == number


def by_grammar(cell: str, decimal: str = ".") -> float:
    """The number of a cell, asked of the grammar of numbers and of Python."""
    if decimal == ",":
        cell = cell.replace(".", "_").replace(",", ".")
    number = float(cell) if NUMBER.fullmatch(cell) else math.nan
    return number if math.isfinite(number) else math.nan


@given(CELLS, st.sampled_from(".,"))
def test_parse__takes_what_the_grammar_of_numbers_takes(cells: list[str], decimal: str) -> None:
    expected = [by_grammar(cell, decimal) for cell in cells]
    np.testing.assert_array_equal(parse(pa.array(cells, TEXT), decimal), expected)


@pytest.mark.parametrize("cell", ["1.500", "1.234,5", "1_5", "0.5"])
def test_parse__of_decimal_commas_takes_no_point_for_one(cell: str) -> None:
    assert math.isnan(read(cell, ","))


@pytest.mark.parametrize("cell", ["inf", "1_000", "1e999", "1 000", "0x1", "", "1.2.3", "٣"])
def test_parse__takes_nothing_else_for_a_number(cell: str) -> None:
    assert math.isnan(read(cell))


def read(cell: str, decimal: str = ".") -> float:
    (number,) = parse(pa.array([cell], TEXT), decimal)
    return float(number)


def agrees(column: Cells, cells: list[str], decimal: str) -> None:
    """Whether the column answers as its cells do, asked one by one."""
    cells = [cell.strip() for cell in cells]
    assert len(column) == len(cells)
    assert list(column.each()) == cells
    expected = [by_grammar(cell, decimal) for cell in cells]
    np.testing.assert_array_equal(column.numbers(decimal)[column.codes], expected)
    gaps = column.among(MISSING)
    assert column.rows(gaps).tolist() == [i for i, cell in enumerate(cells) if cell in MISSING]
    assert column.distinct(~gaps) == len({*cells} - {*MISSING})
    assert column.counts.sum() == len(cells)


@given(CELLS, st.sampled_from(".,"), st.integers(0, 30))
def test_cells__of_text_answer_as_their_cells_do(cells: list[str], decimal: str, at: int) -> None:
    column = encode(cells)
    assert column.values.take(pa.array(column.codes)).to_pylist() == cells
    agrees(column, cells, decimal)
    agrees(column.take(np.arange(len(cells))[at:]), cells[at:], decimal)


@given(st.lists(FLOAT, max_size=30), st.sampled_from(".,"))
def test_cells__of_numbers_answer_as_their_texts_do(numbers: list[float], decimal: str) -> None:
    column = encode_numbers(np.array(numbers), decimal)
    cells = [number_text(number, decimal) for number in numbers]
    agrees(column, cells, decimal)
    agrees(column.take(np.arange(len(cells))[::2]), cells[::2], decimal)
    np.testing.assert_array_equal(column.numbers("."), column.numbers(","))


@given(st.lists(CELL, min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=20))
def test_encode__takes_texts_and_the_place_of_every_row_among_them(
    texts: list[str], places: list[int]
) -> None:
    codes = np.array(places, dtype=np.int32) % len(texts)
    column = encode(texts, codes)
    assert len(set(column.values)) == len(column.values)
    agrees(column, [texts[code] for code in codes], ".")


def test_number_text__has_no_point_where_a_number_is_whole() -> None:
    written = {-0.0: "0", 3.0: "3", 0.5: "0.5", 2.0**53: "9007199254740992.0", 1e300: "1e+300"}
    assert {number: number_text(number) for number in written} == written
    assert number_text(math.nan) == ""
    assert number_text(0.5, ",") == "0,5"


def test_encode__takes_half_of_a_character_for_an_unknown_one() -> None:
    """JSON may spell one half of a pair of code units, and no file could hold the text."""
    assert list(encode(["a", "b\ud800"]).each()) == ["a", "b?"]
