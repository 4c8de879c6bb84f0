"""The words of `fedlearn audit demo=exposure`: what they may say, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from annotated_types import Ge, Le

from fedlearn.config import decode
from fedlearn.config.saved import read_value
from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Count, Name, config
from simulations.attacks.studies import OWN, AuditWords

NAME: Final = "{name}"
"""In a prompt: what tells one canary from another."""


@config
class ExposureSettings:
    """What the audit takes as `audit.NAME=value`."""

    repetitions: tuple[Count, ...] = (1, 3, 10)
    """How often a canary is among the records of its site."""
    canaries: Count = 8
    """Of each number of repetitions, and as many that are in no record."""
    digits: Annotated[int, Ge(1), Le(12)] = 4
    """Of a secret."""
    candidates: Annotated[int, Ge(10)] = 10_000
    """Among how many a secret is ranked at the most; of more possible ones so many are drawn."""
    tries: Count = 100
    """Texts that somebody has the model write after a prompt, at random."""
    site: Name | None = None
    """Whose records they are among; of itself the site that has most."""
    prompt: Name | None = None
    """What stands before a secret, with {name}; of itself as the scenario has it."""
    workers: Count | None = None
    """Runs at a time; by default as many as fit the cores."""

    @property
    def inserted(self) -> int:
        """Records that the site is given."""
        return self.canaries * sum(self.repetitions)

    @property
    def space(self) -> int:
        """How many secrets there may be."""
        return int(10**self.digits)

    @property
    def ranked_among(self) -> int:
        """Among how many a secret has its rank."""
        return min(self.space, self.candidates)

    def problems(self) -> Iterator[str]:
        """What is wrong beyond the range of single fields."""
        if not self.repetitions or len(set(self.repetitions)) < len(self.repetitions):
            yield f"{OWN}repetitions={list(self.repetitions)}: give different numbers, as [1,3,10]"
        if self.prompt is not None and self.prompt.count(NAME) != 1:
            yield (
                f"{OWN}prompt: {NAME} must stand in it once, as in 'The number of "
                "{name} is '; every canary has a name of its own"
            )


@dataclass(frozen=True, kw_only=True)
class AskedExposure:
    """What is to be audited: the `study` by the words that describe it, or that of a `run`."""

    settings: ExposureSettings
    study: tuple[str, ...]
    run: Path | None


def read_words(words: Sequence[str]) -> AskedExposure:
    """What the words of the command say.

    Raises:
        ConfigError: with everything that is wrong with them but for what Hydra finds.
    """
    parts = AuditWords.of(words)
    found, tree = [*parts.problems()], dict[str, Any]()
    for word in parts.own:
        key, _, text = word.removeprefix(OWN).partition("=")
        # A prompt is a text as it is, braces and all.
        tree[key] = text if key in ("prompt", "site") else read_value(word, text)
    if isinstance(tree.get("repetitions"), int):
        tree["repetitions"] = [tree["repetitions"]]
    try:
        settings = decode(ExposureSettings, json.dumps(tree))
    except ConfigError as error:
        raise ConfigError([*found, *(f"{OWN}{one}" for one in error.problems)]) from None
    if found := [*found, *settings.problems()]:
        raise ConfigError(found)
    return AskedExposure(settings=settings, study=parts.study, run=parts.run)
