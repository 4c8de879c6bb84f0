from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.data.wordpiece import WordPiece, words

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "aff", "!", "a", "##a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unaffable", ["un", "##aff", "##able"]),  # the example of BERT's own code
        ("UNAFFABLE!", ["un", "##aff", "##able", "!"]),
        ("Á á", ["a", "a"]),
        ("affx a", ["[UNK]", "a"]),
        ("a" * 100, ["a"] + ["##a"] * 99),
        ("a" * 101, ["[UNK]"]),
        ("", []),
        (" \n\t\u3000 ", []),
    ],
)
def test_encode__spells_words_by_their_longest_pieces(text: str, expected: list[str]) -> None:
    pieces = WordPiece(PIECES)
    found = [PIECES[i] for i in pieces.encode(text)]
    assert found == ["[CLS]", *expected, "[SEP]"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't stop", ["don", "'", "t", "stop"]),
        ("3.5% of US$5~", ["3", ".", "5", "%", "of", "us", "$", "5", "~"]),
        ("中文abc", ["中", "文", "abc"]),
        ("a\u200bb c\u00a0d\x00e", ["ab", "c", "de"]),
        ("naïve“quoted”", ["naive", "“", "quoted", "”"]),
    ],
)
def test_words__are_split_as_bert_does(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=40))
def test_words__of_ascii_are_the_same_on_the_quick_and_on_the_general_way(text: str) -> None:
    general = list(words(f"{text} é"))
    assert [*words(text), "e"] == general


def test_word_piece__needs_the_pieces_that_mean_something() -> None:
    with pytest.raises(ValueError, match=r"lacks \[CLS\], \[SEP\]"):
        WordPiece(["[PAD]", "[UNK]", "a"])


# Characters that were in Unicode long before either side's tables were made.
old = st.characters(max_codepoint=0x9FA5, exclude_categories=("Cn", "Cs", "Co"))


@given(st.text(alphabet=old, max_size=60))
@settings(deadline=None)
def test_encode__equals_the_tokenizers_library(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="an oracle that fedlearn[text] brings")
    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    oracle = tokenizers.BertWordPieceTokenizer(vocabulary, lowercase=True)
    assert WordPiece(PIECES).encode(text) == oracle.encode(text).ids
