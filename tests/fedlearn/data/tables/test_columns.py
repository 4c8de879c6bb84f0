from __future__ import annotations

import pytest

from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.columns import describe
from fedlearn.data.tables.identifiers import suspect


def test_describe__tells_numbers_from_categories() -> None:
    assert describe("a", encode(["1", "2.5", "-3e2", "NA"])).kind == "numeric"
    assert describe("a", encode(["0", "1", "1", ""])).kind == "categorical"
    assert describe("a", encode(["red", "blue", "4"])).kind == "categorical"
    assert describe("a", encode(["", "NA"])).kind == "empty"


def test_describe__points_at_the_cells_that_are_not_numbers() -> None:
    column = describe("a", encode([*map(str, range(10, 40, 2)), "high", "NA"]))
    assert column.kind == "numeric"
    assert column.not_numbers == (15,)
    assert column.missing == 1


def test_describe__sorts_categories_by_number_where_they_are_numbers() -> None:
    assert describe("a", encode(["10", "9", "NA"])).categories == ("9", "10")
    assert describe("a", encode(["10", "9", "x"])).categories == ("10", "9", "x")


@pytest.mark.parametrize(
    ("name", "values", "what"),
    [
        ("Name", ["x", "y"], "a person's name"),
        ("patient_name", ["x", "y"], "a person's name"),
        ("E-Mail", ["x", "y"], "an e-mail"),
        ("SSN", ["1", "2"], "social security"),
        ("PatientID", ["1", "2"], "a record number"),
        ("Date of Birth", ["1", "2"], "a date of birth"),
        ("Nachname", ["x", "y"], "a person's name"),
        ("Fallnummer", ["F1", "F2"], "a record number"),
        ("Patienten-ID", ["1", "2"], "a record number"),
        ("Geburtsdatum", ["1", "2"], "a date of birth"),
        ("Straße", ["x", "y"], "an address"),
        ("contact", ["a@example.org", "b.c@example.com"], "e-mail addresses"),
        ("code", ["123-45-6789", "987-65-4321"], "social security numbers"),
        ("when", ["2020-01-02", "1999-12-31"], "dates"),
        ("when", ["1.2.1980", "31.12.1999"], "dates"),
        ("reach", ["+49 30 1234567", "(030) 765-4321"], "phone numbers"),
        ("key", ["DE89370400440532013000", "GB29NWBK60161331926819"], "account numbers"),
    ],
)
def test_suspect__finds_direct_identifiers(name: str, values: list[str], what: str) -> None:
    assert what in suspect(name, encode(values), numeric=False)


def test_suspect__finds_columns_that_count_rows() -> None:
    assert suspect("v1", encode(["7", "8", "9"]), numeric=True) == "it counts the rows"


@pytest.mark.parametrize("rows", [5, 40, 90, 130])
@pytest.mark.parametrize("first", [0, 1, 150, 5000])
def test_suspect__takes_no_few_measures_in_any_order_for_record_numbers(
    rows: int, first: int
) -> None:
    mixed = [str(first + i * 7 % rows) for i in range(rows)]
    found = suspect("v1", encode(mixed), numeric=True) == "it counts the rows"
    assert found == (rows > 100 or (rows > 20 and first != 150))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("age", ["50", "61"]),
        ("shop_id", ["1", "2"]),
        ("Fallzahl", ["1", "2"]),
        ("Namenstag", ["ja", "nein"]),
        ("chest_pain", ["typical", "atypical"]),
        ("income", ["1200.50", "-3"]),
        ("phonetic_score", ["a", "b"]),
        ("address_change", ["yes", "no"]),
        ("dose", ["5-10", "10-20"]),
    ],
)
def test_suspect__leaves_ordinary_columns_alone(name: str, values: list[str]) -> None:
    assert suspect(name, encode(values), numeric=False) == ""
