from __future__ import annotations

import pytest

from fedlearn.data.texts.pieces import WordPiece

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "aff", "!", "a", "##a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unaffable", ["un", "##aff", "##able"]),  # the example of BERT's own code
        ("UNAFFABLE!", ["un", "##aff", "##able", "!"]),
        ("Á á", ["a", "a"]),
        ("“a”中!", ["[UNK]", "a", "[UNK]", "[UNK]", "!"]),
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


def test_word_piece__needs_the_pieces_that_mean_something() -> None:
    with pytest.raises(ValueError, match=r"lacks \[CLS\], \[SEP\]"):
        WordPiece(["[PAD]", "[UNK]", "a"])
