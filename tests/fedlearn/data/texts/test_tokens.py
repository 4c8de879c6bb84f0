from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.data.texts.documents import held_out_groups, numbered, pool_of
from fedlearn.data.texts.tokens import Tokenizer, tokenize, words

HASHING = Tokenizer(kind="hashing", buckets=50, max_length=4)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "term", "##ination"]


def folder(where: Path, pieces: list[str] = PIECES, **more: str) -> Tokenizer:
    (where / "vocab.txt").write_text("\n".join(pieces))
    for name, content in more.items():
        (where / f"{name}.json").write_text(content)
    return Tokenizer(vocabulary=str(where), max_length=5)


def test_tokenize__hashes_words_and_pads_at_the_end(tmp_path: Path) -> None:
    found = tokenize(HASHING, ["One two", "two ONE!", ""], tmp_path)
    one, two = found.ids[0, 1:3]
    assert found.ids.dtype == np.int64
    assert found.ids[0].tolist() == [1, one, two, 0]
    assert found.ids[1].tolist()[:3] == [1, two, one]
    assert found.ids[2].tolist() == [1, 0, 0, 0]
    assert one != two
    assert (found.shape.vocabulary, found.shape.tokenizer, found.cut) == (52, "", 0)
    assert found.ids.max() < found.shape.vocabulary


def test_tokenize__of_a_text_does_not_depend_on_the_others(tmp_path: Path) -> None:
    alone = tokenize(HASHING, ["a clause"], tmp_path).ids[0]
    among = tokenize(HASHING, ["b c d", "a clause", "a clause"], tmp_path).ids
    assert np.array_equal(among[1], alone)
    assert np.array_equal(among[2], alone)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't stop", ["don", "'", "t", "stop"]),
        ("3.5% of US$5~", ["3", ".", "5", "%", "of", "us", "$", "5", "~"]),
        ("snake_case", ["snake", "_", "case"]),
        ("naïve “quoted”\u00a0É", ["naive", "“", "quoted", "”", "e"]),
    ],
)
def test_words__are_lower_case_without_accents(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_tokenize__takes_a_public_list_of_a_folder(tmp_path: Path) -> None:
    config = folder(tmp_path)
    found = tokenize(config, ["Termination other"], tmp_path)
    assert found.ids[0].tolist() == [2, 4, 5, 1, 3]
    assert found.shape.tokenizer == str(tmp_path)
    assert found.shape.vocabulary == 6


def test_pool__says_how_many_texts_were_too_long(tmp_path: Path) -> None:
    documents = partial(
        pool_of,
        cache=tmp_path,
        name="mine",
        texts=["a", "a b c d e", "a b c d e f"],
        classes=("x", "y"),
        labels=np.array([0, 1, 1]),
        is_train=np.array([True, True, False]),
    )
    pool = documents(HASHING)
    assert pool.notes == (
        "mine: 2 of 3 texts are longer than scenario.tokenizer.max_length=4 and were cut off there",
    )
    assert np.array_equal(pool.features[1], pool.features[2])
    assert documents(replace(HASHING, max_length=9)).notes == ()


def test_tokenize__refuses_what_is_no_list_of_pieces(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocab\.txt: cannot be read"):
        tokenize(Tokenizer(vocabulary=str(tmp_path / "none")), ["a"], tmp_path)
    with pytest.raises(DataError, match=r"lacks \[UNK\]"):
        tokenize(folder(tmp_path, ["[PAD]", "[CLS]", "[SEP]"]), ["a"], tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe")
    with pytest.raises(DataError, match="not a list of WordPiece"):
        tokenize(Tokenizer(vocabulary=str(tmp_path)), ["a"], tmp_path)


def test_numbered__puts_labels_in_order() -> None:
    classes, labels = numbered(["b", "a", "b"])
    assert classes == ("a", "b")
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5])
def test_held_out_groups__are_whole_and_drawn_each_by_itself(fraction: float) -> None:
    groups = np.random.default_rng(0).integers(0, 2000, 9000).astype(str)
    held = held_out_groups(groups, fraction, Streams(0))
    assert not set(groups[held]) & set(groups[~held])
    assert held.mean() == pytest.approx(fraction, abs=0.03)
    fewer = held_out_groups(groups[3000:], fraction, Streams(0))
    assert np.array_equal(fewer, held[3000:])
    assert not np.array_equal(held_out_groups(groups, 0.5, Streams(1)), held)
