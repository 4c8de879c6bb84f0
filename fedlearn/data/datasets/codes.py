"""Scenario `codes`: phrases of diagnoses, to be filed under a chapter of ICD-10-CM.

The classification's own words (the US edition of April 2026): the description
of every code, and the terms that it says it includes; 59,576 different
phrases, 22 chapters. Phrases of one category (the first three characters of a
code) are close in wording and are never parted between training and test. It
is terminology, not clinical notes, and comes without sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from fedlearn.core.rng import Streams
from fedlearn.core.settings import Natural, Probability, config
from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.texts.documents import held_out_groups, numbered, pool_of
from fedlearn.data.texts.tokens import Tokenizer

CLASSES = tuple(f"{number:02d}" for number in range(1, 23))
SIZE = 59576

_MEMBER = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"


@config
class Codes(Scenario):
    """ICD-10-CM phrases; whole categories are held out for the test.

    `split` is which draw of test categories it is: the same for every seed of a
    run, so that no seed is tested on what settings were chosen with.
    """

    kind: Literal["codes"] = "codes"
    tells = "nothing"
    dataset = Dataset(
        records=SIZE,
        sites=(),
        classes=CLASSES,
        source="ICD-10-CM, US edition of April 2026: phrases and their chapters",
        archive=ARCHIVES["codes"],
    )
    test_fraction: Probability = 0.25
    split: Natural = 0
    tokenizer: Tokenizer = field(default_factory=lambda: Tokenizer(max_length=32))

    def load(self, reading: Reading) -> Pool:
        """The 59,576 phrases, fetched when they are not in the cache; they know their category."""
        phrases = phrases_in(reading.cache)
        classes, labels = numbered([phrase.chapter for phrase in phrases])
        categories = np.array([phrase.category for phrase in phrases])
        return pool_of(
            self.tokenizer,
            reading.cache,
            name="codes",
            texts=[phrase.text for phrase in phrases],
            classes=classes,
            labels=labels,
            is_train=~held_out_groups(categories, self.test_fraction, Streams(self.split)),
            attributes={"category": categories},
        )


@dataclass(frozen=True)
class Phrase:
    """Words for a diagnosis; its chapter by number and by title, and its category."""

    chapter: str
    title: str
    category: str
    text: str


def phrases_in(cache: Path) -> list[Phrase]:
    """All different phrases, each where it stands first."""
    root = ElementTree.fromstring(read_member(ARCHIVES["codes"], _MEMBER, cache))
    first: dict[str, Phrase] = {}
    for phrase in _phrases(root):
        first.setdefault(phrase.text, phrase)
    return list(first.values())


def _phrases(root: ElementTree.Element) -> Iterator[Phrase]:
    for chapter in root.iter("chapter"):
        number = f"{int(chapter.findtext('name', '')):02d}"
        title = chapter.findtext("desc", "").rpartition(" (")[0]  # without its codes
        for section in chapter.findall("section"):
            for code in section.iter("diag"):
                category = code.findtext("name", "")[:3]
                for text in _wordings(code):
                    yield Phrase(number, title, category, text)


def _wordings(code: ElementTree.Element) -> Iterator[str]:
    """The description of a code, then the terms that it includes."""
    kinds = ("desc", "inclusionTerm/note", "includes/note")
    for element in (element for kind in kinds for element in code.findall(kind)):
        if element.text:
            yield element.text
