"""A trained language model that goes on with prompts.

Source: greedy search and sampling as `generate` of transformers has them (Holtzman et al. 2020,
"The Curious Case of Neural Text Degeneration", for `top_p`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.language import KEY, Encoder
from fedlearn.generation.prompts import Prompt, Prompts
from fedlearn.generation.sampling import Sampling, next_token
from fedlearn.models.continuing import reader
from fedlearn.prediction import Predictor, written_as
from fedlearn.tasks import Task

Ending = Literal["end", "stop", "length"]
"""By the model's own token; by a word of `Sampling.stop`; by `Sampling.max_tokens`."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model makes of a prompt."""

    line: int
    """Of the prompt in its file, or its number, from 1."""
    sample: int
    prompt: str
    text: str
    ended: Ending
    tokens: int
    """Of the answer, with the one that ended it."""
    prompt_tokens: int
    left_out: int
    """Tokens of the prompt's beginning for which the model has no room."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextGenerator:
    """A language model of a run or an export, on the CPU."""

    network: nn.Module
    task: Task
    prompts: Prompts
    context: int
    """Tokens that the model looks at, at the most: prompt and answer together."""

    @classmethod
    def of(cls, model: Predictor, cache: Path, **written: str) -> TextGenerator:
        """The generator that a loaded model is; `cache` is the folder that archives are kept in.

        `written` says where files are written otherwise than those of the run: `separator`,
        `encoding`, `text` (the column).

        Raises:
            ConfigError: it is no language model, or its tokenizer cannot be read.
        """
        scenario = model.file.scenario
        rows = scenario.as_passages()
        if not model.task.next_tokens or rows is None:
            raise ConfigError(
                f"task={model.task.kind} scenario={scenario.kind}: generates no text; ask the "
                "model by `fedlearn predict`"
            )
        nobodys = replace(
            rows, site="", person=""
        )  # what is asked belongs to no site and no person
        rows = written_as(nobodys, rows.path, written)
        encoder = Encoder(FolderTexts(rows.tokenizer.folder, cache, KEY))
        return cls(
            network=model.network,
            task=model.task,
            prompts=Prompts(scenario, rows, encoder),
            context=model.file.model.context(model.task),
        )

    @property
    def encoder(self) -> Encoder:
        """The tokenizer of the model."""
        return self.prompts.encoder

    @cached_property
    def learned_tokens(self) -> int:
        """Tokens that a record of the run had, at the most."""
        return self.prompts.rows.tokenizer.max_length

    def answers(self, asked: Iterable[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """The answers to all prompts, each when it is there.

        **Guarantees:** what is drawn for a prompt depends on its tokens, the seed and the number
        of the sample alone.

        Raises:
            ConfigError: the model has no room for so many tokens.
            DataError: the model's training has diverged.
        """
        self._require(sampling)
        for one in asked:
            for sample in range(sampling.samples):
                yield self._answer(one, sample, sampling)

    def notes(self, asked: Sequence[Prompt], sampling: Sampling) -> Iterator[str]:
        """What is unusual about prompts."""
        self._require(sampling)
        most = self.context - sampling.max_tokens
        if cut := sum(len(one.ids) > most for one in asked):
            yield (
                f"{cut} of {len(asked)} prompts have more than the {most} tokens that the model "
                f"has room for beside {sampling.max_tokens} of an answer; their beginnings are "
                "left out"
            )
        if long := sum(self.learned_tokens < len(one.ids) <= most for one in asked):
            yield (
                f"{long} of {len(asked)} prompts are longer than the records that the model was "
                f"trained on (scenario.tokenizer.max_length={self.learned_tokens})"
            )

    def _require(self, sampling: Sampling) -> None:
        if sampling.max_tokens >= self.context:
            raise ConfigError(
                f"max_tokens={sampling.max_tokens}: the model looks at {self.context} tokens, of "
                f"prompt and answer together; set it to {self.context - 1} or less"
            )

    def _answer(self, asked: Prompt, sample: int, sampling: Sampling) -> Answer:
        lead = len(self.encoder.lead) if asked.ids[:1] == self.encoder.lead else 0
        ids = fitted(asked.ids, self.context - sampling.max_tokens, lead)
        name = " ".join(map(str, asked.ids))
        found, ended = self._tokens(
            ids, sampling, Streams(sampling.seed).get("generate", name, sample)
        )
        text = self.encoder.text(found[:-1] if ended == "end" else found)
        return Answer(
            line=asked.line,
            sample=sample,
            prompt=asked.given,
            text=_before(text, sampling.stop) if ended == "stop" else text,
            ended=ended,
            tokens=len(found),
            prompt_tokens=len(ids),
            left_out=len(asked.ids) - len(ids),
        )

    def _tokens(
        self, ids: list[int], sampling: Sampling, rng: np.random.Generator
    ) -> tuple[list[int], Ending]:
        """What follows `ids`, with the token that ended it, and how it ended."""
        text, reading = reader(self.network), ids
        found: list[int] = []
        while len(found) < sampling.max_tokens:
            found.append(next_token(text.read(reading), sampling, rng))
            if found[-1] in self.encoder.ends:
                return found, "end"
            if sampling.stop and any(map(self.encoder.text(found).__contains__, sampling.stop)):
                return found, "stop"
            reading = found[-1:]
        return found, "length"


def fitted(ids: list[int], most: int, lead: int) -> list[int]:
    """The first `lead` tokens and the last others, at most so many in all and at least one."""
    if len(ids) <= most:
        return ids
    lead = lead if lead < most else 0
    return ids[:lead] + ids[len(ids) - (most - lead) :]


def _before(text: str, words: Sequence[str]) -> str:
    """A text up to the first of these words."""
    return text[: min((at for word in words if (at := text.find(word)) >= 0), default=None)]
