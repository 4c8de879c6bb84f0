"""What says who somebody is in a text is found by its value, counted, and masked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.data.check.files import check
from fedlearn.data.tables.identifiers import has_check_digits
from fedlearn.data.texts.files import OwnText
from fedlearn.data.texts.personal import masked, search, sentences
from fedlearn.data.texts.tokens import Tokenizer

from ....effort import examples
from ..reading import loaded

MADE = [
    ("e-mail addresses", "write to anna.b@clinic.example.org today"),
    ("account numbers (IBAN)", "pay DE89 3704 0044 0532 0130 00 soon"),
    ("account numbers (IBAN)", "to GB82WEST12345698765432."),
    ("dates of birth", "a man, born on 3 May 1961, came"),
    ("dates of birth", "Pat. geb. 03.05.1961 stellt sich vor"),
    ("dates of birth", "出生日期：1961-05-03"),
    ("medical record numbers", "MRN: 00451278 was opened"),
    ("medical record numbers", "住院号：20210345"),
    ("identity numbers (China)", "身份证11010519491231002X已核对"),
    ("identity numbers (Spain)", "con DNI 12345678Z vino"),
    ("tax codes (Italy)", "codice RSSMRA80A01H501U noto"),
    ("tax numbers (Brazil)", "CPF 111.444.777-35 conferido"),
    ("social insurance numbers (Switzerland)", "AHV 756.9217.0769.85 lautet"),
    ("social security numbers (US)", "his SSN 536-90-4399 is"),
    ("identity numbers (Poland)", "PESEL 44051401359 podano"),
    ("health service numbers (England)", "NHS number 943 476 5919 noted"),
    ("card numbers", "card 4111 1111 1111 1111 was charged"),
    ("telephone numbers", "call +49 30 901820 or come"),
    ("telephone numbers", "电话：010-62751234"),
    ("telephone numbers", "手机13812345678联系"),
    ("telephone numbers", "or (212) 555-0142 at night"),
    ("persons' names, after a title or the word for it", "Herr Dr. Müller sah ihn"),
    ("persons' names, after a title or the word for it", "Patient: John Smith came"),
    ("persons' names, after a title or the word for it", "由张先生陪同"),
]


@pytest.mark.parametrize(("kind", "text"), MADE)
def test_search__finds_each_kind_once_and_shows_none_of_it(kind: str, text: str) -> None:
    (found,) = search(["nothing here", text])
    assert (found.kind, found.times, found.texts) == (kind, 1, (1,))
    assert not re.search(r"\w", found.examples[0].replace("*", ""))
    (sentence,) = sentences([found], [4, 7])
    assert sentence.startswith(f"line 7: {kind}")


@pytest.mark.parametrize(
    "text",
    [
        "pressure 120/80, pulse 72, 37.2 degrees, on 12.03.2021 and 2021-03-12",
        "order 20210312 of 1.250.000 pieces, version 3.14.159, 10.0.0.1",
        "DNI 12345678A, card 4111 1111 1111 1112, DE89 3704 0044 0532 0130 01",
        "MRI of the head; the record is long; he was born in Berlin; name: unknown",
        "12345678901 12345678901234567 999-99-9999 000-12-3456",
        "ICD-10 C50.9, ATC N02BE01, ISBN 978-3-16-148410-0, section 102-13-4567a",
        "patient no show; Patient No better; see Fig. 12345",
        "先生说很好，女士优先",
    ],
)
def test_search__takes_no_measure_code_or_date_for_somebody(text: str) -> None:
    assert search([text]) == []


@settings(max_examples=examples(150), deadline=None)
@given(st.integers(0, 10**10 - 1), st.sampled_from(["de.idnr", "nl.bsn", "in_.aadhaar", "cn.ric"]))
def test_search__wants_right_check_digits(number: int, module: str) -> None:
    word = {"de.idnr": "Steuer-ID", "nl.bsn": "BSN", "in_.aadhaar": "Aadhaar", "cn.ric": ""}[module]
    size = {"de.idnr": 11, "nl.bsn": 9, "in_.aadhaar": 12, "cn.ric": 18}[module]
    text = str(number).rjust(size, "1")[-size:]
    valid = has_check_digits(module)(text)
    kinds = [one.kind for one in search([f"{word} {text}"])]
    loose = ("card numbers", "telephone numbers")
    assert any(kind not in loose for kind in kinds) == valid


@settings(max_examples=examples(100), deadline=None)
@given(st.text(max_size=80))
def test_search__takes_any_text(text: str) -> None:
    for one in search([text, text]):
        assert one.times >= 2
    assert len(masked(text)) == len(text)


@pytest.mark.parametrize("word", ["aktenzeichen", "Mr "])
def test_search__takes_time_as_a_text_is_long(word: str) -> None:
    """Nobody who writes a record has its owner wait for hours."""
    began = process_time()
    search([word * (200_000 // len(word)) + " 1"])
    assert process_time() - began < 10  # a hundred seconds where it grows by the square


def test_texts__with_people_in_them_are_said_by_check_and_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["the", "claim", "was", "paid", "after", "a", "second", "letter", "had", "come", "in"]
    rows = [
        {"text": f"{' '.join(rng.permutation(words))} {i}", "label": "ab"[i % 2]} for i in range(60)
    ]
    rows[7]["text"] += " call +49 30 901820"
    rows[9]["text"] += " or +49 30 901821, a@b.example"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    hints = [hint for hint in check(path).hints if "a model may repeat them" in hint]
    assert [hint.split(" in the text, ")[0] for hint in hints] == [
        "lines 8, 10: telephone numbers", "line 10: e-mail addresses",
    ]  # fmt: skip
    assert not any("901820" in hint for hint in hints)
    pool = loaded(OwnText(path=str(path), label="label", tokenizer=Tokenizer(kind="hashing")))
    assert sum("a model may repeat them" in note for note in pool.notes) == 2


@pytest.mark.parametrize("form", ["csv", "jsonl", "messages"])
def test_language__with_people_in_it_is_said(tmp_path: Path, form: str) -> None:
    rows = [(f"what of {i}?", f"an answer with words, number {i}") for i in range(20)]
    rows[3] = ("who?", "Herr Müller, geb. 03.05.1961")
    path = tmp_path / ("a.csv" if form == "csv" else "a.jsonl")
    if form == "csv":
        path.write_text("prompt,completion\n" + "".join(f'{a},"{b}"\n' for a, b in rows))
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in rows))
    else:
        path.write_text("".join(
            json.dumps({"messages": [{"role": "user", "content": a},
                                     {"role": "assistant", "content": b}]}) + "\n"
            for a, b in rows))  # fmt: skip
    hints = [hint for hint in check(path).hints if "a model may repeat them" in hint]
    line = 5 if form == "csv" else 4
    assert len(hints) == 2
    assert all(hint.startswith(f"line {line}: ") for hint in hints)
