"""One's own texts: what is read, what is left out with a note, what is refused."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.pool import Pool
from fedlearn.data.texts.files import OwnText
from fedlearn.data.texts.tokens import Tokenizer

from ..reading import loaded

HASHING = Tokenizer(kind="hashing", buckets=1000, max_length=8)
ROWS = [
    {"text": f"{word} clause number {i}", "kind": kind, "firm": firm}
    for i in range(4)
    for word, kind, firm in [("warranty", "w", "north"), ("licence", "l", "south")]
]


def table(path: Path, rows: list[dict[str, Any]] = ROWS, separator: str = ",") -> OwnText:
    lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return OwnText(path=str(path), label="kind", site="firm", tokenizer=HASHING)


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> OwnText:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return OwnText(path=str(path), label="kind", site="firm", tokenizer=HASHING)


def read(config: OwnText) -> Pool:
    return loaded(config)


def test_text__is_the_same_from_a_table_from_parquet_and_from_lines_of_json(tmp_path: Path) -> None:
    one, two = read(table(tmp_path / "a.csv")), read(jsonl(tmp_path / "a.jsonl"))
    assert one.sha256 == two.sha256
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    three = replace(table(tmp_path / "a.csv"), path=str(tmp_path / "a.parquet"))
    assert read(three).sha256 == one.sha256
    assert one.task.classes == ("l", "w")
    assert one.labels.tolist() == [1, 0] * 4
    assert one.natural_site is not None
    assert one.natural_site.tolist() == ["north", "south"] * 4
    assert one.features.shape == (8, 8)


def test_text__records_without_text_or_label_are_left_out_with_a_note(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "", "kind": "w", "firm": "north"}]
    rows += [{"text": "a title", "kind": None, "firm": "north"}, ROWS[0]]
    pool = read(jsonl(tmp_path / "a.jsonl", rows))
    assert len(pool) == 9
    assert any("lines 9, 10: no text or no label" in note for note in pool.notes)
    assert any("line 11: copies of an earlier text" in note for note in pool.notes)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS[::2], "every record is 'w'"),
        ([{"text": "", "kind": "w", "firm": "a"}], "no record has both"),
        ([*ROWS, {"text": "x", "kind": "once", "firm": "a"}], "line 9: the only record of class"),
        ([*ROWS, {"text": "x", "kind": "w", "firm": ""}], "line 9: no site"),
    ],
)
def test_text__refuses_what_cannot_be_learned_from(
    tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read(jsonl(tmp_path / "a.jsonl", rows))


def test_text__refuses_more_labels_than_classes(tmp_path: Path) -> None:
    config = replace(jsonl(tmp_path / "a.jsonl"), label="text", text="kind")
    with pytest.raises(DataError, match=r"8 different values.*max_classes=5"):
        read(replace(config, max_classes=5))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"text": "body"}, "scenario.text: no column 'body'"),
        ({"label": "class"}, "scenario.label: no column 'class'"),
        ({"site": "kind"}, "scenario.label=kind: is another role's column"),
    ],
)
def test_text__names_columns_that_are_not_there(
    tmp_path: Path, change: dict[str, str], path: str
) -> None:
    with pytest.raises(ConfigError, match=path):
        read(replace(table(tmp_path / "a.csv"), **change))  # type: ignore[arg-type]


def test_text__names_lines_that_are_no_objects_and_other_encodings(tmp_path: Path) -> None:
    config = jsonl(tmp_path / "a.jsonl")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("[1]\nno json\n")
    with pytest.raises(DataError, match="lines 9, 10: not a JSON object"):
        read(config)
    (tmp_path / "a.jsonl").write_bytes('{"text": "Kläger"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="utf-8"):
        read(config)


def test_text__refuses_lists_where_a_text_or_a_label_should_be(tmp_path: Path) -> None:
    config = jsonl(tmp_path / "a.jsonl")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": ["a", "b"], "kind": "w"}\n')
    with pytest.raises(DataError, match=r"line 9: 'text' holds no text and no number"):
        read(config)


@pytest.mark.parametrize(
    "first", [b"", b"\xff\xfe{}", b"\xfe\xff", b"PK\x03\x04", b"\x1f\x8b\x08 no gzip", b"\xc3("]
)
def test_lines__are_read_one_by_one_whatever_the_first_holds(tmp_path: Path, first: bytes) -> None:
    """A file of lines has no head: what it begins with is a record, and one record refuses none."""
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) for i in range(12)]
    config = OwnText(path=str(path), label="label", classes=("a", "b"), tokenizer=HASHING)
    for rest in (lines, []):
        path.write_text("\n".join(rest) + "\n")
        without = loaded(config, by_record=True)
        path.write_bytes(first + b"\n" + path.read_bytes())
        with_it = loaded(config, by_record=True)
        assert np.array_equal(without.features, with_it.features)
        assert len(with_it) == len(rest)


def test_lines__in_a_gzip_are_unpacked_one_by_one_as_well(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(gzip.compress(b'{"text": "a", "label": "a"}\n'))
    config = OwnText(path=str(path), label="label", classes=("a", "b"), tokenizer=HASHING)
    assert len(loaded(config, by_record=True)) == 1


def test_text__a_line_that_is_nested_deeper_than_it_can_be_read_is_left_out_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since Python 3.12 JSON is read deeper than a function may call itself."""
    content, deep = "nested", dict[str, Any]()
    for _ in range(5000):
        deep = {"a": deep}
    real = json.loads
    monkeypatch.setattr(json, "loads", lambda text: deep if text == content else real(text))
    config = replace(jsonl(tmp_path / "a.jsonl"), classes=("l", "w"))
    path = Path(config.path)
    path.write_text(path.read_text() + content + "\n")
    assert len(loaded(config, by_record=True)) == len(ROWS)
    with pytest.raises(DataError, match=f"line {len(ROWS) + 1}: not a JSON object"):
        read(config)
