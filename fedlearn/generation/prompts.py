"""What a language model is asked: prompts, beginnings of texts and conversations, as tokens.

They are written and made into tokens as records of the run were: by its scenario, and by the
tokenizer and the chat template of the folder that the model comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, get_args

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.data import Scenario
from fedlearn.data.tables.table import some_lines
from fedlearn.data.texts.chat import Conversations
from fedlearn.data.texts.language import Encoder, Passage, Span
from fedlearn.data.texts.passages import OwnPassages, rows_of

Way = Literal["prompt", "text", "message"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)
"""A prompt that an answer follows; the beginning of a text; what a user says in a conversation."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as somebody gave it, where, and its tokens: at least one."""

    line: int
    given: str
    ids: list[int] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts for the model of a run with this scenario, whose files are read as `rows` says."""

    scenario: Scenario
    rows: OwnPassages
    encoder: Encoder

    @cached_property
    def _conversations(self) -> Conversations:
        return Conversations(self.encoder)

    def asked(self, texts: Sequence[str], way: Way = "prompt") -> list[Prompt]:
        """The prompts that `texts` are.

        Raises:
            ConfigError: the model knows no conversations, or its template does not take one.
        """
        return [Prompt(i, text, self._ids(text, way)) for i, text in enumerate(texts, start=1)]

    def read(self, path: Path) -> list[Prompt]:
        """The prompts in a file: `messages`, `prompt` or `text` of every line or row.

        A completion beside a prompt, and a reply that ends a conversation, are not looked at.

        Raises:
            DataError: it cannot be read, or holds something else; all lines.
            ConfigError: the model knows no conversations.
        """
        found: list[Prompt] = []
        wrong: dict[str, list[int]] = {}
        for line, row in rows_of(replace(self.rows, path=str(path))):
            try:
                given, passage = self._row(row)
                ids = self.encoder.asked(passage)
            except ValueError as error:
                wrong.setdefault(str(error), []).append(line)
            else:
                found.append(Prompt(line, given, ids))
        refuse(f"{path}: {some_lines(lines)}: {what}" for what, lines in wrong.items())
        return found

    def _row(self, row: Mapping[str, Any]) -> tuple[str, Passage]:
        own = self.rows
        if row.get(own.messages):
            try:
                passage = self._conversations.asked(row[own.messages])
            except ValueError as error:
                raise ValueError(f"{own.messages!r} {error}") from None
            return _last_of(row[own.messages]), passage
        for name, way in ((own.prompt, "prompt"), (own.text, "text")):
            if isinstance(text := row.get(name), str):
                return text, self._passage(text, way)
        raise ValueError(f"has none of {own.prompt}, {own.text}, {own.messages} that is a text")

    def _ids(self, text: str, way: Way) -> list[int]:
        try:
            return self.encoder.asked(self._passage(text, way))
        except ValueError as error:
            raise ConfigError(f"--prompt: {error}") from None

    def _passage(self, text: str, way: str) -> Passage:
        if way == "message":
            return self._conversations.asked([{"role": "user", "content": text}])
        if way == "text":
            return (Span(text, learned=True),)
        return (Span(self.scenario.as_prompt(text)),)


def _last_of(messages: Any) -> str:
    """What a user said last."""
    users = [one["content"] for one in messages if one["role"] == "user"]
    text: str = users[-1]
    return text
