"""What a language model writes after public prompts, before and after training: for its card.

The prompts are those of `task.prompts`, or else of the scenario; none is out of a record. What a
released model says costs no epsilon.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fedlearn.config import RunConfig
from fedlearn.core.names import harmless
from fedlearn.data.datasets.archives import default_cache
from fedlearn.generation.generator import TextGenerator
from fedlearn.generation.sampling import Sampling
from fedlearn.prediction import Predictor

_MOST: Final = 48
"""Tokens of an answer."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What follows a prompt, word by word the likeliest."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Those of a run; `failed` says that the model could not be asked."""

    shown: tuple[Sample, ...] = ()
    failed: bool = False


def public_prompts(config: RunConfig) -> tuple[str, ...]:
    """What a card shows the answers to."""
    own: tuple[str, ...] = getattr(config.task, "prompts", ())
    return own or config.scenario.public_prompts()


def samples_of(untuned: Predictor, tuned: Predictor, prompts: Sequence[str]) -> tuple[Sample, ...]:
    """The same prompts, to a model before its training and after.

    Raises:
        ConfigError, DataError: as `TextGenerator`.
    """
    before, after = (_answers(model, prompts) for model in (untuned, tuned))
    return tuple(
        Sample(prompt=prompt, before=one, after=other)
        for prompt, one, other in zip(prompts, before, after, strict=True)
    )


def _answers(model: Predictor, prompts: Sequence[str]) -> list[str]:
    generator = TextGenerator.of(model, default_cache(os.environ))
    asked = generator.prompts.asked(prompts)
    how = Sampling(max_tokens=min(_MOST, generator.context // 2))
    return [harmless(answer.text).strip() for answer in generator.answers(asked, how)]
