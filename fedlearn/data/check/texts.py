"""What `fedlearn data check` says of texts: in a table, in lines of JSON, in a saved data set.

All three come here as a table of cells. Which column holds the texts is found
from what it holds: several words a cell, hardly ever the same twice.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedlearn.core.errors import DataError, some
from fedlearn.data.check.report import Report, sizes_in_words
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.tables.columns import MISSING, Column
from fedlearn.data.tables.guess import quoted
from fedlearn.data.tables.parquet import holds_cells
from fedlearn.data.tables.table import Table
from fedlearn.data.texts import huggingface, json_lines, personal
from fedlearn.data.texts.documents import FEW_UNKNOWN, MOST_UNKNOWN, unknown_pieces
from fedlearn.data.texts.tokens import Tokenizer, tokenize, units

_NO_LIST = (
    *("scenario.tokenizer.kind=hashing", "model.pretrained=''"),
    *("model.words=false", "model.sketch=8192"),  # words without vectors: counted, not learned
)
_CALLED = {
    "text",
    "texts",
    "body",
    "content",
    "message",
    "comment",
    "review",
    "评论",
    "文本",
    "内容",
}
_FEW = 50
"""Different texts of a column that is called so, though many are there twice."""
_READ = 500
"""Texts that a tokenizer is tried on."""
_WORDS = 4
"""Words that a cell of texts holds, in the middle."""


def text_columns(table: Table, found: Sequence[Column]) -> tuple[str, ...]:
    """The columns that hold texts, that with the longest first."""
    lengths = {}
    for column in found:
        if column.kind != "categorical" or column.identifier:
            continue
        cells = table.cells(column.name)
        given = ~cells.among(MISSING)
        called = column.name.casefold() in _CALLED and column.distinct > _FEW
        if column.distinct <= cells.counts[given].sum() / 2 and not called:
            continue
        words = np.array([units(one) for one in cells.texts()])
        middle = np.median(words[cells.codes][given[cells.codes]])
        if middle >= _WORDS:
            lengths[column.name] = middle
    return tuple(sorted(lengths, key=lambda name: -lengths[name]))


def _unknown(table: Table, text: str) -> float:
    """The share of pieces that the usual list lacks; 0 where the list is not at hand."""
    some = table.cells(text).texts()[:_READ]
    try:
        return tokenize(Tokenizer(), some, default_cache(os.environ)).unknown
    except DataError:
        return 0.0


def with_texts(report: Report, table: Table, scenario: str, written: Sequence[str]) -> Report:
    """`report`, on a table with `report.texts`, with what there is to say of the first of them.

    `written` are the settings that say how the file is written.
    """
    text, label = report.texts[0], next(iter(report.labels), None)
    sites = ("scenario.site=", "partition", "training.nominal_records=")
    settings = [
        f"scenario={scenario}",
        f"scenario.path={quoted(str(report.path))}",
        f"scenario.text={quoted(text)}",
        f"scenario.label={quoted(label) if label else 'COLUMN'}",
        *(setting for setting in report.settings if setting.startswith(sites)),
        *written,
        *(_NO_LIST if _unknown(table, text) > MOST_UNKNOWN else ()),
        "model=text",
    ]
    labelled = _labelled(table, text, label) if label else ()
    return replace(
        report,
        kind="texts",
        facts=(*report.facts, *_facts(table, text, label)),
        hints=(*report.hints, *_hints(table, text), *labelled),
        problems=(*report.problems, *([] if label else [_no_label(report)])),
        settings=tuple(settings),
    )


def table_of_objects(path: Path, rows: json_lines.Objects) -> tuple[Table, tuple[str, ...]]:
    """Objects as a table, and facts; a key that an object lacks is an empty cell.

    Keys whose values are lists, wherever they are given, are left aside.

    Raises:
        DataError: lines hold a list where others hold none; all of them.
    """
    given = {
        key: sum(row.get(key) is not None for _, row in rows) for key in json_lines.keys_of(rows)
    }
    lists = {key: len(json_lines.lines_of_lists(rows, key)) for key in given}
    aside = [key for key in given if lists[key] and lists[key] == given[key]]
    table = json_lines.table_of(path, rows, [key for key in given if key not in aside])
    return table, tuple(_left_aside(aside))


def table_of_saved(path: Path) -> tuple[Table, tuple[str, ...]]:
    """A saved data set as a table of its scalar columns, rows counted over all splits; and facts.

    Raises:
        DataError: the folder or one of its files cannot be read.
    """
    folders = huggingface.splits_of(path)
    splits = {folder: huggingface.read_split(folder) for folder in folders.values()}
    first = splits[folders["train"]]
    readable = [one.name for one in first.schema if holds_cells(one.type)]
    sizes = {name: splits[folder].num_rows for name, folder in folders.items()}
    aside = [name for name in first.column_names if name not in readable]
    facts = [sizes_in_words("splits", sizes), *_left_aside(aside)]
    return huggingface.table_of(splits, readable), tuple(facts)


def _left_aside(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"not looked at, for they hold no text and no number: {some(names)}"


def _no_label(report: Report) -> str:
    return (
        f"{report.path}: no column could be the label, which has a few different values; there "
        f"are {', '.join(column.name for column in report.columns)}. A language model learns texts "
        "alone: task=language model=huggingface scenario=language"
    )


def _facts(table: Table, text: str, label: str | None) -> Iterator[str]:
    lengths = [units(one) for one in table.column(text)]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    yield (
        f"column {text!r}: texts of {statistics.median(lengths):g} words in the middle; the "
        f"longest has {lengths[longest]:,} ({table.places([longest])})"
    )
    if label:
        cells = [one for one in table.column(label) if one not in MISSING]
        sizes = {value: cells.count(value) for value in sorted(set(cells))}
        yield sizes_in_words(f"classes in column {label!r}", sizes)


def _hints(table: Table, text: str) -> Iterator[str]:
    cells = table.column(text)
    if (share := _unknown(table, text)) > FEW_UNKNOWN:
        yield f"column {text!r}: {unknown_pieces(share)}"
    if empty := [i for i, one in enumerate(cells) if not one]:
        yield f"{table.places(empty)}: no text; left out in training"
    yield from personal.sentences(personal.search(cells), table.lines.tolist(), table.counted)
    most = Tokenizer().max_length
    if long := [i for i, one in enumerate(cells) if units(one) > most]:
        yield (
            f"{table.places(long)}: longer than {most} words; scenario.tokenizer.max_length="
            f"{most} cuts them off there, at the latest"
        )


def _labelled(table: Table, text: str, label: str) -> Iterator[str]:
    """What the labels have against themselves; `label` is the likely column only."""
    labels = table.column(label)
    if absent := [i for i, one in enumerate(labels) if not one]:
        yield f"{table.places(absent)}: no {label!r}; left out in training"
    usable = [value for value, one in zip(labels, table.column(text), strict=True) if one]
    for value in sorted(set(usable) - {""}):
        if usable.count(value) == 1:
            place = table.places([labels.index(value)])
            yield (
                f"{place}: the only record with {label!r} {value!r}; a class takes at least two, "
                "so leave it out or group classes"
            )
    first: dict[str, int] = {}
    cells = table.column(text)
    other = [
        i for i, one in enumerate(cells) if one and labels[first.setdefault(one, i)] != labels[i]
    ]
    if other:
        yield f"{table.places(other)}: the text of an earlier record with another {label!r}"
