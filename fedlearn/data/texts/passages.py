"""Scenario `language`: one's own texts, prompts with completions, or conversations.

A file of JSON, an object a line, or a table with a header. A record is a `text`, all of which is
learned; or a `prompt` and its `completion`; or `messages`, a conversation whose replies are
learned. What stands inside that says who somebody is, as far as it is sure, is counted and said
(`fedlearn.data.texts.personal`); names by themselves are not found, and a model of letters is
private only as far as the privacy of the run goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedlearn.core.errors import ConfigError, refuse, some
from fedlearn.core.settings import Name, Probability, Value, config
from fedlearn.data.persons import (
    MOST_RECORDS,
    PersonColumn,
    RecordsPerPerson,
    in_bytes,
    nobody_note,
    person_of,
)
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.data.split import by_content
from fedlearn.data.tables.excel import sheets_note
from fedlearn.data.tables.reading import read_file
from fedlearn.data.tables.table import Separator, Table, some_lines
from fedlearn.data.texts import personal
from fedlearn.data.texts.chat import Conversations
from fedlearn.data.texts.files import copies_in
from fedlearn.data.texts.folders import PINNED
from fedlearn.data.texts.json_lines import Objects, cell, is_lines, keys_of, read_objects
from fedlearn.data.texts.language import (
    Encoder,
    LanguageTokens,
    Passage,
    Span,
    language_pool,
    open_encoder,
)


@config
class OwnPassages(Scenario):
    """Texts for a language model in a file: `.jsonl` is one object a line, else a table.

    `text`, `prompt`, `completion`, `messages`, `site` and `person` are keys (columns); a record
    that has several of the first four is a conversation before it is a completion, and that before
    a text. One with none of them, or with an empty completion, is left out, with a note.
    """

    kind: Literal["language"] = "language"
    tells = "nothing"  # a record's form is that of the tokenizer
    path: Name
    text: Name = "text"
    prompt: Name = "prompt"
    completion: Name = "completion"
    messages: Name = "messages"
    site: str = ""
    person: PersonColumn = ""
    """The key that says whose a record is: an author, a matter, a patient; such a record without
    one is left out, with a note."""
    records_per_person: RecordsPerPerson = MOST_RECORDS
    """Records of one person that a private step computes, at most; of more it draws some."""
    separator: Separator = "comma"
    encoding: str = "utf-8"
    sheet: Value = ""
    """The sheet of an Excel file; empty: the first that is not hidden."""
    test_fraction: Probability = 0.25
    tokenizer: LanguageTokens = field(default_factory=LanguageTokens)

    def load(self, reading: Reading) -> Pool:
        """The records that have something to learn.

        Raises:
            DataError: the file cannot be read; lines that hold something else than texts, a
                conversation that is none, or no site. All of them.
        """
        rows = rows_of(self, by_record=reading.by_record)
        if not reading.by_record:
            refuse(self.absent_keys(keys_of(rows)), ConfigError)
        encoder = open_encoder(self.tokenizer, reading.cache)
        read = _Rows(self, rows, encoder, reading.by_record)
        if not reading.by_record:
            refuse(read.problems())
        passages = list(read.passages.values())
        contents = ["\0".join(span.text for span in passage) for passage in passages]
        encoded = (one.encode("utf-8", "surrogatepass") for one in contents)
        persons = np.array(read.persons, np.str_) if self.person else None
        return language_pool(
            self.tokenizer,
            encoder,
            passages,
            name=Path(self.path).stem,
            is_train=by_content(
                encoded if persons is None else in_bytes(persons),
                self.test_fraction,
                reading.streams,
            ),
            persons=persons,
            natural_site=np.array(read.sites, np.str_) if self.site else None,
            notes=tuple(read.notes(contents)),
        )

    def agreed(self, of_run: Scenario) -> Scenario:
        """The site's own, with the tokens of the run.

        Raises:
            ConfigError: these are of a folder that the site's own file does not name.
        """
        if not isinstance(of_run, OwnPassages):
            return self
        wanted = of_run.tokenizer.folder
        if wanted not in (*PINNED, self.tokenizer.folder):
            raise ConfigError(
                f"scenario.tokenizer.folder={wanted}: reads a folder that this site's file does "
                "not name; put it there, under data.tokenizer.folder, or choose "
                f"{' or '.join(PINNED)}"
            )
        return replace(self, tokenizer=of_run.tokenizer)

    def stays_with_site(self) -> frozenset[str]:
        """All but the tokens."""
        return frozenset(field.name for field in fields(self)) - {"kind", "tokenizer"}

    def as_passages(self) -> OwnPassages:
        """As its own file is."""
        return self

    def absent_keys(self, there: Sequence[str]) -> Iterator[str]:
        """What a file with these keys lacks, as `dotted.path: reason` lines."""
        learned = (self.text, self.completion, self.messages)
        if not any(key in there for key in learned):
            yield (
                f"scenario.path={self.path}: has none of {', '.join(learned)}, one of which is "
                f"learned; there are {some(there)}; name them with scenario.text, "
                "scenario.completion or scenario.messages"
            )
        for role, key in (("site", self.site), ("person", self.person)):
            if key and key not in there:
                yield f"scenario.{role}: no key {key!r} in {self.path}; there are {some(there)}"
        used = [k for k in (*learned, self.prompt, self.site) if k]
        if self.person and self.person in used:
            yield f"scenario.person={self.person}: is another role's key as well"


def passages_in(
    settings: OwnPassages, encoder: Encoder
) -> tuple[dict[int, Passage], tuple[str, ...]]:
    """The records of a file that have an answer, by their lines, and notes on others.

    Raises:
        DataError: as `OwnPassages.load`.
        ConfigError: no key of the file holds what can be learned.
    """
    rows = rows_of(settings)
    refuse(settings.absent_keys(keys_of(rows)), ConfigError)
    read = _Rows(settings, rows, encoder, by_record=False)
    refuse(read.problems())
    contents = ["\0".join(span.text for span in one) for one in read.passages.values()]
    return read.passages, tuple(read.notes(contents))


def rows_of(settings: OwnPassages, *, by_record: bool = False) -> Objects:
    """The objects of a file of lines, or the rows of a table, and the line of each."""
    path = Path(settings.path)
    if is_lines(path):
        return read_objects(path, settings.encoding, by_record=by_record)
    table = read_file(path, settings.separator, settings.encoding, by_record=by_record,
                      sheet=settings.sheet)  # fmt: skip
    return objects_of(table)


def objects_of(table: Table) -> Objects:
    """The rows of a table as objects, and the line of each."""
    columns = [table.column(name) for name in table.header]
    cells = zip(*columns, strict=True) if columns else ()
    return [
        (int(line), dict(zip(table.header, row, strict=True)))
        for line, row in zip(table.lines, cells, strict=True)
    ]


@dataclass(eq=False)
class _Rows:
    """What the rows of a file hold; lines of what is wrong or left out, by what it is."""

    settings: OwnPassages
    rows: Objects
    encoder: Encoder
    by_record: bool

    def __post_init__(self) -> None:
        self.passages: dict[int, Passage] = {}
        self.sites: list[str] = []
        self.persons: list[str] = []
        self.nobody: list[int] = []
        self.wrong: dict[str, list[int]] = {}
        self.empty: list[int] = []
        # A model that knows no conversations is the user's to change, but for one record's sake.
        unread = (ValueError, ConfigError) if self.by_record else ValueError
        for line, row in self.rows:
            try:
                passage, person = self._passage(row), self._person(row)
            except unread as error:
                self.wrong.setdefault(str(error), []).append(line)
                continue
            if passage is None:
                self.empty.append(line)
            elif self.settings.person and not person:
                self.nobody.append(line)
            else:
                self.passages[line] = passage
                self.sites.append(cell(row.get(self.settings.site)))
                self.persons.append(person)

    @cached_property
    def _conversations(self) -> Conversations:
        return Conversations(self.encoder)

    def _person(self, row: Mapping[str, Any]) -> str:
        """Whose a row is; ValueError where it is several people's, who may be in others as well."""
        own = self.settings
        return person_of(_words(row, own.person)) if own.person else ""

    def _passage(self, row: Mapping[str, Any]) -> Passage | None:
        """What a row holds, None for nothing; ValueError for what is no text."""
        own = self.settings
        if row.get(own.messages):
            try:
                return self._conversations.passage(row[own.messages])
            except ValueError as error:
                raise ValueError(f"{own.messages!r} {error}") from None
        prompt, answer, text = (_words(row, k) for k in (own.prompt, own.completion, own.text))
        if own.completion in row:
            return (Span(prompt), Span(answer, learned=True)) if answer.strip() else None
        if not text.strip():
            return None
        passage = (Span(text, learned=True),)
        try:
            self.encoder.check(passage)
        except ValueError as error:
            raise ValueError(f"{own.text!r} {error}") from None
        return passage

    def problems(self) -> Iterator[str]:
        """Whatever the user has to mend."""
        path = self.settings.path
        for what, lines in self.wrong.items():
            yield f"{path}: {some_lines(lines)}: {what}"
        if not (self.passages or self.wrong):
            yield f"{path}: no record has anything to learn"
        without = [line for line, site in zip(self.passages, self.sites, strict=True) if not site]
        if self.settings.site and without:
            yield f"{path}: {some_lines(without)}: no site; fill it in or leave the records out"

    def notes(self, contents: Sequence[str]) -> Iterator[str]:
        """What is unusual in those that are read."""
        own, lines = self.settings, list(self.passages)
        yield from sheets_note(Path(own.path), own.sheet)
        if self.empty:
            yield (
                f"{own.path}: {some_lines(self.empty)}: nothing to learn (an empty "
                f"{own.completion!r} or {own.text!r}, or none), left out"
            )
        if self.nobody:
            yield nobody_note(own.path, own.person, some_lines(self.nobody))
        for sentence in personal.sentences(personal.search(contents), lines):
            yield f"{own.path}: {sentence}"
        if copies := copies_in(contents):
            yield (
                f"{own.path}: {some_lines([lines[i] for i in copies])}: copies of an earlier "
                "record; it weighs twice, and is in training or in the test with all its copies"
            )


def _words(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if isinstance(value, list):
        raise ValueError(f"{key!r} holds no text and no number")
    return "" if value is None else str(value)
