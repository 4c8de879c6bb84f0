"""Scenario `drafting`: clauses of software agreements, to be written under their headings.

The clauses of scenario `contracts`, at the same sites: drafters, and firms with several of them
as clients. The prompt is the heading that the drafter gave the section, the answer what stands
under it. Test clauses are of drafters whom no site has in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Final, Literal

from fedlearn.core.settings import Count, Natural, Probability, config
from fedlearn.data.datasets.archives import ARCHIVES
from fedlearn.data.datasets.contracts import SITES, SIZE, Clause, dealt, stored_clauses
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.texts.language import (
    LanguageTokens,
    Passage,
    Span,
    language_pool,
    open_encoder,
)
from fedlearn.data.texts.passages import OwnPassages

_BETWEEN: Final = "\n"
"""What stands between a heading and its clause."""


@config
class Drafting(Scenario):
    """Clauses for a language model; the settings are those of `contracts`."""

    kind: Literal["drafting"] = "drafting"
    tells = "nothing"
    dataset = Dataset(
        records=SIZE,
        sites=SITES,
        classes=(),
        source="the same clauses, to be written under their headings",
        archive=ARCHIVES["contracts"],
    )
    firms: Count = 8
    test_fraction: Probability = 0.2
    split: Natural = 0
    tokenizer: LanguageTokens = field(default_factory=lambda: LanguageTokens(max_length=64))

    @property
    def canary(self) -> str:
        """A heading of a clause with a number."""
        return f"Account of {{name}}{_BETWEEN}"

    def load(self, reading: Reading) -> Pool:
        """The 3,041 clauses, fetched when they are not in the cache."""
        found = stored_clauses(reading.cache)
        is_train, sites = dealt(found, self.firms, self.test_fraction, self.split)
        return language_pool(
            self.tokenizer,
            open_encoder(self.tokenizer, reading.cache),
            passages(found),
            name="drafting",
            is_train=is_train,
            natural_site=sites,
        )

    def as_passages(self) -> OwnPassages:
        """Headings as prompts."""
        return OwnPassages(path="-", tokenizer=self.tokenizer)

    def as_prompt(self, text: str) -> str:
        """A heading in its line."""
        return text if text.endswith(_BETWEEN) else text + _BETWEEN

    def public_prompts(self) -> tuple[str, ...]:
        """Headings that any such agreement has."""
        return ("Governing Law", "Confidentiality", "Limitation of Liability")


def passages(found: Sequence[Clause]) -> list[Passage]:
    """Heading and clause."""
    return [(Span(clause.heading + _BETWEEN), Span(clause.text, learned=True)) for clause in found]
