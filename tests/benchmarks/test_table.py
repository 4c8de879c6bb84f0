"""How benchmarks measure and show: their figures are only worth as much as this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.__main__ import HERE, TABLES
from benchmarks.table import Spread, Table, in_turns, parser, ratios, spread, write


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], list(range(10)), [5.0] * 4])
def test_spread__has_the_quartiles_of_numpy(values: list[float]) -> None:
    found = spread(values)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    assert (found.low, found.median, found.high) == pytest.approx((low, middle, high))
    assert found.runs == len(values)


def test_spread__of_one_or_two_values_is_all_of_them() -> None:
    assert spread([2.0]) == Spread(median=2.0, low=2.0, high=2.0, runs=1)
    assert spread([4.0, 2.0]) == Spread(median=3.0, low=2.0, high=4.0, runs=2)
    assert spread([2.0]).shown(".1f", " s") == "2.0 s"
    assert spread([4.0, 2.0]).times(1e3).shown(".0f", " ms") == "3000 ms (2000 to 4000)"


def test_ratios__are_of_neighbours_so_that_load_falls_out() -> None:
    load = np.array([1.0, 5.0, 2.0, 9.0, 1.0])
    found = ratios(list(3 * load), list(2 * load))
    assert (found.low, found.median, found.high) == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])


def test_in_turns__changes_who_begins_and_leaves_out_the_warm_up() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = in_turns({name: partial(side, name) for name in "ab"}, 2, warm_up=1)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert taken == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


def test_table__is_markdown_and_refuses_rows_that_do_not_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table(side="side", time=("time", ".1f", " s"), ratio=("over", ".2f"))
    table.row({"side": "ours", "time": spread([1.0]), "ratio": None, "more": 1})
    table.row({"side": "theirs", "time": 3, "ratio": 1.5})
    head = "| side | time | over |\n| --- | --- | --- |\n"
    rows = "| ours | 1.0 s |  |\n| theirs | 3.0 s | 1.50 |\n"
    assert capsys.readouterr().out == head + rows
    assert [row["side"] for row in table.rows] == ["ours", "theirs"]
    assert table.rows[0]["more"] == 1
    with pytest.raises(KeyError, match="time"):
        table.row({"side": "ours"})


def test_parser__takes_what_a_program_has_defaults_for() -> None:
    options = parser("About.", runs=5, sizes=[0.5], no_memory=False)
    found = options.parse_args(["--runs", "3", "--sizes", "1", "2", "--no-memory"])
    assert (found.runs, found.sizes, found.no_memory, found.json) == (3, [1.0, 2.0], True, None)
    assert options.parse_args([]).sizes == [0.5]


def test_write__adds_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.json", {"rows": [1]})
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["rows"] == [1]
    assert found["environment"]["cores"] == os.cpu_count()
    assert "load at the end" in capsys.readouterr().out


def test_peers__say_why_they_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    assert "blazefl needs Python 3.12 or newer" in str(peers.missing("blazefl"))
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    assert "no program here runs blazefl" in str(peers.missing("blazefl"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps" in str(peers.missing("pfl"))
    assert len(peers.skipped("engine")) == 2
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert peers.missing("pfl") is None


def test_tables__have_a_program_each_and_peers_a_table() -> None:
    assert all((HERE / program.file).is_file() for program in TABLES.values())
    assert {peer.table for peer in peers.PEERS.values()} <= {"", *TABLES}


@pytest.mark.slow
def test_benchmarks__run_and_write_what_they_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "sealing", "masking", "--quick"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=HERE.parent, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert sum(line.startswith("| ---") for line in done.stdout.splitlines()) == 2
    for name in ("sealing", "masking"):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["rows"]
        assert found["environment"]["python"]
