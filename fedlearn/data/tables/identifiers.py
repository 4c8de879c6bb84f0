"""What a column identifies people by: its name, and what its values are.

A safety net and no proof that a table is anonymous: combinations of harmless columns single a
person out as well. Values are looked at whatever a column is called and whatever kind it is:
numbers of identity, tax, insurance, cards and accounts by their check digits, telephones, dates as
people write them, persons' names in Chinese, and long numbers of which no two are the same.

Source: check digits by `python-stdnum`, which follows the publications of each country.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import cache
from importlib import import_module
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.tables.cells import Cells
from fedlearn.data.tables.identifier_names import suspect_ambiguous, suspect_name

COUNTS_ROWS: Final = "it counts the rows"
_FEW_ROWS: Final = 20
"""Of fewer, ages may well be all different and without a gap, unless they are in order."""
_MANY_ROWS: Final = 100
"""Of fewer, so may heights and weights, which begin above one and below a thousand."""
_NO_MEASURE: Final = 1000
_LOOKED_AT: Final = 400
"""Different values whose check digits are computed: nine of ten right is no chance of so many."""
_LEAST: Final = 5
"""Different values below which right check digits may be chance."""
_RIGHT: Final = 0.9
_LONG: Final = 8
"""Digits of a number that counts and measures nothing, where all have as many."""
_CARD: Final = 13
_MANY: Final = 20

_DIGITAL: Final = {
    "account numbers (IBAN)": "iban",
    "identity numbers (China)": "cn.ric",
    "tax numbers (Germany)": "de.idnr",
    "social insurance numbers (France)": "fr.nir",
    "identity numbers (Spain)": "es.nif",
    "tax codes (Italy)": "it.codicefiscale",
    "tax numbers (Portugal)": "pt.nif",
    "citizen numbers (Netherlands)": "nl.bsn",
    "identity numbers (Belgium)": "be.nn",
    "identity numbers (Poland)": "pl.pesel",
    "identity numbers (Czechia and Slovakia)": "cz.rc",
    "identity numbers (Sweden)": "se.personnummer",
    "identity numbers (Norway)": "no.fodselsnummer",
    "identity numbers (Finland)": "fi.hetu",
    "health service numbers (England)": "gb.nhs",
    "public service numbers (Ireland)": "ie.pps",
    "social insurance numbers (Canada)": "ca.sin",
    "tax numbers (Brazil)": "br.cpf",
    "identity codes (Mexico)": "mx.curp",
    "tax numbers (Argentina)": "ar.cuit",
    "identity numbers (Chile)": "cl.rut",
    "identity numbers (India)": "in_.aadhaar",
    "identity numbers (Korea)": "kr.rrn",
    "identity numbers (Japan)": "jp.in_",
    "tax numbers (Russia)": "ru.inn",
    "tax numbers (Ukraine)": "ua.rntrc",
    "identity numbers (Turkey)": "tr.tckimlik",
    "identity numbers (Israel)": "il.idnr",
    "identity numbers (South Africa)": "za.idnr",
    "tax numbers (Australia)": "au.tfn",
    "tax numbers (New Zealand)": "nz.ird",
    "identity numbers (Thailand)": "th.pin",
    "social insurance numbers (Switzerland)": "ch.ssn",
    "insurance numbers (Austria)": "at.vnr",
    "identity numbers (Romania)": "ro.cnp",
    "identity numbers (Bulgaria)": "bg.egn",
    "identity numbers (Croatia)": "hr.oib",
    "identity numbers (Estonia and Lithuania)": "ee.ik",
    "insurance numbers (Greece)": "gr.amka",
}
"""Kinds of numbers with check digits, and the module of `stdnum` that computes them."""

_MONTHS: Final = (
    r"(jan|feb|m[aä]r|apr|may|mai|jun|jul|aug|sep|o[ck]t|nov|de[cz]|f[ée]v|avr|ao[uû]|ene|abr|ago"
    r"|dic|gen|mag|giu|lug|set|ott|fev|dez|maa|mei|янв|фев|мар|апр|ма[йя]|июн|июл|авг|сен|окт|ноя"
    r"|дек)[^\W\d]*\.?"
)
_YEAR: Final = r"(1[89]|20)\d\d"
_DATES: Final = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?",
    r"\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})([T ,].*)?",
    rf"\d{{1,2}}(st|nd|rd|th|er|\.|º)?[ -](de )?{_MONTHS},?[ -](de |del )?'?(\d{{4}}|\d\d)",
    rf"{_MONTHS} \d{{1,2}}(st|nd|rd|th)?,? \d{{4}}",
    r"\d{4} ?[年년] ?\d{1,2} ?[月월] ?\d{1,2} ?[日일号號]?",
    r"(明治|大正|昭和|平成|令和)(\d{1,2}|元)年\d{1,2}月\d{1,2}日",
    rf"{_YEAR}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])",
)
_VALUES: Final = {
    "e-mail addresses": r"[^@\s]+@[^@\s]+\.[^\W\d]{2,}",
    "social security numbers": r"\d{3}-\d{2}-\d{4}",
    "dates": "|".join(_DATES),
    "account numbers": r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}",
    "UUIDs": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
_PHONE: Final = re.compile(r"(\+|00)?\(?\d[\d ()/.-]{5,}\d")
_MOBILE: Final = re.compile(r"(\+?86[ -]?)?1[3-9]\d([ -]?\d{4}){2}")
_RANGE: Final = re.compile(r"([1-9]\d*|0)([.,]\d+)?\s*[-–—/]\s*\d+([.,]\d+)?")
_CHINESE_ID: Final = re.compile(r"[1-9]\d{5}((18|19|20)\d\d)(\d\d)(\d\d)\d{3}[\dXx]")
_CODE: Final = re.compile(r"[^\W\d]{0,5}[-/_.]?\d{5,}")
_SURNAMES: Final = frozenset(
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏"
    "钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文張劉陳楊趙黃吳孫馬羅鄭"
)
_PERSON: Final = re.compile(r"[\u4e00-\u9fff]{2,4}")


def suspect(name: str, cells: Cells, numeric: bool) -> str:
    """What a column seems to identify people by, in words; empty when nothing was found.

    `cells` are its values without gaps; `numeric` says that they are taken for numbers.
    """
    named = suspect_name(name)
    differ = 2 * np.count_nonzero(cells.counts) > len(cells)
    if not named and differ:
        named = suspect_ambiguous(name)
    return named or suspect_values(cells, numeric)


def suspect_values(cells: Cells, numeric: bool) -> str:
    """The same of its values alone."""
    if numeric:
        if _counts_rows(cells):
            return COUNTS_ROWS
        if not _is_long(cells):
            return ""
    elif groups_thousands(cells):
        return ""  # else 240.000 would be a phone number
    texts = [_plain_digits(text) for text in cells.texts(cells.counts > 0)]
    if numeric:  # a column of whole numbers with a gap is written as 7.0 by many a program
        texts = [re.sub(r"[.,]0+$", "", text) for text in texts]
    rows = cells.counts[cells.counts > 0]
    what = next(_kinds_of(texts, rows, numeric), "")
    return f"its values look like {what}" if what else ""


def _kinds_of(texts: Sequence[str], rows: NDArray[np.int64], numeric: bool) -> Iterator[str]:
    """All that the values look like, the surest first."""

    def mostly(fits: Callable[[str], object]) -> bool:
        right = np.fromiter((bool(fits(text)) for text in texts), np.bool_, len(texts))
        return bool(rows[right].sum() > rows.sum() / 2)

    if mostly(_is_chinese_id):
        yield "identity numbers (China)"
    if not numeric:
        fitting = (what for what, pattern in _VALUES.items() if mostly(_matching(pattern)))
        yield from fitting
    yield from _with_check_digits(texts)
    if mostly(_MOBILE.fullmatch) or (not numeric and mostly(_is_phone)):
        yield "phone numbers"
    if numeric and mostly(_matching(_DATES[-1])) and len(texts) > len(rows) / 2:
        yield "dates"
    if len(texts) >= _MANY and len(texts) > _RIGHT * rows.sum():
        alike = max(Counter(map(len, texts)).values()) >= _RIGHT * len(texts)
        if mostly(_CODE.fullmatch) and (alike or not numeric):
            yield "record numbers: long, and hardly any two the same"
        elif mostly(_is_chinese_name):
            yield "persons' names"


def _with_check_digits(texts: Sequence[str]) -> Iterator[str]:
    """What numbers the values are by their check digits."""
    some = [text for text in texts[:_LOOKED_AT] if _digits_of(text) >= _LONG - 1]
    if len(some) < max(_LEAST, _RIGHT * min(len(texts), _LOOKED_AT)):
        return
    least = _RIGHT * len(some)
    for what, module in _DIGITAL.items():
        if _are_right(some, has_check_digits(module), least):
            yield what
    if _are_right(
        [text for text in some if _digits_of(text) >= _CARD], has_check_digits("luhn"), least
    ):
        yield "card numbers"


def has_check_digits(module: str) -> Callable[[str], bool]:
    """Whether a text is a number of that module of `stdnum`, by its check digits and its form."""

    def fits(text: str) -> bool:
        import stdnum  # where a column is of long numbers

        try:
            return bool(import_module(f".{module}", stdnum.__name__).is_valid(text))
        except (
            KeyError,
            ValueError,
            IndexError,
            TypeError,
        ):  # some trip over a place or a date that there is not
            return False

    return fits


def _digits_of(text: str) -> int:
    return sum(map(str.isdigit, text))


def _are_right(texts: Sequence[str], valid: Callable[[str], bool], least: float) -> bool:
    """Whether at least so many of the texts are valid; stops where they cannot be."""
    left, right = len(texts), 0
    for text in texts:
        if left + right < least:
            return False
        left, right = left - 1, right + valid(text)
    return right >= least


def _is_long(cells: Cells) -> bool:
    """Whether numbers are whole, and all have as many digits as nothing that is measured has."""
    numbers = cells.numbers(".")[cells.counts > 0]
    whole = numbers[np.isfinite(numbers)]
    if len(whole) < _LEAST or (whole != np.floor(whole)).any() or whole.min() <= 0:
        return False
    sizes = np.floor(np.log10(whole)) + 1
    return bool(np.median(sizes) >= _LONG and np.ptp(np.quantile(sizes, [0.1, 0.9])) <= 1)


def _is_chinese_id(text: str) -> bool:
    found = _CHINESE_ID.fullmatch(text)
    if found is None:
        return False
    try:
        date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return False
    return True


def _is_phone(text: str) -> bool:
    """Digits as people group them; two numbers with a dash between them are a range."""
    digits = sum(map(str.isdigit, text))
    return 7 <= digits <= 15 and bool(_PHONE.fullmatch(text)) and not _RANGE.fullmatch(text)


def _is_chinese_name(text: str) -> bool:
    return text[:1] in _SURNAMES and _PERSON.fullmatch(text) is not None


def _plain_digits(text: str) -> str:
    """The text with Arabic, Devanagari and other digits as ASCII has them."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


@cache
def _matching(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern, re.IGNORECASE if "jan|" in pattern else 0).fullmatch


def remedy(identifier: str) -> str:
    """What can be done about a column that `suspect` found, as settings of a scenario."""
    if identifier == COUNTS_ROWS:
        return "drop it (scenario.drop)"
    if "date" in identifier:
        return "drop it (scenario.drop), or keep the year alone (scenario.deidentify.years.NAME=1)"
    return "drop it (scenario.drop), or hash it with the site's key (scenario.deidentify.hash)"


def _counts_rows(cells: Cells) -> bool:
    """Whether whole numbers go up by one from row to row, or would if rows were in order."""
    if len(cells) <= 2 or cells.counts.max() > 1:
        return False
    numbers = cells.numbers(".")[cells.codes]
    measured = len(cells) <= _MANY_ROWS and 1 < numbers.min() < _NO_MEASURE
    in_order = measured or len(cells) <= _FEW_ROWS
    return bool((np.diff(numbers if in_order else np.sort(numbers)) == 1).all())


_GROUPED: Final = re.compile(r"[-+]?\d{1,3}([.,' \u2019\u00a0\u202f]\d{3})+([.,]\d+)?")


def groups_thousands(cells: Cells) -> bool:
    """Whether most cells are numbers with a sign between thousands, as 240.000 or 1 250,50.

    They are not read as numbers: 1.500 may be fifteen hundred or one and a half.
    """
    fits = [_GROUPED.fullmatch(text) is not None for text in cells.texts()]
    return int(cells.counts[fits].sum()) > len(cells) / 2
