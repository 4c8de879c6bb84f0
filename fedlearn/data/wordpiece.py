"""WordPiece: a text as pieces of words out of a public list, as BERT and its kin read it.

A word that is not in the list is spelled by the longest pieces that are, from
the left; pieces inside a word begin with `##`. Splitting into words is that of
BERT's uncased models: lower case, no accents, every punctuation mark and every
CJK character by itself.

Sources: Wu et al. 2016, "Google's Neural Machine Translation System", section
4.1; Devlin et al. 2019, "BERT".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PADDING, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"

_LONGEST_WORD = 100  # characters; longer ones are [UNK], as in BERT
_ASCII_WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_ASCII_CONTROLS = dict.fromkeys(set(range(32)) - {9, 10, 13} | {127})
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True, eq=False)
class WordPiece:
    """A list of pieces; a piece's id is its place in the list.

    Raises:
        ValueError: one of the four pieces that mean something is missing.
    """

    pieces: Sequence[str]
    _ids: dict[str, int] = field(init=False, repr=False)
    _known: dict[str, tuple[int, ...]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        ids = {piece: i for i, piece in enumerate(self.pieces)}
        if missing := [p for p in (PADDING, UNKNOWN, START, END) if p not in ids]:
            raise ValueError(f"the list lacks {', '.join(missing)}")
        object.__setattr__(self, "_ids", ids)

    def id(self, piece: str) -> int:
        """The id of a piece of the list."""
        return self._ids[piece]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, between those of `[CLS]` and `[SEP]`."""
        found = [self._ids[START]]
        for word in words(text):
            if word not in self._known:
                self._known[word] = tuple(self._spell(word))
            found += self._known[word]
        return [*found, self._ids[END]]

    def _spell(self, word: str) -> list[int]:
        start, found = 0, []
        while start < len(word) <= _LONGEST_WORD:
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self._ids), None)
            if end is None:
                return [self._ids[UNKNOWN]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found or [self._ids[UNKNOWN]]


def words(text: str) -> Iterator[str]:
    """The words of a text in lower case and without accents; punctuation and CJK one by one."""
    if text.isascii():  # a quarter of the time, and nearly all texts
        yield from _ASCII_WORD.findall(text.translate(_ASCII_CONTROLS).lower())
        return
    plain = "".join(_spaced(character) for character in text)
    for word in plain.split():
        bare = "".join(
            c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn"
        )
        start = 0
        for i, character in enumerate(bare):
            if _is_punctuation(character):
                yield from (part for part in (bare[start:i], character) if part)
                start = i + 1
        if start < len(bare):
            yield bare[start:]


def _spaced(character: str) -> str:
    """A character as it is, between spaces, as a space, or left out."""
    if character in "\t\n\r" or unicodedata.category(character) == "Zs":
        return " "
    code = ord(character)
    if code in (0, 0xFFFD) or unicodedata.category(character).startswith("C"):
        return ""
    return f" {character} " if any(low <= code <= high for low, high in _CJK) else character


def _is_punctuation(character: str) -> bool:
    if character.isascii():  # also what Unicode calls a symbol
        return _ASCII_WORD.fullmatch(character) is not None and not character.isalnum()
    return unicodedata.category(character).startswith("P")
