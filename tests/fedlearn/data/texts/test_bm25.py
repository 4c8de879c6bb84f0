"""BM25 against its formula, written out."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fedlearn.data.texts.bm25 import Bm25

texts = st.lists(st.sampled_from(["ab", "cd", "ef", "gh"]), min_size=1, max_size=8).map(" ".join)


def score(query: list[str], document: list[str], public: list[list[str]]) -> float:
    """Robertson and Zaragoza 2009, equation 3.15, with k1 = 1.2 and b = .75."""
    usual, total = sum(map(len, public)) / len(public), 0.0
    for word in sorted(set(query)):
        holding = sum(word in other for other in public)
        rarity = math.log((len(public) - holding + 0.5) / (holding + 0.5) + 1)
        often = document.count(word)
        total += rarity * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * len(document) / usual))
    return total


@given(texts, texts, st.lists(texts, min_size=1, max_size=6))
def test_place__is_behind_all_that_score_as_much(
    query: str, document: str, public: list[str]
) -> None:
    known = [one.split() for one in public]
    own = score(query.split(), document.split(), known)
    before = sum(score(query.split(), one, known) > own - 1e-9 for one in known)
    assert Bm25(public).place(query, document) == 1 + before


def test_place__finds_words_of_scripts_without_spaces() -> None:
    public = ["保证 条款", "责任限制", "终止"]
    assert Bm25(public).place("适用法律", "本协议适用中国法律") == 1
    assert Bm25(public).place("适用法律", "Nothing of it") == 4
