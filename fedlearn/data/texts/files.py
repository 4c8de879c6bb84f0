"""Scenario `text`: one's own texts with a label each, in a CSV or JSONL file.

What the labels stand for, the task says; texts are read by a
public tokenizer, which learns nothing from them. What stands inside of them that
says who somebody is, as far as it is sure, is counted and said
(`fedlearn.data.texts.personal`); names by themselves are not found, and a model of
texts is private only as far as the privacy of the run goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError, refuse
from fedlearn.core.settings import Count, Name, Probability, Value, ValueName, config
from fedlearn.data.datasets.minilm import MINILM
from fedlearn.data.persons import (
    MOST_RECORDS,
    PersonColumn,
    Persons,
    RecordsPerPerson,
    in_bytes,
    nobody_note,
    persons_of,
)
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.data.split import by_content
from fedlearn.data.tables.excel import sheets_note
from fedlearn.data.tables.heads import Header
from fedlearn.data.tables.reading import read_file
from fedlearn.data.tables.spelling import (
    Spellings,
    lookalikes,
    may_be_one,
    spelled,
    taken_as_one,
)
from fedlearn.data.tables.table import Separator, Table
from fedlearn.data.texts import personal
from fedlearn.data.texts.documents import MOST_UNKNOWN, pool_of
from fedlearn.data.texts.json_lines import any_list, is_lines, keys_of, read_objects, table_of
from fedlearn.data.texts.tokens import Tokenizer
from fedlearn.tasks import LabelColumn, TaskConfig, named_classes

Flags = NDArray[np.bool_]


@config
class OwnTexts(Scenario):
    """Texts of one's own with a class each, wherever they are; messages name `path`."""

    kind: str
    path: Name
    text: ValueName = "text"
    label: ValueName
    site: Value = ""
    person: PersonColumn = ""
    """The column (key) that says whose a record is, where a person has several."""
    records_per_person: RecordsPerPerson = MOST_RECORDS
    """Records of one person that a private step computes, at most; of more it draws some."""
    classes: tuple[Value, ...] = ()
    """The classes, where a site may lack some of them; empty: as found."""
    max_classes: Count = 50
    test_fraction: Probability = 0.25
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def left_open(self, task: TaskConfig) -> Iterator[str]:
        """Which classes there are."""
        yield from ("scenario.classes",) if task.is_open(named_classes(self.classes)) else ()

    def agreed(self, of_run: Scenario) -> Scenario:
        """The site's own, with the tokens and the classes of the run.

        Raises:
            ConfigError: the list of tokens is in a folder that the site's own file does not name.
        """
        if not isinstance(of_run, OwnTexts):
            return self
        wanted, own = of_run.tokenizer.vocabulary, self.tokenizer.vocabulary
        if of_run.tokenizer.kind == "wordpiece" and wanted not in (MINILM, own):
            raise ConfigError(
                f"scenario.tokenizer.vocabulary={wanted}: reads a folder that this site's file "
                "does not name; put it there, under data.tokenizer.vocabulary, or choose "
                f"{MINILM}"
            )
        return replace(self, tokenizer=of_run.tokenizer, classes=of_run.classes or self.classes)

    def stays_with_site(self) -> frozenset[str]:
        """All but the tokens and the classes."""
        agreed = {"kind", "tokenizer", "classes"}
        return frozenset(one.name for one in fields(self)) - agreed


@config
class OwnText(OwnTexts):
    """Texts in a file: `.jsonl` is one JSON object a line, anything else a table with a header
    (CSV, Parquet, Excel).

    `text`, `label`, `site` and `person` are columns (keys); a record without a text or a
    label is left out, with a note, and so is one without a person where one is named.
    """

    kind: Literal["text"] = "text"
    separator: Separator = "comma"
    encoding: str = "utf-8"
    names: tuple[Value, ...] = ()
    """The columns of a table that has no header."""
    sheet: Value = ""
    """The sheet of an Excel file; empty: the first that is not hidden."""
    header: Header = "look"
    """What is done about a header that looks like a record: refused, or taken for the header."""

    def load(self, reading: Reading) -> Pool:
        """The records of the file that have a text and a label."""
        path, by_record = Path(self.path), reading.by_record
        if is_lines(path):
            rows = read_objects(path, self.encoding, by_record=by_record)
            names = tuple(filter(None, (self.text, self.label, self.site, self.person)))
            if by_record:  # a key may be in one line alone
                rows = [(n, row) for n, row in rows if not any_list(row, names)]
            else:
                check_names(self, keys_of(rows), self.path)
            table = table_of(path, rows, names)
        else:
            table = read_file(
                path,
                self.separator,
                self.encoding,
                by_record=by_record,
                names=self.names,
                header=self.header,
                sheet=self.sheet,
            )
            check_names(self, table.header, self.path)
        pool = pool_of_table(table, self, reading)
        return replace(pool, notes=(*sheets_note(path, self.sheet), *pool.notes))

    def as_texts(self) -> OwnText:
        """As the run's own."""
        return self


def pool_of_table(
    table: Table, config: OwnTexts, reading: Reading, is_train: Flags | None = None
) -> Pool:
    """The rows that can be learned from; a text decides whether it is tested on, or `is_train`.

    Raises:
        DataError: labels that `task` cannot learn from, or a record without a site.
    """
    if reading.task.is_open(_label_column(table, config)):
        reading.require(["scenario.classes"])
    table, several = _spelled(table, config, reading)
    texts, found = table.cells(config.text), table.cells(config.label)
    usable = ~texts.among(("",))[texts.codes] & ~found.among(("",))[found.codes]
    persons, notes = _persons(table, config)
    if persons is not None:
        usable &= _in_one_part(persons, usable, is_train)
    task, all_labels = reading.task, _label_column(table, config)
    by_record = reading.by_record and not task.is_open(all_labels)
    if by_record:
        usable &= ~task.unreadable(all_labels)
    kept = table.take(np.flatnonzero(usable))
    if not (len(kept) or by_record):
        raise DataError(f"{config.path}: no record has both a text and a label")
    column = _label_column(kept, config)
    if not by_record:
        refuse([*task.problems(column), *_site_problems(kept, config)])
    classes, labels = task.encode(column)
    sites = np.array(kept.column(config.site)) if config.site else None
    words = kept.column(config.text)
    persons = None if persons is None else persons[usable]
    pool = pool_of(
        config.tokenizer,
        reading.cache,
        name=Path(config.path).stem,
        texts=words,
        task=task,
        classes=classes,
        labels=labels,
        is_train=_split(config, reading, words, persons) if is_train is None else is_train[usable],
        sites=sites,
        most_unknown=1.0 if reading.by_record else MOST_UNKNOWN,
        notes=(
            *notes,
            *_notes(table, usable, kept, config),
            *_spelling_notes(kept, config, several),
        ),
    )
    return replace(pool, persons=persons)


def _split(
    config: OwnTexts, reading: Reading, texts: Sequence[str], persons: Persons | None
) -> Flags:
    """Which are trained on, by the text of a record or by whose it is."""
    contents = map(str.encode, texts) if persons is None else in_bytes(persons)
    return by_content(contents, config.test_fraction, reading.streams)


def _persons(table: Table, config: OwnTexts) -> tuple[Persons | None, list[str]]:
    """Whose every row is, where the config says by what; a note about rows that are nobody's."""
    if not config.person:
        return None, []
    persons = persons_of(table.cells(config.person))
    if not len(nobody := np.flatnonzero(persons == "")):
        return persons, []
    return persons, [nobody_note(config.path, config.person, table.places(nobody))]


def _in_one_part(persons: Persons, usable: Flags, is_train: Flags | None) -> Flags:
    """Rows of somebody; where the data has a test of its own, of nobody who is trained on too."""
    known: Flags = persons != ""
    if is_train is not None:
        known &= is_train | ~np.isin(persons, persons[usable & is_train])
    return known


def _spelled(
    table: Table, config: OwnTexts, reading: Reading
) -> tuple[Table, Mapping[str, list[Spellings]]]:
    """The table with one text for every class and every site, and what had several."""
    named = {config.label: config.classes} if config.classes else {}
    label = config.label if reading.task.is_open(_label_column(table, config)) else ""
    roles = [name for name in (label, config.site) if name]
    return spelled(table, named=named, found=() if reading.by_record else roles)


def _spelling_notes(
    kept: Table, config: OwnTexts, several: Mapping[str, list[Spellings]]
) -> Iterator[str]:
    for name, groups in several.items():
        yield f"{config.path}: column {name!r}: {taken_as_one(groups)}"
    for name in filter(None, (config.label, config.site, config.person)):
        cells = kept.cells(name)
        if groups := lookalikes(cells.texts(cells.counts > 0)):
            yield f"{config.path}: column {name!r}: {may_be_one(groups)}"


def check_names(config: OwnTexts, header: Sequence[str], where: str) -> None:
    """Refuse columns that `where` has not, and one that is named in two roles.

    Raises:
        ConfigError: all of these.
    """
    roles = {"text": config.text, "label": config.label, "site": config.site}
    roles["person"] = config.person
    problems = [
        f"scenario.{role}: no column {name!r} in {where}; there are {', '.join(header)}"
        for role, name in roles.items()
        if name and name not in header
    ]
    given = [name for name in roles.values() if name]
    problems += [
        f"scenario.{role}={name}: is another role's column as well"
        for role, name in roles.items()
        if given.count(name) > 1
    ]
    refuse(problems, ConfigError)


def _label_column(kept: Table, config: OwnTexts) -> LabelColumn:
    labels, cells = kept.column(config.label), kept.cells(config.label)
    return LabelColumn(
        where=config.path,
        cells=labels,
        values=tuple(sorted(set(labels))),
        numbers=lambda: cells.numbers(".")[cells.codes],
        places=kept.places,
        classes=config.classes,
        most=config.max_classes,
        most_key="scenario.max_classes",
    )


def _site_problems(kept: Table, config: OwnTexts) -> Iterator[str]:
    sites = kept.cells(config.site) if config.site else None
    if sites is not None and len(absent := sites.rows(sites.among(("",)))):
        places = kept.places(absent)
        yield f"{config.path}: {places}: no site; fill it in or leave the records out"


def _notes(table: Table, usable: Flags, kept: Table, config: OwnTexts) -> Iterator[str]:
    if not usable.all():
        left_out = table.places(np.flatnonzero(~usable))
        nobody = ", or nobody of this part" if config.person else ""
        yield f"{config.path}: {left_out}: no text or no label{nobody}, left out"
    found = personal.search(kept.column(config.text))
    for sentence in personal.sentences(found, kept.lines.tolist(), kept.counted):
        yield f"{config.path}: {sentence}"
    if copies := copies_in(kept.column(config.text)):
        yield (
            f"{config.path}: {kept.places(copies)}: copies of an earlier text; it weighs twice, "
            "and is in training or in the test with all its copies, unless the data says which "
            "records are for the test"
        )


def copies_in(texts: Sequence[str]) -> list[int]:
    """The places of those that were there before."""
    first: dict[str, int] = {}
    return [i for i, text in enumerate(texts) if first.setdefault(text, i) != i]
