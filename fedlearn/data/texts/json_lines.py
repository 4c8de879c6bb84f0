"""Files of JSON objects, one a line: what an object holds, and some keys of all as a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.core.errors import DataError, refuse
from fedlearn.data import memory
from fedlearn.data.tables.cells import clean_text, encode
from fedlearn.data.tables.content import read_loose_text, read_text
from fedlearn.data.tables.table import Table, some_lines

_LINE_END = re.compile(r"\r\n?|\n")  # JSON writes these signs otherwise inside of a value
Objects = list[tuple[int, dict[str, Any]]]
"""The objects of a file, each with its line."""


def is_lines(path: Path) -> bool:
    """Whether the file is called as one that holds a JSON object a line."""
    return path.suffix.lower() in (".jsonl", ".ndjson")


def read_objects(path: Path, encoding: str, *, by_record: bool = False) -> Objects:
    """The objects of a file of lines, and the line of each; empty lines are passed over.

    What an object in an object holds is a value of its own: `{"meta": {"kind": 1}}` is
    `{"meta.kind": 1}`.

    Raises:
        DataError: the file cannot be read, or lines hold something else; all of them. Read
            `by_record`, such lines are left out, also where they are all of it.
    """
    rows, wrong = [], []
    read = read_loose_text if by_record else read_text
    text = read(path, encoding, memory.PROSE_FACTOR)
    for line, content in enumerate(_LINE_END.split(text), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
            flat = _flat(row) if isinstance(row, dict) else None
        except (ValueError, RecursionError):  # since Python 3.12 JSON goes deeper than code of ours
            flat = None
        if flat is None:
            wrong.append(line)
        else:
            rows.append((line, flat))
    if wrong and not by_record:
        raise DataError(f"{path}: {some_lines(wrong)}: not a JSON object; one a line is expected")
    return rows


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        inside = _flat(value) if isinstance(value, dict) else None
        name = clean_text(key)
        flat |= {name: value} if inside is None else {f"{name}.{k}": v for k, v in inside.items()}
    return flat


def keys_of(rows: Objects) -> tuple[str, ...]:
    """All keys of the objects, as they first appear."""
    return tuple({key: None for _, row in rows for key in row})


def any_list(row: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether one of the keys holds a list, which is no text and no number."""
    return any(isinstance(row.get(key), list) for key in keys)


def lines_of_lists(rows: Objects, key: str) -> list[int]:
    """Where the value of `key` is a list."""
    return [line for line, row in rows if isinstance(row.get(key), list)]


def table_of(path: Path, rows: Objects, keys: Sequence[str]) -> Table:
    """Some keys of the objects as a table; one that an object lacks is an empty cell.

    Raises:
        DataError: they hold lists; all of these.
    """
    refuse(
        f"{path}: {some_lines(found)}: {key!r} holds no text and no number"
        for key in keys
        if (found := lines_of_lists(rows, key))
    )
    columns = tuple(encode([cell(row.get(key)) for _, row in rows]) for key in keys)
    lines = np.array([line for line, _ in rows])
    return Table(header=tuple(keys), columns=columns, lines=lines)


def cell(value: object) -> str:
    """A value as text without spaces around it; what is missing is empty."""
    return "" if value is None else str(value).strip()
