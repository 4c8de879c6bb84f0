from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fedlearn.core.rng import Streams
from fedlearn.data.arrays import Given, keep_arrays
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading
from fedlearn.data.split import by_content, rows_of
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.delimited import parse_text
from fedlearn.data.tables.table import Table
from fedlearn.data.texts.files import OwnText

HEADER = ("age", "ward", "ill")
CELL = st.text(st.characters(codec="utf-8", exclude_characters='",\r\n'), max_size=5)
ROW = st.tuples(st.sampled_from(["", "1", "1.0", "-0", "0", "2.5", "x"]), CELL, CELL)
ROWS = st.lists(ROW, min_size=1, max_size=30)
SEEDS = st.integers(0, 2**32)
FRACTIONS = st.floats(0.01, 0.99)

Row = Sequence[str]


def table_of(rows: Sequence[Row], header: Sequence[str] = HEADER) -> Table:
    columns = tuple(encode(list(cells)) for cells in zip(*rows, strict=True))
    return Table(header=tuple(header), columns=columns, lines=np.arange(1, len(rows) + 1))


def split(rows: Sequence[Row], seed: int = 0, fraction: float = 0.25) -> list[bool]:
    return by_content(rows_of(table_of(rows)), fraction, Streams(seed)).tolist()


@given(ROWS, ROW, SEEDS, FRACTIONS, st.data())
def test_split__of_all_other_rows_is_the_same_whatever_one_row_is(
    rows: list[Row], other: Row, seed: int, fraction: float, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    found = split(rows, seed, fraction)
    without, with_other = rows[:at] + rows[at + 1 :], [*rows[:at], other, *rows[at + 1 :]]
    rest = found[:at] + found[at + 1 :]
    if without:
        assert split(without, seed, fraction) == rest
    replaced = split(with_other, seed, fraction)
    assert replaced[:at] + replaced[at + 1 :] == rest
    added = split([*rows[:at], other, *rows[at:]], seed, fraction)
    assert added[:at] + added[at + 1 :] == found


@given(ROWS, SEEDS, FRACTIONS, st.randoms(use_true_random=False))
def test_split__does_not_depend_on_the_order_of_rows_or_columns(
    rows: list[Row], seed: int, fraction: float, random: st.RandomModule
) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = split(rows, seed, fraction)
    assert split([rows[i] for i in order], seed, fraction) == [found[i] for i in order]
    turned = table_of([row[::-1] for row in rows], HEADER[::-1])
    assert by_content(rows_of(turned), fraction, Streams(seed)).tolist() == found


def test_split__keeps_copies_of_a_record_together() -> None:
    rows = [(str(i % 40), "", "x") for i in range(400)]
    found = split(rows)
    assert found == [found[i % 40] for i in range(400)]
    assert len({*found}) == 2


def test_split__tests_the_wanted_share_of_many_records() -> None:
    tested = 1 - np.mean(split([(f"{i}", "", "") for i in range(20_000)], fraction=0.25))
    assert tested == pytest.approx(0.25, abs=6 * (0.25 * 0.75 / 20_000) ** 0.5)


def test_split__is_another_one_under_another_seed() -> None:
    rows = [(str(i), "", "") for i in range(200)]
    assert split(rows, 0) != split(rows, 1)
    assert split(rows, 3) == split(rows, 3)


def test_split__of_a_record_is_fixed_for_good() -> None:
    """A ledger and a published figure are of one split: no version may draw another unawares."""
    rows = [(str(i), "ward" if i % 2 else "", "yes") for i in range(24)]
    assert "".join("x" if kept else "." for kept in split(rows)) == EXPECTED


EXPECTED = ".x.xxx.xxxx..xx..xxxxxxx"


# --- Whole scenarios ------------------------------------------------------------------

PEOPLE = [
    {"person": f"p{i // 2}", "hour": str(i % 2), "age": str(20 + i % 61),
     "bp": str(90 + 7 * i % 80), "ill": "yes" if i // 2 % 3 else "no", "clinic": "ab"[i // 2 % 2]}
    for i in range(240)
]  # fmt: skip
"""Two rows each, of 120 people in two clinics."""


def written(path: Path, rows: Sequence[dict[str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*PEOPLE[0]])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def read(scenario: Csv | OwnText | Given, tmp_path: Path, seed: int = 0) -> Pool:
    return scenario.load(Reading(streams=Streams(seed), cache=tmp_path))


def sides(pool: Pool) -> dict[bytes, bool]:
    """On which side every record is, by what is learned from it."""
    return {x.tobytes(): bool(side) for x, side in zip(pool.features, pool.is_train, strict=True)}


@pytest.mark.parametrize("record", ["", "person"])
def test_table__splits_the_same_whatever_classes_sites_and_order_there_are(
    tmp_path: Path, record: str
) -> None:
    path = written(tmp_path / "a.csv", PEOPLE)
    plain = Csv(path=path, label="ill", site="clinic", gaps=(), classes=("no", "yes"))
    plain = replace(plain, record="person", time="hour") if record else plain
    plain = plain if record else replace(plain, drop=("person",))
    expected = sides(read(plain, tmp_path))
    assert len({*expected.values()}) == 2
    assert sides(read(replace(plain, classes=("yes", "no")), tmp_path)) == expected
    turned = written(tmp_path / "b.csv", PEOPLE[::-1])
    assert sides(read(replace(plain, path=turned), tmp_path)) == expected
    swapped = [{**row, "clinic": {"a": "b", "b": "a"}[row["clinic"]]} for row in PEOPLE]
    moved = written(tmp_path / "c.csv", swapped)
    assert sides(read(replace(plain, path=moved), tmp_path)) == expected
    alone = written(tmp_path / "d.csv", [row for row in PEOPLE if row["clinic"] == "a"])
    own = sides(read(replace(plain, path=alone), tmp_path))
    assert own
    assert all(expected[record] == side for record, side in own.items())


def test_people__are_trained_on_or_tested_on_whatever_their_rows_hold(tmp_path: Path) -> None:
    scenario = Csv(path="-", label="ill", record="person", time="hour", steps=2, gaps=())
    changed = [{**row, "age": "33", "bp": "100"} for row in PEOPLE]
    pools = [
        read(replace(scenario, path=written(tmp_path / f"{i}.csv", rows)), tmp_path)
        for i, rows in enumerate((PEOPLE, changed))
    ]
    np.testing.assert_array_equal(pools[0].is_train, pools[1].is_train)


def test_table__splits_the_same_as_csv_and_as_parquet(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", PEOPLE)
    table = pa.Table.from_pylist([{**row, "age": float(row["age"])} for row in PEOPLE])
    parquet.write_table(table, tmp_path / "a.parquet")
    scenario = Csv(path=path, label="ill", site="clinic", drop=("person",))
    other = replace(scenario, path=str(tmp_path / "a.parquet"))
    first, second = read(scenario, tmp_path), read(other, tmp_path)
    np.testing.assert_array_equal(first.is_train, second.is_train)


@pytest.mark.slow
def test_texts__are_split_by_their_words_alone(tmp_path: Path) -> None:
    lines = [f"story number {i % 60} of many,{'ab'[i % 2]}" for i in range(120)]
    path, turned = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_text("\n".join(["text,label", *lines]))
    turned.write_text("\n".join(["text,label", *lines[::-1]]))
    scenario = OwnText(path=str(path), label="label")
    one, other = read(scenario, tmp_path), read(replace(scenario, path=str(turned)), tmp_path)
    np.testing.assert_array_equal(one.is_train, other.is_train[::-1])
    np.testing.assert_array_equal(one.is_train[:60], one.is_train[60:])


def test_arrays__are_split_by_values_whatever_the_classes_and_sites(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), np.array(["b", "a", "c", "a"] * 50)
    keys = [
        keep_arrays("one", {"h": (x, y)}, ("a", "b", "c")),
        keep_arrays("turned", {"h": (x, y)}, ("c", "b", "a")),
        keep_arrays("two", {"h": (x[:90], y[:90]), "k": (x[90:], y[90:])}, ()),
    ]
    first, *others = [read(Given(records=key), tmp_path).is_train for key in keys]
    assert 0 < first.sum() < 200
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_rows__may_be_of_words_or_of_numbers_alone_and_of_more_than_one_block() -> None:
    size = (1 << 16) + 3
    numbers = parse_text(Path("a"), "a,b\n" + "\n".join(f"{i},{i}" for i in range(size)), "comma")
    found = list(rows_of(numbers))
    assert len({*found}) == size
    words = parse_text(Path("a"), "a,b\nx,y\nz,y\nx,y\n", "comma")
    one, two, three = rows_of(words)
    assert one == three != two
