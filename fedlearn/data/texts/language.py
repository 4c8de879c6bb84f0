"""Texts as a pretrained language model reads them: ids of tokens, and which of them it learns.

A record is a passage: spans of text, some of which are learned. Its own folder's tokenizer
makes ids of it; nothing is learned from records. A record stays one record, whatever its length:
several in one row would share a gradient, and privacy is promised to each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.core.settings import Name, config
from fedlearn.data import memory
from fedlearn.data.datasets.smollm2 import SMOLLM2
from fedlearn.data.pool import Pool
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.tasks import TaskForm, TextInput
from fedlearn.tasks.language import Language

if TYPE_CHECKING:
    import tokenizers

KEY: Final = "scenario.tokenizer.folder"
NOTHING: Final = -1
"""The target at a place where nothing is learned."""

_CONTEXTS: Final = ("max_position_embeddings", "n_positions", "n_ctx")


@config
class LanguageTokens:
    """The tokenizer of the model in `folder`, and how many tokens of a record are kept."""

    folder: Name = SMOLLM2
    max_length: Annotated[int, Ge(2)] = 128


@dataclass(frozen=True)
class Span:
    """A part of a record; `control` is what a chat template wrote, and may hold control tokens."""

    text: str
    learned: bool = False
    control: bool = False


Passage = tuple[Span, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """`ids`, `targets`: `int64[n, max_length]`; and how many of the n did not fit."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    prompts_cut: int
    answers_cut: int


class Encoder:
    """The tokenizer of a folder.

    Raises:
        ConfigError: there is none, or it is not of the model in the folder.
    """

    def __init__(self, texts: FolderTexts) -> None:
        self.texts = texts
        self._tokenizer = _tokenizer(texts)
        self.vocabulary = self._number("vocab_size")
        refuse(self._problems(), ConfigError)

    def _problems(self) -> Iterator[str]:
        naming, known = self.texts.naming, self._tokenizer.get_vocab(with_added_tokens=True)
        largest = max(known.values(), default=-1)
        if largest < 0:
            yield f"{naming}: its tokenizer knows no tokens"
        if not self.vocabulary:
            yield f"{naming}: config.json names no vocab_size"
        elif largest >= self.vocabulary:
            yield (
                f"{naming}: its tokenizer has ids up to {largest}, and its model a vocabulary of "
                f"{self.vocabulary}; they are not of one model"
            )
        if self.end is None:
            yield (
                f"{naming}: names no token that ends a text (eos_token in tokenizer_config.json, "
                "or eos_token_id in config.json), so nothing says where an answer ends"
            )
        elif self.reads_apart and self.end not in (ends := self._ends_of_model):
            yield (
                f"{naming}: its tokenizer ends a prompt with token {self.end}, and its model with "
                f"{ends[0] if ends else 'none'} (eos_token_id); they are not of one model"
            )

    def _number(self, *names: str) -> int:
        """The first of several settings of the model that is there; 0 where none is."""
        own = self.texts.about.get("text_config")
        for about in (self.texts.about, own if isinstance(own, dict) else {}):
            for name in names:
                if isinstance(found := about.get(name), int) and found > 0:
                    return found
        return 0

    def _token(self, role: str) -> int | None:
        """The id of the token of a role, by the tokenizer's settings or else the model's."""
        named = self._tokenizer.token_to_id(self.texts.token(f"{role}_token"))
        found = self.texts.about.get(f"{role}_token_id") if named is None else named
        if isinstance(found, list) and found:
            found = found[0]
        return found if isinstance(found, int) and 0 <= found < self.vocabulary else None

    @cached_property
    def end(self) -> int | None:
        """What ends an answer."""
        return self._token("eos")

    @property
    def _ends_of_model(self) -> list[int]:
        named = self.texts.about.get("eos_token_id")
        there = named if isinstance(named, list) else [named]
        return [one for one in there if isinstance(one, int) and 0 <= one < self.vocabulary]

    @cached_property
    def ends(self) -> frozenset[int]:
        """Whatever ends an answer: some models have several tokens for it, and learn one."""
        return frozenset([*self._ends_of_model, *([] if self.end is None else [self.end])])

    @property
    def reads_apart(self) -> bool:
        """Whether the model reads a prompt by an encoder, and writes its answer by a decoder."""
        return self.texts.about.get("is_encoder_decoder") is True

    @cached_property
    def between(self) -> list[int]:
        """What stands between a prompt and an answer that are read apart: the end of the one, and
        what a decoder begins with. Nothing where the one goes on as the other."""
        if not self.reads_apart:
            return []
        start = self.texts.about.get("decoder_start_token_id")
        known = start if isinstance(start, int) and 0 <= start < self.vocabulary else self.pad_id
        return [self.pad_id if self.end is None else self.end, known]

    @cached_property
    def start(self) -> int | None:
        """What begins a text."""
        return self._token("bos")

    @cached_property
    def pad_id(self) -> int:
        """What fills rows up. A tokenizer without has that of the end, which is told by targets."""
        pad = self._token("pad")
        return pad if pad is not None else self.end or 0

    @cached_property
    def context(self) -> int:
        """Tokens that the model takes at the most, of prompt and answer; 0 where nothing says
        it. One that reads them apart takes as many of each."""
        return self._number(*_CONTEXTS) * (2 if self.reads_apart else 1)

    @cached_property
    def controls(self) -> tuple[str, ...]:
        """The control tokens, as a text would hold them."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return tuple(one.content for one in added if one.special)

    @cached_property
    def lead(self) -> list[int]:
        """What the tokenizer puts before every text: a token or none."""
        if self.reads_apart:
            return []
        found: list[int] = self._tokenizer.encode("").ids[:1]
        return found if found == [self.start] else []

    def ids(self, text: str, *, control: bool = False) -> list[int]:
        """The ids of a text; words that look like control tokens are words, but for `control`."""
        self._tokenizer.encode_special_tokens = not control
        clean = text.encode("utf-8", "replace").decode()  # JSON can hold half a character
        found: list[int] = self._tokenizer.encode(clean, add_special_tokens=False).ids
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The words of ids, control tokens left out."""
        found: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return found

    def encoded(self, passage: Passage) -> tuple[list[int], list[bool]]:
        """The ids of a passage, its end among them, and which of them are learned.

        Every span is encoded by itself, as an answer is when it is generated. Where nothing
        comes before what is learned a token that begins a text does, so that the first word is
        learned as well; a chat template writes its own.
        """
        ids, learned = self._spelled(passage)
        if self.end is not None and (ids[-1:] != [self.end] or not any(learned)):
            ids, learned = [*ids, self.end], [*learned, True]
        if learned and learned[0] and self.end is not None:  # a prompt without a single token
            ids, learned = [self.end, *ids], [False, *learned]
        return ids, learned

    def asked(self, passage: Passage) -> list[int]:
        """The ids of a passage that is to go on, as `encoded` has them before an answer: no end,
        and at least one."""
        ids, _ = self._spelled(passage)
        return ids or [self.pad_id if self.end is None else self.end]

    def check(self, passage: Passage) -> None:
        """Refuse what the model does not learn from.

        Raises:
            ValueError: it reads a prompt and writes an answer, and there is no prompt apart.
        """
        if self.reads_apart and passage[0].learned:
            raise ValueError(
                "is a text to go on with, and this model reads a prompt and writes its answer: "
                "give a prompt and a completion, or take a model that continues texts"
            )

    def _spelled(self, passage: Passage) -> tuple[list[int], list[bool]]:
        self.check(passage)
        if self.reads_apart:
            return self._spelled_apart(passage)
        first = passage[0]
        begin = [] if first.control else list(self.lead)
        if not begin and first.learned:
            begin = [i for i in (self.start, self.end) if i is not None][:1]
        ids, learned = begin, [False] * len(begin)
        for span in passage:
            own = self.ids(span.text, control=span.control)
            ids, learned = ids + own, learned + [span.learned] * len(own)
        return ids, learned

    def _spelled_apart(self, passage: Passage) -> tuple[list[int], list[bool]]:
        asked, answer = (
            [i for span in passage if span.learned is learned for i in self.ids(span.text)]
            for learned in (False, True)
        )
        before = asked + self.between
        return before + answer, [False] * len(before) + [True] * len(answer)


def _tokenizer(texts: FolderTexts) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer  # nine runs of ten read no text

    content = texts.tokenizer_json
    try:
        made = Tokenizer.from_str(content)
    except Exception as error:  # noqa: BLE001  # it raises nothing else
        raise ConfigError(f"{texts.naming}: tokenizer.json cannot be read ({error})") from None
    made.no_padding()
    made.no_truncation()
    return made


def open_encoder(settings: LanguageTokens, cache: Path) -> Encoder:
    """The tokenizer that the settings of a scenario name.

    Raises:
        ConfigError: there is none, or records are to be longer than its model takes.
        DataError: the pinned model is not cached and cannot be had.
    """
    encoder = Encoder(FolderTexts(settings.folder, cache, KEY))
    if 0 < encoder.context < settings.max_length:
        raise ConfigError(
            f"scenario.tokenizer.max_length={settings.max_length}: {settings.folder} takes at most "
            f"{encoder.context} tokens; set max_length to that or less"
        )
    if settings.max_length <= (least := len(encoder.between)):
        raise ConfigError(
            f"scenario.tokenizer.max_length={settings.max_length}: of a prompt and an answer that "
            f"are read apart {least} tokens tell where they begin; set max_length to more"
        )
    return encoder


def encode(encoder: Encoder, passages: Sequence[Passage], max_length: int) -> Encoded:
    """Rows of ids and targets, filled up at the end.

    **Guarantees:** the row of a passage depends on that passage alone; `targets[i, t]` is
    `ids[i, t + 1]` where that is learned, else -1; every row learns at least one token. Of what
    is too long the beginning of the prompt is left out, down to half of a row, and only then the
    end of the answer, with the token that ends it.
    """
    ids = np.full((len(passages), max_length), encoder.pad_id, np.int64)
    targets = np.full_like(ids, NOTHING)
    cut = np.zeros((len(passages), 2), np.bool_)
    for row, passage in enumerate(passages):
        own, learned = encoder.encoded(passage)
        lead = 0 if passage[0].control else len(encoder.lead)
        least = max(1, lead, len(encoder.between))
        kept, known, cut[row] = _fitted(own, learned, max_length, lead, least)
        ids[row, : len(kept)] = kept
        places = np.flatnonzero(known)
        targets[row, places - 1] = np.array(kept)[places]
    prompts, answers = cut.sum(0).tolist()
    return Encoded(ids=ids, targets=targets, prompts_cut=prompts, answers_cut=answers)


def _fitted(
    ids: list[int], learned: list[bool], most: int, lead: int, least: int
) -> tuple[list[int], list[bool], tuple[bool, bool]]:
    """At most so many; whether the prompt, and whether what is learned, was cut.

    The first `lead` tokens stay, and of a prompt as many as make half of a row, at `least` so many:
    where an answer is too long, it is not learned the better for having nothing to answer to.
    """
    prompt = learned.index(True)
    aside = max(0, min(len(ids) - most, prompt - max(least, most // 2)))
    ids = ids[:lead] + ids[lead + aside :]
    learned = learned[:lead] + learned[lead + aside :]
    return ids[:most], learned[:most], (aside > 0, len(ids) > most)


def language_pool(
    settings: LanguageTokens,
    encoder: Encoder,
    passages: Sequence[Passage],
    *,
    name: str,
    notes: tuple[str, ...] = (),
    **known: Any,
) -> Pool:
    """Passages as records of `task=language`; notes say how many were cut. `known` is of a pool.

    Raises:
        DataError: the ids would not fit into memory.
    """
    # Ids and targets, once for all and once more as they are dealt out to sites.
    memory.require(Path(name), 32 * len(passages) * settings.max_length)
    found = encode(encoder, passages, settings.max_length)
    shape = TextInput(
        vocabulary=encoder.vocabulary,
        max_length=settings.max_length,
        pad_id=encoder.pad_id,
        tokenizer=settings.folder,
    )
    return Pool(
        name=name,
        task=Language().of(TaskForm(input=shape)),
        features=found.ids,
        labels=found.targets,
        notes=(*notes, *_cut_notes(name, found, settings.max_length)),
        **known,
    )


def _cut_notes(name: str, found: Encoded, most: int) -> Iterator[str]:
    count, setting = len(found.ids), f"scenario.tokenizer.max_length={most}"
    if found.prompts_cut:
        yield (
            f"{name}: {found.prompts_cut} of {count} records are longer than {setting}; the "
            "beginnings of their prompts were left out"
        )
    if found.answers_cut:
        yield (
            f"{name}: {found.answers_cut} of {count} answers did not fit into {setting} beside "
            "their prompts and were cut off, so that their ends are not learned"
        )
