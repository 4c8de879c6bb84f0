"""A record is never taken for a header, nor a header for a record; remarks are neither."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import DataError
from fedlearn.data.check.files import check
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.delimited import read_table
from fedlearn.data.tables.heads import guess_separator, without_remarks
from fedlearn.data.tables.table import SEPARATORS
from fedlearn.data.texts.files import OwnText

from ....effort import examples
from ..inputs import given as file_given
from ..reading import loaded

ROWS = 60


def frame(seed: int, kinds: str) -> pd.DataFrame:
    """A table with a column of each kind: integers, floats, categories, texts, and a label."""
    rng = np.random.default_rng(seed)
    words = ["fever", "cough", "leg", "broken", "was", "today"]
    columns: dict[str, Callable[[], object]] = {
        "i": lambda: rng.integers(18, 90, ROWS),
        "f": lambda: rng.normal(4, 2, ROWS).round(2),
        "c": lambda: rng.choice(["A", "B", "C"], ROWS),
        "t": lambda: [" ".join(rng.choice(words, 5)) + f" {n}" for n in range(ROWS)],
    }
    made = [columns[kind]() for kind in kinds] + [rng.choice(["yes", "no"], ROWS)]
    return pd.DataFrame(dict(enumerate(made)))


kinds = st.text("ifct", min_size=1, max_size=6)
NAMES: list[Callable[[int], list[str]]] = [
    lambda n: [f"column {i}" for i in range(n)],
    lambda n: [*map(str, range(n))],  # as pandas writes columns without names
    lambda n: [*(str(2001 + i) for i in range(n - 1)), "outcome"],
    lambda n: [*(f"{400.5 + 2 * i}" for i in range(n - 1)), "class"],
    lambda n: [*["age", "dose", "ward", "sex", "bmi", "crp"][: n - 1], "ill"],
]


@settings(max_examples=examples(120), deadline=None)
@given(st.integers(0, 10**6), kinds, st.sampled_from(NAMES), st.sampled_from(",;\t"))
def test_header__is_never_taken_for_a_record(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    kinds: str,
    names: Callable[[int], list[str]],
    separator: str,
) -> None:
    path = tmp_path_factory.mktemp("headed") / "a.csv"
    table = frame(seed, kinds)
    table.columns = names(table.shape[1])
    table.to_csv(path, index=False, sep=separator)
    read = read_table(path, separator=guess_separator(path.read_text()))
    assert read.header == tuple(table.columns)
    assert len(read) == ROWS


@settings(max_examples=examples(120), deadline=None)
@given(st.integers(0, 10**6), kinds, st.sampled_from(",;\t"))
def test_record__is_never_taken_for_a_header(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kinds: str, separator: str
) -> None:
    path = tmp_path_factory.mktemp("headless") / "a.csv"
    table = frame(seed, kinds)
    table.to_csv(path, index=False, header=False, sep=separator)
    written = guess_separator(path.read_text())
    with pytest.raises(DataError, match=r"not like a header.*scenario.names=\[c1,c2"):
        read_table(path, separator=written)
    names = [f"c{i}" for i in range(table.shape[1])]
    read = read_table(path, separator=written, names=names)
    oracle = pd.read_csv(path, header=None, names=names, sep=separator, dtype=str)
    assert [read.column(name) for name in names] == [[*oracle[name]] for name in names]
    assert read.lines.tolist() == [*range(1, ROWS + 1)]
    if len({*oracle.iloc[0]}) == len(names):
        assert read_table(path, separator=written, header="first").lines[0] == 2


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.sampled_from(["# exported 2021-01-01", "#", "", "# a"]), max_size=3),
    st.sampled_from(["", "sep=,\n", '"sep=,"\n', "sep=,\r\n"]),
    st.sampled_from(["a,b,c", "#a,b,c"]),
)
def test_remarks__are_passed_over_and_lines_keep_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, remarks: list[str], directive: str, header: str
) -> None:
    path = tmp_path_factory.mktemp("remarks") / "a.csv"
    above = directive + "".join(f"{remark}\n" for remark in remarks)
    path.write_text(f'{above}{header}\n1, "x, y",3\n4,z,6\n', newline="")
    table = read_table(path, separator="comma")
    assert table.header == tuple(header.split(","))
    assert table.column("b") == ["x, y", "z"]
    first = above.count("\n") + 2
    assert table.lines.tolist() == [first, first + 1]


def test_remarks__leave_a_text_without_them_as_it_is() -> None:
    for text in ("a,b\n1,2\n", "#a,b\n1,2\n", "", "\n\n", "#", "separate,b\n1,2"):
        assert without_remarks(text, ",") == text
    assert guess_separator("sep=;\na,b;c\n") == "semicolon"
    assert guess_separator("# by a\n# b\na|b|c\n1|2|3\n") == "pipe"


def test_names__that_are_too_few_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2,x\n3,4,y\n")
    with pytest.raises(DataError, match=r"lines 1, 2: not 2 cells as scenario\.names has"):
        read_table(path, separator="comma", names=["a", "b"])
    path.write_text('1,"2\n3,4\n')
    with pytest.raises(DataError, match="line 1: "):
        read_table(path, separator="comma", names=["a", "b"])


def test_texts__without_a_header_take_names(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "texts.csv"
    rows = [f"fever and cough {i},ab{'cd'[i % 2]}" for i in range(20)]
    path.write_text("\n".join(rows))
    with pytest.raises(DataError, match="header"):
        loaded(OwnText(path=str(path), text="fever and cough 0", label="abc"), cache)
    named = OwnText(path=str(path), text="words", label="kind", names=("words", "kind"))
    assert len(loaded(named, cache)) == 20


def test_given_tables__are_read_or_refused_with_the_word(tmp_path: Path) -> None:
    path = file_given("nohead.csv")
    with pytest.raises(DataError, match="header"):
        loaded(Csv(path=str(path), label="lived"))
    report = check(path)
    assert report.records == 300
    assert "scenario.names=[c1,c2,c3,c4,c5]" in report.settings
    pool = loaded(Csv(path=str(path), label="c5", names=tuple(f"c{i}" for i in range(1, 6))))
    assert len(pool) == 300


@pytest.mark.parametrize("name", ["space.csv", "space2.csv", "sepline.csv", "comment.csv"])
def test_given_tables__have_the_columns_of_their_header(name: str) -> None:
    path = file_given(name)
    lines = [line for line in path.read_text().splitlines() if line[0] not in "#s"]
    pool = loaded(Csv(path=str(path), label="ill"))
    assert len(pool) == len(lines) - 1
    assert check(path).labels[0] == "ill"


# --- units below the header -----------------------------------------------------------------

UNITS = ["years", "mg/dl", "°C", "mm Hg", "", "%", "10^9/l"]


@settings(max_examples=examples(120), deadline=None)
@given(st.integers(0, 10**6), kinds, st.sampled_from(",;\t"), st.data())
def test_units__below_a_header_are_passed_over_and_no_record_is(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    kinds: str,
    separator: str,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("units") / "a.csv"
    table = frame(seed, kinds)
    table.columns = [f"column {i}" for i in range(table.shape[1])]
    numeric = [kind in "if" for kind in kinds] + [False]
    row = [data.draw(st.sampled_from(UNITS)) if number else "" for number in numeric]
    lines = table.to_csv(index=False, sep=separator).splitlines(keepends=True)
    path.write_text("".join([lines[0], separator.join(row) + "\n", *lines[1:]]))
    separate = SEPARATORS[separator]
    passed = read_table(path, separator=separate, header="units")
    assert len(passed) == ROWS
    assert passed.lines[0] == 3
    if any(row):
        with pytest.raises(DataError, match=r"line 2: looks like units.*scenario.header=units"):
            read_table(path, separator=separate)
        assert "scenario.header=units" in check(path).settings
    path.write_text("".join(lines))
    assert len(read_table(path, separator=separate)) == ROWS


def test_record__with_a_slip_is_no_row_of_units(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("age,ward,ill\nforty,A,yes\n" + "50,A,no\n61,B,yes\n70,B,no\n" * 9)
    assert len(read_table(path, separator="comma")) == 28
