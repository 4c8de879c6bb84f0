"""Texts in any script have words; pieces that a list lacks are said, and too many refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.core.errors import DataError
from fedlearn.data.check.files import check
from fedlearn.data.texts.files import OwnText
from fedlearn.data.texts.tokens import Tokenizer, tokenize, units, words

from ..inputs import given as file_given
from ..reading import loaded

CHINESE = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=12)


@given(CHINESE)
def test_words__of_a_script_without_spaces_are_its_letters(text: str) -> None:
    assert words(text) == [*text]
    assert units(text) == max(len(text) // 2, bool(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Rücken, 3mg 服用后", ["rucken", ",", "3mg", "服", "用", "后"]),
        ("パン です", ["ハ", "ン", "て", "す"]),
        ("한국어 텍스트", None),  # Korean puts spaces between words
        ("one_two", ["one", "_", "two"]),
    ],
)
def test_words__of_mixed_texts(text: str, found: list[str] | None) -> None:
    got = words(text)
    assert got == found if found else len(got) == 2


def vocabulary(folder: Path, pieces: list[str]) -> Tokenizer:
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]
    (folder / "vocab.txt").write_text("\n".join(lines))
    return Tokenizer(vocabulary=str(folder), max_length=8)


@given(st.lists(st.sampled_from(["a", "b", "ቃ", "ል"]), max_size=20))
def test_unknown__is_the_share_of_pieces_that_the_list_lacks(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    found = tokenize(vocabulary(folder, ["a", "b"]), [" ".join(parts), ""], folder)
    strange = sum(part not in "ab" for part in parts)
    assert found.unknown == pytest.approx(strange / max(1, len(parts)))
    assert tokenize(Tokenizer(kind="hashing"), [" ".join(parts)], folder).unknown == 0


@pytest.mark.parametrize(("strange", "said"), [(0, 0), (10, 1), (30, 2)])
def test_texts__that_a_list_does_not_know_are_said_and_then_refused(
    tmp_path: Path, strange: int, said: int
) -> None:
    tokenizer = vocabulary(tmp_path, ["a", "b"])
    path = tmp_path / "texts.csv"
    rows = [f"{'ቃ' if i < strange else 'a'} b {i % 7 * 'a '},{'yn'[i % 2]}" for i in range(60)]
    path.write_text("text,label\n" + "\n".join(rows))
    scenario = OwnText(path=str(path), label="label", tokenizer=tokenizer)
    shares = tokenize(tokenizer, [row.split(",")[0] for row in rows], tmp_path).unknown
    if said == 2:
        path.write_text(path.read_text().replace(" b ", " ል "))
        with pytest.raises(DataError, match=r"kind=hashing model\.pretrained=''"):
            loaded(scenario)
    else:
        notes = [note for note in loaded(scenario).notes if "tokenizer's list" in note]
        assert len(notes) == (shares > 0.05)


@pytest.mark.parametrize("name", ["zh.csv", "zh.jsonl", "am.csv", "emoji.csv"])
def test_given_texts__are_texts_whatever_their_script(name: str) -> None:
    path = file_given(name)
    report = check(path)
    assert report.kind == "texts"
    assert report.texts[0] == "text"
    assert not report.problems
    hashed = OwnText(path=str(path), label="label", tokenizer=Tokenizer(kind="hashing"))
    features = loaded(hashed).features
    assert np.median((features > 1).sum(axis=1)) > 3  # not each text one word
