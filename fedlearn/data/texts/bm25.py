"""BM25: documents ranked by the words that they share with a query; nothing is learned.

Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", with the
weights that search engines come with. What is rare, and how long a document usually is, is taken
from public documents alone: a record's place among them depends on that record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import Final

from fedlearn.data.texts.tokens import words

_K, _B = 1.2, 0.75
_SAME: Final = 1e-9
"""Scores that are no further apart are equal: they are sums in whatever order."""


class Bm25:
    """Ranks among `documents`, at least one of which has words."""

    def __init__(self, documents: Sequence[str]) -> None:
        self._bags = [Counter(words(text)) for text in documents]
        self._with = Counter(word for bag in self._bags for word in bag)
        self._usual = sum(bag.total() for bag in self._bags) / len(self._bags)

    def place(self, query: str, document: str) -> int:
        """Where `document` would stand, from 1 on, were it one of them; behind its equals."""
        asked = {word: self._rarity(word) for word in words(query)}
        own = self._score(asked, Counter(words(document)))
        return 1 + sum(self._score(asked, bag) > own - _SAME for bag in self._bags)

    def _rarity(self, word: str) -> float:
        there = self._with[word]
        return log(1 + (len(self._bags) - there + 0.5) / (there + 0.5))

    def _score(self, asked: Mapping[str, float], bag: Counter[str]) -> float:
        long = _K * (1 - _B + _B * bag.total() / self._usual)
        return sum(
            rarity * bag[word] * (_K + 1) / (bag[word] + long) for word, rarity in asked.items()
        )
