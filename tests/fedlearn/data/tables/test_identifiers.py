"""Columns that say who somebody is are found by what they hold, and others are left alone.

Check digits are computed here once more, by the rules as each country publishes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.data.check.files import check
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.columns import describe
from fedlearn.data.tables.identifier_names import suspect_name
from fedlearn.data.tables.identifiers import suspect, suspect_values

from ....effort import examples
from ..inputs import given as file_given

Rng = np.random.Generator


def digits(rng: Rng, count: int, first: int = 0) -> list[int]:
    return [int(rng.integers(max(first, 0), 10)), *map(int, rng.integers(0, 10, count - 1))]


def text(numbers: Sequence[int]) -> str:
    return "".join(map(str, numbers))


def weighed(numbers: Sequence[int], weights: Sequence[int]) -> int:
    return sum(n * w for n, w in zip(numbers, weights, strict=True))


def luhn(body: list[int]) -> str:
    doubled = [n * 2 // 10 + n * 2 % 10 if i % 2 == 0 else n for i, n in enumerate(body[::-1])]
    return text([*body, -sum(doubled) % 10])


def born(rng: Rng) -> tuple[int, int, int]:
    return int(rng.integers(40, 99)), int(rng.integers(1, 13)), int(rng.integers(1, 29))


def dated(rng: Rng, rest: int) -> list[int]:
    """Six digits of a date of birth, and some more."""
    year, month, day = born(rng)
    return [*map(int, f"{year:02}{month:02}{day:02}"), *digits(rng, rest)]


def until(make: Callable[[], str | None]) -> str:
    while (found := make()) is None:
        pass
    return found


def mod_11(rng: Rng, size: int, weights: Sequence[int], first: int = 0) -> str:
    """Weights, 11 less the remainder, and no number where that has two digits."""

    def make() -> str | None:
        body = digits(rng, size, first)
        check = -weighed(body, weights) % 11
        return None if check == 10 else text([*body, check])

    return until(make)


def bsn(rng: Rng) -> str:
    def make() -> str | None:
        body = digits(rng, 8, 1)
        check = weighed(body, range(9, 1, -1)) % 11
        return None if check == 10 else text([*body, check])

    return until(make)


def cpf(rng: Rng) -> str:
    body = digits(rng, 9)
    for size in (10, 11):
        body.append(-weighed(body, range(size, 1, -1)) % 11 % 10)
    return text(body)


def nir(rng: Rng) -> str:
    year, month, _ = born(rng)
    body = int(f"1{year:02}{month:02}75{rng.integers(100, 990)}{rng.integers(100, 999)}")
    return f"{body}{97 - body % 97:02}"


def belgian(rng: Rng) -> str:
    body = int(text(dated(rng, 3)))
    return f"{body:09}{97 - body % 97:02}"


def pesel(rng: Rng) -> str:
    body = dated(rng, 4)
    return text([*body, -weighed(body, [1, 3, 7, 9] * 2 + [1, 3]) % 10])


def turkish(rng: Rng) -> str:
    body = digits(rng, 9, 1)
    body.append((7 * sum(body[::2]) - sum(body[1::2])) % 10)
    return text([*body, sum(body) % 10])


def oib(rng: Rng) -> str:
    body, product = digits(rng, 10), 10
    for number in body:
        product = ((number + product) % 10 or 10) * 2 % 11
    return text([*body, (11 - product) % 10])


def chinese(rng: Rng) -> str:
    year, month, day = born(rng)
    body = [*map(int, f"1101011{9}{year:02}{month:02}{day:02}"[:6]), *map(int, f"19{year:02}")]
    body += [*map(int, f"{month:02}{day:02}"), *digits(rng, 3)]
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    return text(body) + "10X98765432"[weighed(body, weights) % 11]


def iban(rng: Rng) -> str:
    body = text(digits(rng, 18, 1))
    return f"DE{98 - int(body + '131400') % 97:02}{body}"


def finnish(rng: Rng) -> str:
    year, month, day = born(rng)
    number = int(rng.integers(2, 900))
    date = f"{day:02}{month:02}{year:02}"
    return f"{date}-{number:03}" + "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(f"{date}{number:03}") % 31]


def romanian(rng: Rng) -> str:
    body = [1, *dated(rng, 1)[:6], 1, 2, *digits(rng, 3)]
    return text([*body, weighed(body, [2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11 % 10])


def bulgarian(rng: Rng) -> str:
    body = dated(rng, 3)
    return text([*body, weighed(body, [2, 4, 8, 5, 10, 9, 7, 3, 6]) % 11 % 10])


def spanish(rng: Rng) -> str:
    number = int(rng.integers(10_000_000, 99_999_999))
    return f"{number}" + "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]


def thai(rng: Rng) -> str:
    body = [int(rng.integers(1, 9)), *digits(rng, 11)]
    return text([*body, (11 - weighed(body, range(13, 1, -1)) % 11) % 10])


def estonian(rng: Rng) -> str:
    def make() -> str | None:
        body = [3, *dated(rng, 3)]
        check = weighed(body, [1, 2, 3, 4, 5, 6, 7, 8, 9, 1]) % 11
        return None if check == 10 else text([*body, check])

    return until(make)


def portuguese(rng: Rng) -> str:
    body = [2, *digits(rng, 7)]
    return text([*body, (11 - weighed(body, range(9, 1, -1)) % 11) % 11 % 10])


def swiss(rng: Rng) -> str:
    body = [7, 5, 6, *digits(rng, 9)]
    return text([*body, -weighed(body, [1, 3] * 6) % 10])


NUMBERS: dict[str, Callable[[Rng], str]] = {
    "IBAN": iban,
    "(China)": chinese,
    "(France)": nir,
    "(Spain)": spanish,
    "(Netherlands)": bsn,
    "(Belgium)": belgian,
    "(Poland)": pesel,
    "(Finland)": finnish,
    "(England)": lambda rng: mod_11(rng, 9, range(10, 1, -1)),
    "(Portugal)": portuguese,
    "(Canada)": lambda rng: luhn(digits(rng, 8, 1)),
    "(Brazil)": cpf,
    "(Turkey)": turkish,
    "(Thailand)": thai,
    "(Switzerland)": swiss,
    "(Romania)": romanian,
    "(Bulgaria)": bulgarian,
    "(Croatia)": oib,
    "(Estonia": estonian,
    "card numbers": lambda rng: luhn([4, *digits(rng, 14)]),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_with_check_digits__are_found_whatever_a_column_is_called(what: str) -> None:
    rng = np.random.default_rng(len(what))
    values = [NUMBERS[what](rng) for _ in range(60)]
    for cells in (values, [*values[:55], "", *values[:4]]):
        column = describe("x", encode(cells))
        assert "its values look like" in column.identifier, values[:3]
    seen = describe("x", encode(values)).identifier
    assert "record numbers" not in seen  # of some other country's form and rule, perhaps


@pytest.mark.parametrize("what", ["(Netherlands)", "(Brazil)", "(Poland)", "card numbers"])
def test_numbers_with_wrong_check_digits__are_not_named_as_those(what: str) -> None:
    rng = np.random.default_rng(3)
    values = [NUMBERS[what](rng) for _ in range(60)]
    wrong = [value[:-1] + str((int(value[-1]) + 1) % 10) for value in values]
    seen = describe("x", encode(wrong)).identifier
    assert what not in seen
    assert "record numbers" in seen or "phone numbers" in seen  # long, and no two the same


def kinds(rng: Rng) -> dict[str, list[str]]:
    """Columns of 80 cells that identify nobody."""
    n = 80

    def whole(low: int, high: int) -> list[int]:
        return [int(one) for one in rng.integers(low, high, n)]

    return {
        "age": [*map(str, whole(18, 95))],
        "income": [f"{one:.0f}" for one in rng.lognormal(12, 1.2, n)],
        "dose": [f"{a} - {a + 20}" for a in whole(5, 60)],
        "pressure": [f"{a}/{b}" for a, b in zip(whole(90, 180), whole(50, 100), strict=True)],
        "years": [f"{a}-{a + 1}" for a in whole(1990, 2020)],
        "range": [f"{a}-{a + 1500}" for a in whole(1000, 8000)],
        "share": [f"{one:.3f}" for one in rng.random(n)],
        "code": [f"I{a}.{b}" for a, b in zip(whole(10, 99), whole(0, 9), strict=True)],
        "postcode": [f"{one:05}" for one in whole(1000, 99999)],
        "year": [*map(str, whole(1950, 2020))],
        "steps": [*map(str, whole(100, 20_000))],
        "cells": [*map(str, whole(1_000, 9_000_000))],
        "price": [f"{one:.2f}" for one in rng.lognormal(8, 1, n)],
        "ward": [f"Station {one}" for one in whole(1, 9)],
        "born_in": [*rng.choice(["Köln", "Łódź", "北京", "Αθήνα"], n)],
        "Konto": [*rng.choice(["ja", "nein"], n)],
        "account": [*rng.choice(["basic", "plus"], n)],
        "via": [*rng.choice(["oral", "iv"], n)],
    }


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(0, 10**6))
def test_ordinary_columns__are_left_alone(seed: int) -> None:
    for name, cells in kinds(np.random.default_rng(seed)).items():
        assert describe(name, encode(cells)).identifier == "", name


NAMES = [
    "Nom de famille", "Numéro de téléphone", "date_de_naissance", "Apellidos", "teléfono",
    "fecha de nacimiento", "Cognome", "codice fiscale", "data di nascita", "Sobrenome", "CPF",
    "endereço", "achternaam", "BSN", "geboortedatum", "Nazwisko", "PESEL", "data urodzenia",
    "Фамилия", "ИНН", "дата рождения", "姓名", "身份证号", "手机号", "出生日期", "住院号", "氏名",
    "電話番号", "生年月日", "주민등록번호", "전화번호", "생년월일", "رقم الهوية", "تاريخ الميلاد",
    "TC Kimlik No", "doğum tarihi", "आधार", "pid", "PatientID", "hadm_id", "NHS number", "Straße",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names__are_known_in_many_languages(name: str) -> None:
    assert suspect_name(name).startswith("its name says")


@pytest.mark.parametrize(
    "values",
    [
        ["1999年4月21日", "1942年11月5日"],
        ["21 April 1999", "5 November 1942"],
        ["21. März 1999", "5. Dezember 1942"],
        ["April 21, 1999", "Nov 5, 1942"],
        ["21-Apr-99", "05-NOV-42"],
        ["21 avril 1999", "5 août 1942"],
        ["21 de abril de 1999", "5 de noviembre de 1942"],
        ["21 апреля 1999", "5 ноября 1942"],
        ["令和3年4月1日", "昭和63年12月9日"],
        ["1999년 4월 21일", "1942년 11월 5일"],
        ["21/04/1999 08:15", "05/11/1942 23:00"],
        ["٢١/٠٤/١٩٩٩", "٠٥/١١/١٩٤٢"],
    ],
)
def test_dates__are_known_as_people_write_them(values: list[str]) -> None:
    assert suspect("x", encode(values), numeric=False) == "its values look like dates"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ids_zh.csv", ["姓名", "身份证号", "手机号", "住院号", "出生日期"]),
        ("ids_enhead.csv", ["name", "national_id", "mobile", "stay_no", "birth_date"]),
        ("ids_neut.csv", ["a", "b", "c", "d", "e"]),
        ("klinik.csv", ["Patienten-ID", "Aufnahmedatum"]),
        ("ids.csv", ["pid"]),
    ],
)
def test_given_tables__have_all_their_identifiers_found_and_no_others(
    name: str, wanted: list[str]
) -> None:
    report = check(file_given(name))
    assert [column.name for column in report.columns if column.identifier] == wanted


def test_check_digits__of_a_place_that_there_is_not_are_no_crash() -> None:
    numbers = [f"1000000000000{i:04}" for i in range(100, 160)]  # no county of China is called so
    digits = [next(c for c in "0123456789X" if _sum_fits(one + c)) for one in numbers]
    cells = encode([one + c for one, c in zip(numbers, digits, strict=True)])
    assert isinstance(suspect_values(cells, numeric=False), str)


def _sum_fits(text: str) -> bool:
    """ISO 7064, MOD 11-2."""
    weights = [2**i % 11 for i in range(17, -1, -1)]
    return (
        sum(w * (10 if c == "X" else int(c)) for w, c in zip(weights, text, strict=True)) % 11 == 1
    )
