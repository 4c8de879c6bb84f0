"""How texts become numbers: the same public tokenizer at every site.

A tokenizer here never looks at records. A vocabulary that is computed from
private texts tells which words are in them: it is a release that no accountant
sees. So there is a hash of words, which needs no list, and a list of pieces
that was made public by others (`fedlearn.data.texts.pieces`).
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedlearn.core.settings import Count, Name, config
from fedlearn.data.datasets.minilm import MINILM
from fedlearn.data.texts.pieces import pieces_of
from fedlearn.tasks import TextInput

_PAD, _START = 0, 1
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
"""Letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[^\w\s]|_")


@config
class Tokenizer:
    """The pieces of a text, in order, as numbers; what is longer than `max_length` is cut off.

    `wordpiece` spells words by the pieces of a public list: `vocabulary` is
    `minilm` (of the pinned archive), or the folder of a model, whose own
    tokenizer is read (`tokenizer.json`, or a BERT's `vocab.txt`). `hashing`
    numbers whole words by a hash and needs no list: two words share a number
    with chance 1/`buckets`.
    """

    kind: Literal["wordpiece", "hashing"] = "wordpiece"
    vocabulary: Name = MINILM
    buckets: Count = 16384
    max_length: Annotated[int, Ge(2)] = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """`ids: int64[n, max_length]`, what they mean, how many texts were `cut` short, and which share
    of all pieces the list does not have (0 without a list)."""

    ids: NDArray[np.int64]
    shape: TextInput
    cut: int
    unknown: float = 0.0


def tokenize(config: Tokenizer, texts: Sequence[str], cache: Path) -> Tokens:
    """The ids of every text, padded at the end.

    **Guarantees:** the ids of a text depend on that text alone; each has at
    least one, also where it is empty.

    Raises:
        DataError: the list of pieces cannot be read, or is not one.
    """
    strange: int | None = None
    match config.kind:
        case "hashing":
            found = [_hashed(text, config.buckets) for text in texts]
            shape = TextInput(vocabulary=config.buckets + 2, max_length=config.max_length)
        case "wordpiece":
            pieces = pieces_of(config.vocabulary, cache)
            found, strange = [pieces.encode(text) for text in texts], pieces.unknown_id
            shape = TextInput(
                vocabulary=pieces.size,
                max_length=config.max_length,
                pad_id=pieces.pad_id,
                tokenizer=config.vocabulary,
            )
    ids = np.full((len(texts), config.max_length), shape.pad_id, np.int64)
    for row, own in zip(ids, found, strict=True):
        kept = own[: config.max_length]
        row[: len(kept)] = kept
    # Of what is between the two marks at the ends of a text.
    inside = max(1, sum(len(own) - 2 for own in found))
    return Tokens(
        ids=ids,
        shape=shape,
        cut=sum(len(own) > config.max_length for own in found),
        unknown=sum(own.count(strange) for own in found) / inside if strange is not None else 0.0,
    )


def words(text: str) -> list[str]:
    """The words of a text, lower case and without accents; every other character by itself, as
    are the letters of scripts that put no spaces between words."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return _WORD.findall("".join(c for c in decomposed if unicodedata.category(c) != "Mn"))


def units(text: str) -> int:
    """How many words a text has; of scripts without spaces two letters are one, and of symbols, as
    emoji are, each."""
    letters = len(_UNSPACED_LETTER.findall(text))
    symbols = sum(unicodedata.category(c) == "So" for c in text) if not text.isascii() else 0
    return max(len(text.split()), letters // 2 + symbols)


def _hashed(text: str, buckets: int) -> list[int]:
    return [_START, *(_START + 1 + zlib.crc32(word.encode()) % buckets for word in words(text))]
