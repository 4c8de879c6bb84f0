"""What `data check` says of odd files of texts is true, and its command reads them rightly.

`ODD_TEXTS=2000 pytest -n 0 -m slow` on this file tries two thousand of them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fedlearn.config import compose
from fedlearn.core.rng import Streams
from fedlearn.data import load_pool
from fedlearn.data.check.files import check
from fedlearn.data.check.report import Report
from fedlearn.data.texts.files import OwnText
from fedlearn.data.texts.tokens import Tokenizer, tokenize

from .odd import failing
from .odd_texts import OddTexts, drawn

HASHING = Tokenizer(kind="hashing", buckets=2**20, max_length=60)


def problems_of(odd: OddTexts) -> list[str]:
    """All that is untrue, or wrong, in what is said and read of a file."""
    report = check(odd.path)
    if report.kind != "texts":
        return [f"{report.kind or 'nothing'}: {report.problems}"]
    return [*_said(odd, report), *_read(odd, report)]


def _said(odd: OddTexts, report: Report) -> list[str]:
    wrong = [f"problem: {problem}" for problem in report.problems]
    if report.records != len(odd.records):
        wrong.append(f"{report.records} records, not {len(odd.records)}")
    for role, name in zip(("text", "label", "site"), odd.names, strict=True):
        own = [word for word in report.settings if word.startswith(f"scenario.{role}=")]
        given = [word.split("=", 1)[1].strip("'") for word in own]
        if given != ([name] if name else []):
            wrong.append(f"{role} {given}, not {name!r}")
    for what, place in (("no text", 0), (f"no {odd.names[1]!r}", 1)):
        lines = [n for n, record in zip(odd.lines, odd.records, strict=True) if not record[place]]
        said = [hint for hint in report.hints if f": {what}; left out" in hint]
        numbers = [int(n) for hint in said for n in re.findall(r"\d+", hint.split(":")[0])]
        if numbers != lines:
            wrong.append(f"{what}: {said}, not {lines}")
    return wrong


def _read(odd: OddTexts, report: Report) -> list[str]:
    tokens = [f"scenario.tokenizer.{key}={getattr(HASHING, key)}"
              for key in ("kind", "buckets", "max_length")]  # fmt: skip
    words = [word for word in report.settings if "tokenizer" not in word]
    scenario = compose([*words, *tokens, "model.pretrained=''", "privacy=none"]).scenario
    assert isinstance(scenario, OwnText)
    pool = load_pool(scenario, Streams(0), Path())
    texts, labels, sites = zip(*odd.usable, strict=True)
    wrong = []
    if len(pool) != len(texts):
        return [f"{len(pool)} records, not {len(texts)}"]
    if [pool.task.classes[one] for one in pool.labels] != [*labels]:
        wrong.append("classes")
    if odd.names[2] and (pool.natural_site is None or pool.natural_site.tolist() != [*sites]):
        wrong.append("sites")
    if (differ := (pool.features != tokenize(HASHING, texts, Path()).ids).any(1)).any():
        wrong.append(f"texts {differ.nonzero()[0][:5]}")
    if odd.alike != any("may be one" in note for note in pool.notes):
        wrong.append(f"classes that may be one: {pool.notes}")
    return wrong


def test_odd_texts__are_read_as_they_are_meant(tmp_path: Path) -> None:
    assert failing(drawn, problems_of, tmp_path, range(6)) == {}


@pytest.mark.slow
def test_odd_texts__by_the_hundred(tmp_path: Path) -> None:
    number = int(os.environ.get("ODD_TEXTS", "60"))
    assert failing(drawn, problems_of, tmp_path, range(1000, 1000 + number)) == {}
