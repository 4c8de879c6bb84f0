"""One value is one value, whoever wrote it; what may be one is said."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.data.check.files import check
from fedlearn.data.pool import Pool
from fedlearn.data.tables.cells import clean_text, encode
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.spelling import as_named, lookalikes, number_key, one_spelling
from fedlearn.data.texts.files import OwnText

from ....effort import examples
from ..inputs import given as file_given
from ..reading import loaded

UNSEEN = "\u200b\ufeff\u00ad\u200e\u2060\u202a"
BLANKS = " \u00a0\u3000\t"

numbers = st.from_regex(r"[+-]?[0-9]{1,4}(\.[0-9]{0,4})?", fullmatch=True)


@given(st.lists(numbers, min_size=1, max_size=12))
def test_number_key__is_equal_for_equal_numbers_alone(texts: list[str]) -> None:
    keys = [number_key(text) for text in texts]
    values = [Fraction(text.rstrip(".")) for text in texts]
    for key, value in zip(keys, values, strict=True):
        assert key is not None
        assert Fraction(key) == value
    assert len({*keys}) == len({*values})


@pytest.mark.parametrize("text", ["", ".", "-", "1e5", "0x1", "1_000", "1,5", "٣", "1.2.3", "A7"])
def test_number_key__of_what_is_no_plain_number_is_none(text: str) -> None:
    assert number_key(text) is None


def test_number_key__follows_the_decimal_sign_and_any_length() -> None:
    assert number_key("1,50", ",") == "1,5"
    assert number_key("1.50", ",") is None
    long = "9" * 40
    assert number_key(f"00{long}.0") == long != number_key(f"{long[:-1]}8")
    assert number_key("-0.0") == number_key("+0") == "0"


words = st.text(st.characters(codec="utf-8", categories=("L", "M", "N", "P", "Zs")), max_size=6)


@given(words, st.text(UNSEEN, max_size=2), st.text(UNSEEN + BLANKS, max_size=3))
def test_clean_text__sees_through_forms_and_what_nobody_sees(
    text: str, inside: str, around: str
) -> None:
    clean = clean_text(text)
    half = len(text) // 2
    cut = text[:half] + inside + text[half:]
    if unicodedata.normalize("NFC", text[:half]) + unicodedata.normalize("NFC", text[half:]) == (
        unicodedata.normalize("NFC", text)
    ):
        assert clean_text(around + cut + around) == clean
    assert clean_text(unicodedata.normalize("NFD", text)) == clean
    assert clean_text(clean) == clean


def test_clean_text__keeps_the_joiners_that_orthographies_need() -> None:
    persian, family = "می\u200cخواهم", "\U0001f468\u200d\U0001f469"
    assert clean_text(persian) == persian
    assert clean_text(f"\u200d {family} \u200c") == family


@given(st.lists(st.text("ab é́\u200b\u00a0\u200d7.", max_size=4), min_size=1, max_size=6))
def test_cells__clean_a_text_whatever_other_texts_there_are(texts: list[str]) -> None:
    together = list(encode(texts).each())
    assert together == [next(encode([text]).each()) for text in texts]
    assert together == [clean_text(text) for text in texts]


def test_one_spelling__keeps_codes_that_are_written_in_one_way() -> None:
    cells, several = one_spelling(encode(["01234", "99", "5.0", "x"]))
    assert (list(cells.each()), several) == (["01234", "99", "5", "x"], [])
    cells, several = one_spelling(encode(["007", "7", "7.0", "01"]))
    assert (list(cells.each()), several) == (["7", "7", "7", "01"], [("007", "7", "7.0")])
    cells, _ = one_spelling(encode(["007", "01"]), persons=True)
    assert list(cells.each()) == ["7", "1"]


def test_as_named__takes_a_name_as_it_stands_before_its_number() -> None:
    versions = as_named(encode(["1.1", "1.10", "1.100", "x"]), ["1.1", "1.10"])
    assert list(versions.each()) == ["1.1", "1.10", "1.1", "x"]
    assert list(as_named(encode(["0", "1.0", "2"]), ["0.0", "1"]).each()) == ["0.0", "1", "2"]
    assert list(as_named(encode(["Gro\u0308ße"]), ["Größe"]).each()) == ["Größe"]


@pytest.mark.parametrize(
    ("texts", "alike"),
    [
        (["yes", "Yes", "no"], [("Yes", "yes")]),
        (["1", "True", "0", "False"], [("0", "False"), ("1", "True")]),
        (["ja", "J", "nein"], [("J", "ja")]),
        (["A B", "A\u00a0B", "AB", "C"], [("A B", "AB", "A\u00a0B")]),
        (["Ｋ", "K"], [("K", "Ｋ")]),
        (["می\u200cخواهم", "میخواهم"], [("میخواهم", "می\u200cخواهم")]),
        (["1", "2", "yes"], []),
        (["a", "b", "1"], []),
        (["yes", "no"], []),
    ],
)
def test_lookalikes__are_what_differs_in_writing_alone(
    texts: list[str], alike: list[tuple[str, ...]]
) -> None:
    assert lookalikes(texts) == alike


# --- whole tables: written badly, a table is the table that it was -------------------


def messy(draw: st.DrawFn, cell: str) -> str:
    """Another text of the same value."""
    if number_key(cell) is not None:
        zeros = draw(st.sampled_from(["", "0", "00"]))
        return zeros + cell + draw(st.sampled_from(["", ".0", ".00"]))
    text = unicodedata.normalize("NFD", cell) if draw(st.booleans()) else cell
    around = draw(st.text(UNSEEN + "\u00a0", max_size=2))
    return around + text + around


def written(path: Path, rows: Sequence[Sequence[str]], **settings: object) -> Pool:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["âge", "ward", "site", "ill"], *rows])
    scenario = {"path": str(path), "label": "ill", "site": "site", **settings}
    return loaded(Csv(**scenario))  # type: ignore[arg-type]


WARDS = [["Größe", "Ωmega", "7"], ["1", "0"], ["x", "é", "ö"]]
CLASSES = [["0", "1"], ["ja", "nö"], ["2", "10"]]


@st.composite
def two_tables(draw: st.DrawFn) -> tuple[list[list[str]], list[list[str]]]:
    """A table, and the same with its categories, sites and labels in other spellings, but for the
    first of each: codes that have zeros in front everywhere keep them."""
    wards, classes = draw(st.sampled_from(WARDS)), draw(st.sampled_from(CLASSES))
    plain = [
        [
            draw(st.sampled_from(["21", "35.5", "44", "59"])),
            draw(st.sampled_from(wards)),
            draw(st.sampled_from(["Köln", "B"])),
            classes[i % 2],
        ]
        for i in range(draw(st.integers(4, 14)))
    ]
    other, seen = [], set[tuple[int, str]]()
    for row in plain:
        own = [c if (i, c) not in seen else messy(draw, c) for i, c in enumerate(row[1:])]
        seen |= {*enumerate(row[1:])}
        other.append([row[0], *own])
    return plain, other


def merged(plain: list[list[str]], other: list[list[str]]) -> int:
    """In how many columns of categories a value has several texts, but for what nobody sees."""
    columns = zip(zip(*plain, strict=True), zip(*other, strict=True), strict=True)
    return sum(len({*map(clean_text, new)}) > len({*old}) for old, new in [*columns][1:])


@settings(max_examples=examples(150), deadline=None)
@given(two_tables())
def test_table__in_other_spellings_is_the_same_table(
    tmp_path_factory: pytest.TempPathFactory, tables: tuple[list[list[str]], list[list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("spelled")
    plain, other = (written(folder / f"{i}.csv", rows) for i, rows in enumerate(tables))
    assert other.sha256 == plain.sha256  # features, labels, and who is tested on
    assert other.task == plain.task
    assert (np.asarray(other.natural_site) == plain.natural_site).all()
    said = sum("taken as one value" in note for note in other.notes)
    assert said == merged(*tables)


@settings(max_examples=examples(60), deadline=None)
@given(two_tables())
def test_table__under_named_classes_is_read_cell_by_cell(
    tmp_path_factory: pytest.TempPathFactory, tables: tuple[list[list[str]], list[list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("named")
    classes = tuple(sorted({row[3] for row in tables[0]}))
    wards = {"ward": tuple(sorted({row[1] for row in tables[0]}))}
    plain, other = (
        written(folder / f"{i}.csv", rows, classes=classes, categories=wards, numeric=("âge",))
        for i, rows in enumerate(tables)
    )
    assert other.sha256 == plain.sha256
    assert other.task.classes == plain.task.classes == classes


def test_series__of_one_person_in_two_spellings_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    rows = [f"{name},{hour},{i % 7},{i % 2}" for i in range(8) for hour, name in
            enumerate([f"00{i}", f"{i}", f"{i}.0"])]  # fmt: skip
    path.write_text("pid,hour,pulse,died\n" + "\n".join(rows))
    pool = loaded(Csv(path=str(path), label="died", record="pid", time="hour", steps=3))
    assert len(pool) == 8
    assert any("'0' and '0.0' and '000'" in note for note in pool.notes)


def test_run__names_values_that_may_be_one(tmp_path: Path) -> None:
    rows = [[str(20 + i * i), "AB"[i % 2], "s", ["yes", "no", "Yes"][i % 3]] for i in range(12)]
    pool = written(tmp_path / "a.csv", rows)
    (note,) = [note for note in pool.notes if "may be one" in note]
    assert "column 'ill': 'Yes' and 'yes'" in note


# --- files that once went wrong -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes"), [("lab10.csv", ("0", "1")), ("labcase.csv", None), ("labbool.csv", None)]
)
def test_given_tables__have_two_classes_or_are_named(
    name: str, classes: tuple[str, ...] | None
) -> None:
    path = file_given(name)
    pool = loaded(Csv(path=str(path), label="ill", site="site"))
    report = check(path)
    assert report.labels[0] == "ill"
    if classes:
        assert pool.task.classes == classes
        assert any("taken as one value" in hint for hint in report.hints)
    else:
        assert len(pool.task.classes) == 4
        assert any("may be one" in note for note in pool.notes)
        assert any("may be one" in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("nfd.csv", ("Größe", "Müller-Gang")), ("nbsp.csv", ("infection", "injury"))],
)
def test_given_texts__have_two_classes(name: str, classes: tuple[str, ...], cache: Path) -> None:
    scenario = OwnText(path=str(file_given(name)), text="text", label="label", site="site")
    assert loaded(scenario, cache).task.classes == classes


def test_given_long_table__has_one_record_a_person() -> None:
    path = file_given("ids.csv")
    scenario = Csv(path=str(path), label="died", site="site", record="pid", time="hour")
    pool = loaded(scenario)
    with path.open() as file:
        assert len(pool) == len({int(row["pid"]) for row in csv.DictReader(file)})
