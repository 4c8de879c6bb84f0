"""What stands in free text that says who somebody is, found by its value.

Only what is sure is found: a number by its check digits, in the form in which it is written or
after the word for it; a telephone by its form; a date of birth, and a number of a record, after the
words for these; a person's name after a title or the word for a name. So nearly all that is found
is right, and much is not found: a name by itself is a word like any other. Nothing found is no
proof that nothing is there.

What is counted and shown, masked, is for whoever owns the texts: nobody else is told.

Source: check digits by `python-stdnum`; card numbers, ISO/IEC 7812; IBAN, ISO 13616.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from fedlearn.data.tables.identifiers import has_check_digits
from fedlearn.data.tables.table import some_lines

_SHOWN: Final = 2
"""Examples of each kind."""


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Of one kind what was found: how often, in which of the texts, and masked examples."""

    kind: str
    times: int
    texts: tuple[int, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class _Rule:
    kind: str
    pattern: re.Pattern[str]
    right: Callable[[str], bool] | None = None
    numbers: bool = True
    """Whether there is no such thing without a digit."""


_DIGIT: Final = re.compile(r"\d")
_DATE: Final = (
    r"(?:\d{1,2}[./-]\d{1,2}[./-](?:\d{4}|\d\d)|\d{4}[./-]\d{1,2}[./-]\d{1,2}"
    r"|\d{4}年\d{1,2}月\d{1,2}日"
    r"|\d{1,2}\.? (?:de )?[^\W\d_]{3,10}\.?,? (?:de )?\d{4}|[A-Z][a-z]{2,8}\.? \d{1,2},? \d{4})"
)
_BORN: Final = (
    r"(?:\bborn(?: on)?|\bd\.?o\.?b\.?|date of birth|birth ?date|\bgeb(?:\.|oren)(?: am)?"
    r"|geburtsdatum|\bn[ée]e?(?:\(e\))? le|date de naissance|\bnacid[oa](?: el)?"
    r"|fecha de nacimiento|\bnat[oa] il|data di nascita|geboren op|geboortedatum"
    r"|data de nascimento|дата рождения|出生(?:日期|年月日)?|生年月日|생년월일)"
)
_RECORD: Final = (
    r"(?:\bmrn\b|medical record (?:no|number)|patient[ -]?(?:id|no|number)\b|\bhospital number"
    r"|fall(?:nummer|[ -]?nr)|patienten?-?(?:nummer|nr|id)|aktenzeichen|n[°º] (?:de )?dossier"
    r"|historia cl[ií]nica|\bnhc\b|cartella clinica|patiëntnummer|病历号|住院号|门诊号|病案号"
    r"|カルテ番号|患者番号|환자번호|номер карты)"
)
_NAMED: Final = r"[A-ZÀ-ÞŒŠŽ][\w'’-]+"
_TITLE: Final = r"(?:Mr|Mrs|Ms|Mme|Mlle|Herrn?|Frau|Sra?|Señora?|Sig|Signora?|Dhr|Mevr)"
_NAME: Final = (
    rf"\b{_TITLE}\b\.? (?:(?:Dr|Prof)\.? )*{_NAMED}(?: (?:van |von |de |del |di )?{_NAMED})?"
    rf"|(?i:\b(?:patient|name|nom|nombre|nome|naam)): *(?-i:{_NAMED} {_NAMED})"
    r"|(?:姓名|患者|氏名)[:：] *[\u4e00-\u9fff]{2,4}|[\u4e00-\u9fff](?:先生|女士|小姐)"
)
_AFTER: Final = r"[\s:#.°º=：]{0,4}(?:no\.?|nr\.?|number|is)?[\s:#.]{0,3}"
_SPACED: Final = r"(?:[ .-]?\d)"
_CALLS: Final = (
    r"(?i:\b(?:tel|telefon|phone|mobile|mobil|handy|fax|téléphone|tél|teléfono)\b"
    r"|电话|手机|電話|전화)[\s:.：]{0,3}"
)
_PHONES: Final = (
    r"(?<![\w+])(?<!\d )(?:\+|00)[1-9]\d{0,2}[ ./-]?(?:\(0\) ?)?\d(?:[ ./()-]{0,2}\d){5,12}(?!\w)"
)
_MAIL: Final = (  # beginning where a word does, so that a long one is looked at once
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[^\W\d_]{2,24}"
)
_IBAN: Final = r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"
_CARD: Final = r"(?<![\d.-])[3-6]\d{3}[ -]?\d{4,6}[ -]?\d{4,5}(?:[ -]?\d{1,4})?(?![\d.-])"
_FRENCH: Final = r"(?<!\d)[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?!\d)"
_ITALIAN: Final = r"\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b"
_GERMAN: Final = r"steuer-?(?:id(?:entifikationsnummer)?|nr|nummer)|\bidnr\b"
_CODE: Final = r"(?P<value>(?=[\w/-]{0,40}\d{3})[\w/-]{4,20})"


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return len({*digits}) > 1 and has_check_digits("luhn")(digits)


def _is_phone(text: str) -> bool:
    return 8 <= sum(map(str.isdigit, text)) <= 15


def _rule(kind: str, pattern: str, right: Callable[[str], bool] | None = None) -> _Rule:
    return _Rule(kind, re.compile(pattern), right)


def _words(kind: str, pattern: str) -> _Rule:
    return _Rule(kind, re.compile(pattern), numbers=False)


def _after(kind: str, words: str, pattern: str, module: str) -> _Rule:
    """A number whose check digits are too weak by themselves, after the word for it."""
    return _rule(kind, rf"(?i:{words}){_AFTER}(?P<value>{pattern})", has_check_digits(module))


@cache
def _rules() -> tuple[_Rule, ...]:
    """Those of more signs first: what one has found is no other's."""
    return (*_by_form(), *_by_word(), *_loosest())


def _by_form() -> Iterator[_Rule]:
    """What is written as nothing else is, or has strong check digits."""
    yield _words("e-mail addresses", _MAIL)
    yield _rule("account numbers (IBAN)", _IBAN, has_check_digits("iban"))
    yield _rule("dates of birth", rf"(?i:{_BORN})[\s:：]{{0,3}}(?P<value>{_DATE})")
    yield _rule("medical record numbers", rf"(?i:{_RECORD}){_AFTER}{_CODE}")
    china = r"(?<![A-Za-z0-9])[1-9]\d{16}[\dXx](?![A-Za-z0-9])"
    yield _rule("identity numbers (China)", china, has_check_digits("cn.ric"))
    yield _rule(
        "identity numbers (Korea)", r"(?<!\d)\d{6}-[1-8]\d{6}(?!\d)", has_check_digits("kr.rrn")
    )
    yield _rule("tax codes (Italy)", _ITALIAN, has_check_digits("it.codicefiscale"))
    mexico = r"\b[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d\b"
    yield _rule("identity codes (Mexico)", mexico, has_check_digits("mx.curp"))
    yield _rule(
        "tax numbers (Brazil)", r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b", has_check_digits("br.cpf")
    )
    swiss = r"\b756\.\d{4}\.\d{4}\.\d{2}\b"
    yield _rule("social insurance numbers (Switzerland)", swiss, has_check_digits("ch.ssn"))
    spain = r"\b(?:\d{8}|[XYZ]\d{7})-?[A-Z]\b"
    yield _rule("identity numbers (Spain)", spain, has_check_digits("es.nif"))
    yield _rule("social insurance numbers (France)", _FRENCH, has_check_digits("fr.nir"))
    yield _rule(
        "identity numbers (Finland)", r"\b\d{6}[-+A]\d{3}[0-9A-Y]\b", has_check_digits("fi.hetu")
    )
    states = r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"
    yield _rule("social security numbers (US)", states, has_check_digits("us.ssn"))


def _by_word() -> Iterator[_Rule]:
    """Numbers that one in ten or so would be by chance, after the words for them."""
    yield _after("identity numbers (Poland)", r"pesel", r"\d{11}", "pl.pesel")
    dutch = r"\bbsn\b|burgerservicenummer"
    yield _after("citizen numbers (Netherlands)", dutch, rf"\d{_SPACED}{{8}}", "nl.bsn")
    yield _after("tax numbers (Germany)", _GERMAN, rf"\d{_SPACED}{{10}}", "de.idnr")
    yield _after("health service numbers (England)", r"\bnhs\b", rf"\d{_SPACED}{{9}}", "gb.nhs")
    yield _after("social insurance numbers (Canada)", r"\bsin\b", rf"\d{_SPACED}{{8}}", "ca.sin")
    yield _after("identity numbers (India)", r"aadhaa?r", rf"\d{_SPACED}{{11}}", "in_.aadhaar")
    yield _after("tax numbers (Russia)", r"\bинн\b", r"\d{10,12}", "ru.inn")
    yield _after("identity numbers (Turkey)", r"kimlik|tckn", r"\d{11}", "tr.tckimlik")
    japan = r"マイナンバー|個人番号"
    yield _after("identity numbers (Japan)", japan, rf"\d{_SPACED}{{11}}", "jp.in_")


def _loosest() -> Iterator[_Rule]:
    """What the others may hold a part of."""
    yield _rule("card numbers", _CARD, _is_card)
    yield _rule("telephone numbers", _PHONES, _is_phone)
    yield _rule("telephone numbers", r"(?<!\d)1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)")
    american = r"(?<![\d-])\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[.-]\d{4}(?![\d-])"
    yield _rule("telephone numbers", american)
    called = rf"{_CALLS}(?P<value>\(?\d(?:[ ./()-]{{0,2}}\d){{5,13}})"
    yield _rule("telephone numbers", called, _is_phone)
    yield _words("persons' names, after a title or the word for it", _NAME)


def search(texts: Sequence[str]) -> list[Traces]:
    """What is found in texts, by kind, in the order of the rules."""
    times: dict[str, int] = {}
    places: dict[str, dict[int, None]] = {}
    examples: dict[str, dict[str, None]] = {}
    for place, text in enumerate(texts):
        for kind, value in _in(text):
            times[kind] = times.get(kind, 0) + 1
            places.setdefault(kind, {})[place] = None
            examples.setdefault(kind, {}).setdefault(masked(value))
    return [
        Traces(kind=kind, times=n, texts=tuple(places[kind]), examples=(*examples[kind],)[:_SHOWN])
        for kind, n in times.items()
    ]


def _in(text: str) -> Iterator[tuple[str, str]]:
    """Each thing found in a text: its kind, and what it is; nothing is found twice."""
    taken: list[tuple[int, int]] = []
    written = _DIGIT.search(text) is not None
    for rule in _rules():
        if rule.numbers and not written:
            continue
        for found in rule.pattern.finditer(text):
            group = "value" if "value" in found.groupdict() else 0
            start, end = found.span(group)
            at = bisect(taken, (start, end))  # those that are taken lie one after the other
            if any(start < last and first < end for first, last in taken[max(at - 1, 0) : at + 1]):
                continue
            if rule.right is None or rule.right(found[group]):
                taken.insert(at, (start, end))
                yield rule.kind, found[group]


def masked(value: str) -> str:
    """The form of a value without its letters and digits: `****.***@****.**`."""
    return re.sub(r"\w", "*", value)


def sentences(
    found: Sequence[Traces], lines: Sequence[int], counted: str = "line"
) -> Iterator[str]:
    """What is said of what was found, for the owner of the texts, which are on `lines`."""
    for one in found:
        places = some_lines([lines[place] for place in one.texts], counted)
        yield (
            f"{places}: {one.kind} in the text, {one.times:,} in all (as "
            f"{' and '.join(one.examples)}); a model may repeat them: take them out, or put a word "
            "in their place, before it is trained"
        )
