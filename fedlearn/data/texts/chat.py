"""Conversations as passages: written by the model's own template, replies are learned.

A template is a program in Jinja. It is run in Jinja's sandbox, with what transformers gives it but
for the date: sites that train on another day would learn other texts.

Source: `apply_chat_template` of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fedlearn.core.errors import ConfigError
from fedlearn.data.texts.language import Encoder, Passage, Span

Message = Mapping[str, str]
"""`role` and `content`."""

_ROLES: Final = ("system", "user", "assistant")
_REPLY: Final = {"role": "assistant", "content": "-"}
"""In the place of the one that is asked for."""
_TOKENS: Final = ("bos_token", "eos_token", "pad_token", "unk_token")


class Conversations:
    """The template of a folder, and what it writes.

    Raises:
        ConfigError: the folder has none, or one that is none.
    """

    def __init__(self, encoder: Encoder) -> None:
        texts, self.encoder = encoder.texts, encoder
        if encoder.reads_apart:
            raise ConfigError(
                f"{texts.naming}: reads a prompt and writes its answer, and goes on with no "
                "conversation; give records a prompt and a completion, or take a model that chats"
            )
        if not texts.chat_template:
            raise ConfigError(
                f"{texts.naming}: has no chat template, so nothing says how a conversation is "
                "written; give records a prompt and a completion, or take a model that chats"
            )
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _json
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(texts.chat_template)
        except TemplateError as error:
            raise ConfigError(f"{texts.naming}: its chat template is none ({error})") from None
        self._tokens = {role: texts.token(role) for role in _TOKENS}

    def written(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        """A conversation as text; `asks` adds what comes before a reply.

        Raises:
            ValueError: the template does not take it, and why.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=asks, **self._tokens
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ValueError(f"the model's chat template refuses it: {error}") from None

    def passage(self, messages: object) -> Passage:
        """A conversation of which the replies are learned, each up to the token that ends it.

        Where a template writes earlier replies otherwise once there are later ones, the last one
        alone is learned.

        Raises:
            ValueError: it is none, or the template does not take it; in words that go on a line
                number.
        """
        turns = checked_messages(messages, self.encoder.controls)
        whole = self.written(turns)
        stretches = self._stretches(turns, whole)
        if stretches[-1] is None:
            raise ValueError(
                "the model's chat template asks for a reply otherwise than it is given"
            )
        known = [stretch for stretch in stretches if stretch is not None]
        return _spans(whole, known if len(known) == len(stretches) else known[-1:])

    def asked(self, messages: object) -> Passage:
        """A conversation that asks for a reply, which a last one of the assistant stands for.

        **Guarantees:** its tokens are those that come before that reply in training.

        Raises:
            ValueError: as `passage` does.
        """
        there = messages if isinstance(messages, list) else []
        roles = [one.get("role") if isinstance(one, dict) else None for one in there]
        asks = there if roles[-1:] == ["assistant"] else [*there, _REPLY]
        turns = checked_messages(asks if there else messages, self.encoder.controls)[:-1]
        whole = self.written(turns, asks=True)
        known = self._stretches(turns, whole)
        found = _spans(whole, [one for one in known if one] if None not in known else [])
        at = sum(len(span.text) for span in found)
        return (*found, Span(whole[at:], control=True))

    def _stretches(self, turns: Sequence[Message], whole: str) -> list[tuple[int, int] | None]:
        """Where each reply stands in the whole conversation."""
        places = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        return [self._stretch(turns, place, whole) for place in places]

    def _stretch(self, turns: Sequence[Message], place: int, whole: str) -> tuple[int, int] | None:
        """Where in the whole conversation one reply stands, with the token that ends it."""
        before = self.written(turns[:place], asks=True)
        after = self.written(turns[: place + 1])
        if not (whole.startswith(after) and after.startswith(before)):
            return None
        ends = after.rfind(self._tokens["eos_token"] or "\0", len(before))
        return len(before), len(after) if ends < 0 else ends + len(self._tokens["eos_token"])


def _spans(whole: str, replies: Sequence[tuple[int, int]]) -> Passage:
    """A conversation up to the last of these replies, each a span that is learned."""
    found: list[Span] = []
    at = 0
    for begin, end in replies:
        found += [Span(whole[at:begin], control=True), Span(whole[begin:end], True, True)]
        at = end
    return tuple(found)


def checked_messages(messages: object, controls: Sequence[str] = ()) -> list[Message]:
    """The messages, if they are a conversation: from a user, in turn, and ending in a reply.

    Raises:
        ValueError: they are none, or one holds a control token; in words that go on a line number.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError("is no list of messages")
    found: list[Message] = []
    for number, one in enumerate(messages, start=1):
        role, content = (one.get(k) if isinstance(one, dict) else None for k in ("role", "content"))
        if not isinstance(content, str) or role not in _ROLES:
            raise ValueError(
                f"message {number} has no content that is text, or no role of {', '.join(_ROLES)}"
            )
        if held := [control for control in controls if control in content]:
            raise ValueError(f"message {number} holds {held[0]!r}, which the model is steered by")
        found.append({"role": role, "content": content})
    turns = found[found[0]["role"] == "system" :]
    for number, turn in enumerate(turns):
        if turn["role"] != ("user", "assistant")[number % 2]:
            raise ValueError(
                f"message {number + 1 + len(found) - len(turns)} is of role {turn['role']!r}, out "
                "of order: after a system message, if any, user and assistant take turns"
            )
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError("ends without a reply of the assistant, so there is nothing to learn")
    if not all(turn["content"].strip() for turn in turns if turn["role"] == "assistant"):
        raise ValueError("holds an empty reply")
    return found


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
