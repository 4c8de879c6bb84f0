"""Scenario `answering`: public texts with a label each as prompts, the label's words as answers.

What scenarios `codes` and `news` have as classes is said in words here: the title of a
diagnosis's chapter, the topic of a story. A language model answers, where others choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.rng import Streams
from fedlearn.core.settings import Natural, Probability, config
from fedlearn.data.datasets.codes import phrases_in
from fedlearn.data.datasets.news import stories_in
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.data.texts.documents import held_out_groups
from fedlearn.data.texts.language import (
    LanguageTokens,
    Passage,
    Span,
    language_pool,
    open_encoder,
)
from fedlearn.data.texts.passages import OwnPassages

TOPICS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "acq": "mergers and acquisitions",
        "crude": "crude oil",
        "earn": "earnings",
        "grain": "grain",
        "interest": "interest rates",
        "money-fx": "foreign exchange",
        "ship": "shipping",
        "trade": "trade",
    }
)
_WORDS: Final = 70
"""Of a story: it begins with what matters, and of a prompt the beginning would be left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    passages: list[Passage]
    is_train: NDArray[np.bool_]


@config
class Answering(Scenario):
    """Diagnoses (`codes`) or stories (`news`), at most `limit` of them, with answers in words.

    `test_fraction` and `split` are of diagnoses alone: stories have a published split.
    """

    kind: Literal["answering"] = "answering"
    tells = "nothing"
    of: Literal["codes", "news"] = "codes"
    limit: Natural = 0
    """For a quick try: so many records, drawn; 0: all."""
    test_fraction: Probability = 0.25
    split: Natural = 0
    tokenizer: LanguageTokens = field(default_factory=LanguageTokens)

    @property
    def canary(self) -> str:
        """A diagnosis or a story of somebody with a number."""
        return f"{_SETS[self.of].who}: {{name}}\nNumber: "

    def load(self, reading: Reading) -> Pool:
        """The records, fetched when they are not in the cache; they come without sites."""
        asked = _SETS[self.of].asked(self, reading.cache)
        rows = np.arange(len(asked.passages))
        if 0 < self.limit < len(rows):
            rng = Streams(self.split).get("answering")
            rows = np.sort(rng.choice(rows, self.limit, replace=False))
        return language_pool(
            self.tokenizer,
            open_encoder(self.tokenizer, reading.cache),
            [asked.passages[row] for row in rows],
            name=self.of,
            is_train=asked.is_train[rows],
        )

    def as_passages(self) -> OwnPassages:
        """Phrases or stories as prompts."""
        return OwnPassages(path="-", tokenizer=self.tokenizer)

    def as_prompt(self, text: str) -> str:
        """A phrase or a story, and what is asked of it."""
        known = _SETS[self.of]
        return text if text.endswith(f"\n{known.question}:") else known.prompt(text)

    def as_answer(self, text: str) -> str:
        """After a blank."""
        return _answer(text.strip())

    def public_prompts(self) -> tuple[str, ...]:
        """Such as anybody could write."""
        return _SETS[self.of].public

    def options(self, cache: Path) -> tuple[str, ...]:
        """The titles of all chapters, or all topics."""
        return _SETS[self.of].options(cache)


@dataclass(frozen=True, kw_only=True)
class _Set:
    """What is asked, of what; `before` stands before it."""

    asked: Callable[[Answering, Path], _Asked]
    options: Callable[[Path], tuple[str, ...]]
    before: str = ""
    words: int | None = None
    question: str
    who: str
    """Whose records they are."""
    public: tuple[str, ...]

    def prompt(self, text: str) -> str:
        """With no more words than records have."""
        kept = text if self.words is None else " ".join(text.split()[: self.words])
        return f"{self.before}{kept}\n{self.question}:"

    def passage(self, text: str, answer: str) -> Passage:
        """A record."""
        return Span(self.prompt(text)), Span(_answer(answer), learned=True)


def _answer(text: str) -> str:
    return f" {text}"


def _of_codes(settings: Answering, cache: Path) -> _Asked:
    phrases = phrases_in(cache)
    categories = np.array([phrase.category for phrase in phrases])
    held_out = held_out_groups(categories, settings.test_fraction, Streams(settings.split))
    passages = [_SETS["codes"].passage(one.text, one.title) for one in phrases]
    return _Asked(passages=passages, is_train=~held_out)


def _of_news(_: Answering, cache: Path) -> _Asked:
    stories, is_train = stories_in(cache)
    passages = [_SETS["news"].passage(text, TOPICS[topic]) for topic, text in stories]
    return _Asked(passages=passages, is_train=is_train)


_SETS: Final[Mapping[str, _Set]] = MappingProxyType(
    {
        "codes": _Set(
            asked=_of_codes,
            options=lambda cache: tuple(dict.fromkeys(one.title for one in phrases_in(cache))),
            before="Diagnosis: ",
            question="Chapter",
            who="Patient",
            public=("ringing in both ears for a week", "broken wrist after a fall on ice"),
        ),
        "news": _Set(
            asked=_of_news,
            options=lambda _: tuple(TOPICS.values()),
            words=_WORDS,
            question="Topic",
            who="Customer",
            public=(
                "Producers agreed to pump fewer barrels a day, and the price rose by a dollar.",
                "The bank left its lending rate where it was and pointed to slower growth.",
            ),
        ),
    }
)
