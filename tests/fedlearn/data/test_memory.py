from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fedlearn.core.errors import DataError
from fedlearn.data import memory
from fedlearn.data.check.files import check
from fedlearn.data.tables import csv
from fedlearn.data.tables.delimited import read_table
from fedlearn.data.texts import json_lines
from fedlearn.data.texts.files import OwnText
from fedlearn.data.texts.tokens import Tokenizer

from .reading import loaded


def test_memory__a_table_that_would_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.csv"
    path.write_text("a,b\n" + "1,2\n" * 1000)
    monkeypatch.setattr(memory, "installed", lambda: 50_000)
    with pytest.raises(DataError, match=r"large.csv: would take about .* take fewer columns"):
        read_table(path, separator="comma")
    assert "would take about" in check(path).problems[0]
    monkeypatch.setattr(memory, "installed", lambda: 500_000)
    assert len(read_table(path, separator="comma")) == 1000


def test_memory__texts_that_would_not_fit_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jsonl"
    lines = [json.dumps({"text": "word " * 50, "kind": "ab"[i % 2]}) for i in range(100)]
    path.write_text("\n".join(lines))
    config = OwnText(path=str(path), label="kind", tokenizer=Tokenizer(kind="hashing"))
    monkeypatch.setattr(memory, "installed", lambda: path.stat().st_size * 4)
    with pytest.raises(DataError, match=r"large\.jsonl: would take about .* shorter texts"):
        loaded(config, tmp_path)
    monkeypatch.setattr(memory, "installed", lambda: path.stat().st_size * 10)
    assert len(loaded(config, tmp_path)) == 100
    long = replace(config, tokenizer=replace(config.tokenizer, max_length=10**9))
    with pytest.raises(DataError, match="large: would take about"):
        loaded(long, tmp_path)


@pytest.mark.parametrize("word", ["word ", "\U0001f642 x"])
def test_memory__of_texts_is_estimated_to_within_a_small_factor(tmp_path: Path, word: str) -> None:
    path = tmp_path / "prose.jsonl"
    lines = [json.dumps({"text": word * 200, "kind": i % 2}, ensure_ascii=False)
             for i in range(2000)]  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    tracemalloc.start()
    try:
        json_lines.read_objects(path, "utf-8")
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < path.stat().st_size * memory.PROSE_FACTOR < 4 * taken


def test_memory__of_this_machine_is_known() -> None:
    assert 2**28 < memory.installed() < 2**48


@pytest.mark.parametrize("digits", [1, 6])
@pytest.mark.parametrize("quote", ["", '"'])
def test_memory__of_a_table_is_estimated_to_within_a_small_factor(
    tmp_path: Path, digits: int, quote: str
) -> None:
    path = tmp_path / "wide.csv"
    cells = np.random.default_rng(0).integers(10 ** (digits - 1), 10**digits, (10_000, 10))
    rows = [
        [f"{quote}a{quote}", *"bcdefghijy"],
        *np.column_stack([cells, cells[:, 0] % 2]).astype(str),
    ]
    path.write_text("\n".join(map(",".join, rows)))
    taken = peak(lambda: loaded(csv.Csv(path=str(path), label="y")))
    assert taken < path.stat().st_size * memory.TEXT_FACTOR < 3 * taken


@pytest.mark.slow
def test_memory__of_parquet_is_estimated_to_within_a_small_factor(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    cells = np.random.default_rng(0).normal(size=(20_000, 20))
    names = [f"f{i}" for i in range(20)]
    parquet.write_table(pa.table([*cells.T, cells[:, 0] > 0], names=[*names, "y"]), path)
    taken = peak(lambda: loaded(csv.Csv(path=str(path), label="y")))
    assert taken < cells.size * memory.CELL_BYTES < 3 * taken


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python and numpy held at once, and the most that Arrow did."""
    work()  # what is imported on first use does not count
    usual = pa.default_memory_pool()
    arrow = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(arrow)
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] + arrow.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
