"""WordPiece: a text as pieces of words out of a public list, as BERT and its kin read it.

The `tokenizers` library does it; here it is told what an uncased BERT asks for:
lower case, no accents, every punctuation mark and every CJK character by itself,
and a word spelled by the longest pieces of the list, from the left.

Sources: Wu et al. 2016, "Google's Neural Machine Translation System", section
4.1; Devlin et al. 2019, "BERT".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


class WordPiece:
    """A list of pieces; a piece's id is its place in the list.

    Raises:
        ValueError: one of the four pieces that mean something is missing.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        if missing := [p for p in (PADDING, UNKNOWN, START, END) if p not in pieces]:
            raise ValueError(f"the list lacks {', '.join(missing)}")
        self.pieces = tuple(pieces)
        self._tokenizer = _tokenizer(self.pieces)

    def id(self, piece: str) -> int:
        """The id of a piece of the list."""
        return self.pieces.index(piece)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, between those of `[CLS]` and `[SEP]`."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


def _tokenizer(pieces: Sequence[str]) -> Tokenizer:
    # Imported where it is used: nine runs of ten read no text.
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {piece: i for i, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing((END, ids[END]), (START, ids[START]))
    return made
