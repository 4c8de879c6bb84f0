from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from fedlearn.data import memory
from fedlearn.data.check import check
from fedlearn.data.table import read_table
from fedlearn.errors import DataError


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
    assert len(read_table(path, separator="comma").rows) == 1000


def test_memory__of_this_machine_is_known() -> None:
    assert 2**28 < memory.installed() < 2**48


def test_memory__is_estimated_to_within_a_small_factor(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("a,b,c,d,e\n" + "12345,2,0.55,no,31\n" * 20_000)
    tracemalloc.start()
    try:
        read_table(path, separator="comma")
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < path.stat().st_size * memory.TEXT_FACTOR < 3 * taken
