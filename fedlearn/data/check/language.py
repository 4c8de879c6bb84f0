"""What `fedlearn data check` says of texts for a language model, in lines of JSON.

A file with prompts and completions, with conversations, or with texts alone. No model is opened
for it: how long records are is told in characters, of which a token has three or four in English.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.data.check.report import Report
from fedlearn.data.check.sizes import dealt, nominal_records, sizes_if_dealt
from fedlearn.data.tables.guess import quoted
from fedlearn.data.tables.table import some_lines
from fedlearn.data.texts import personal
from fedlearn.data.texts.chat import checked_messages
from fedlearn.data.texts.files import copies_in
from fedlearn.data.texts.json_lines import Objects, cell, keys_of, lines_of_lists
from fedlearn.data.texts.language import LanguageTokens
from fedlearn.data.texts.passages import OwnPassages

_KEYS = OwnPassages(path="-")
_CHARACTERS = 4
"""Of a token, roughly and at the most, in most languages."""


def holds_language(rows: Objects) -> bool:
    """Whether records are answers to learn, and not texts with a label."""
    keys = keys_of(rows)
    return _KEYS.completion in keys or bool(lines_of_lists(rows, _KEYS.messages))


def check_language(
    path: Path, rows: Objects, sites: Sequence[str], written: Sequence[str]
) -> Report:
    """What stands in a file; `sites` are keys that may name them, the likeliest first."""
    found = _Found(rows)
    settings = [
        "task=language",
        "model=huggingface",
        "scenario=language",
        f"scenario.path={quoted(str(path))}",
        *written,
        "training.finetune=lora",
        "training.lora_stages=4",  # what comes before is computed once
        *_of_sites(rows, sites),
    ]
    return Report(
        path=path,
        kind="texts for a language model",
        records=len(rows),
        sites=tuple(sites),
        facts=tuple(found.facts()),
        hints=tuple(found.hints()),
        problems=tuple(f"{path}: {problem}" for problem in found.problems()),
        settings=tuple(settings),
    )


def _of_sites(rows: Objects, sites: Sequence[str]) -> Iterator[str]:
    """Settings that follow from who has how many records."""
    sizes = Counter[Any](cell(row.get(site)) for site in sites[:1] for _, row in rows)
    if sites:
        yield f"scenario.site={quoted(sites[0])}"
    else:
        yield from dealt(len(rows))
        sizes.update(dict(enumerate(sizes_if_dealt(len(rows)))))
    yield f"training.nominal_records={nominal_records(sizes.values())}"
    if len(sizes) == 2:
        yield "secagg=off"  # of a sum over two a site would only have to take away its own part


@dataclass(eq=False)
class _Found:
    """Records by what they are: their lines, with the characters of prompt and answer."""

    rows: Objects
    sizes: dict[str, dict[int, int]] = field(default_factory=dict)
    wrong: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for line, row in self.rows:
            try:
                kind, size = _record(row)
            except ValueError as error:
                self.wrong.setdefault(str(error), []).append(line)
            else:
                self.sizes.setdefault(kind, {})[line] = size

    def facts(self) -> Iterator[str]:
        for kind, lines in self.sizes.items():
            if kind:
                middle = statistics.median(lines.values())
                longest = max(lines, key=lambda line: lines[line])
                yield (
                    f"{len(lines):,} {kind}, of {middle:,.0f} characters in the middle; the "
                    f"longest has {lines[longest]:,} (line {longest})"
                )

    def hints(self) -> Iterator[str]:
        if empty := list(self.sizes.get("", {})):
            yield f"{some_lines(empty)}: nothing to learn; left out in training"
        most = LanguageTokens().max_length
        sizes = {line: size for own in self.sizes.values() for line, size in own.items()}
        if long := [line for line, size in sizes.items() if size > _CHARACTERS * most]:
            yield (
                f"{some_lines(long)}: longer than {_CHARACTERS * most} characters; "
                f"scenario.tokenizer.max_length={most} tokens will hardly hold them: beginnings "
                "of prompts are left out, then ends of answers"
            )
        words = ["\n".join(_texts_in(row)) for _, row in self.rows]
        yield from personal.sentences(personal.search(words), [line for line, _ in self.rows])
        contents = [json.dumps(row, sort_keys=True) for _, row in self.rows]
        if copies := copies_in(contents):
            yield f"{some_lines([self.rows[i][0] for i in copies])}: copies of an earlier record"

    def problems(self) -> Iterator[str]:
        for what, lines in self.wrong.items():
            yield f"{some_lines(lines)}: {what}"
        if not self.wrong and not any(self.sizes):
            yield "no record has anything to learn"


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in a row, also in its conversation."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one)


def _record(row: Mapping[str, Any]) -> tuple[str, int]:
    """What a row is, and its characters; ValueError for what is no record."""
    if row.get(_KEYS.messages):
        try:
            turns = checked_messages(row[_KEYS.messages])
        except ValueError as error:
            raise ValueError(f"{_KEYS.messages!r} {error}") from None
        return "conversations", sum(len(turn["content"]) for turn in turns)
    prompt, answer, text = (_words(row, k) for k in (_KEYS.prompt, _KEYS.completion, _KEYS.text))
    if _KEYS.completion in row:
        return ("prompts with completions", len(prompt) + len(answer)) if answer else ("", 0)
    return ("texts", len(text)) if text else ("", 0)


def _words(row: Mapping[str, Any], key: str) -> str:
    if isinstance(row.get(key), list):
        raise ValueError(f"{key!r} holds no text and no number")
    return cell(row.get(key))
