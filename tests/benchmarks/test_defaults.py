"""The table of docs/defaults.md: what its program reads, and what it holds runs against."""

from __future__ import annotations

import gzip
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from benchmarks.table import ROOT
from fedlearn.data.datasets.archives import Archive
from fedlearn.data.tables.scaling import squash
from fedlearn.tasks import TableInput

sys.path.append(str(ROOT / "benchmarks"))  # its programs are run as files

import default_sets
import defaults


def test_spread__gives_numbers_as_they_were_before_a_run_squashed_them() -> None:
    rng = np.random.default_rng(0)
    raw = np.stack([rng.normal(0, 10.0**k, 50) for k in range(-2, 6)], axis=1)
    table = TableInput(numeric=9, cardinalities=(3,), squashed=tuple(range(8)))
    ranged, codes = rng.uniform(-1, 1, (50, 1)), rng.integers(0, 3, (50, 1))
    rows = np.hstack([squash(raw), ranged, codes])
    found = defaults.spread(table, rows, "numbers")
    np.testing.assert_allclose(found[:, :9], np.hstack([raw, ranged]), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found[:, 9:].argmax(1), codes[:, 0])
    np.testing.assert_array_equal(defaults.spread(table, rows, "logarithms")[:, :9], rows[:, :9])


def test_sets__have_the_header_and_the_rows_of_what_a_package_holds() -> None:
    head, *rows = default_sets._thyroid(b"age,target,id\r\n29,-,1\r\n41,S,2\r\n")
    assert (head, rows) == (["age", "target", "id"], [["29", "no", "1"], ["41", "yes", "2"]])
    assert default_sets._numbered(b"1, 2, a\n3, 4, b\n")[0] == ["x1", "x2", "label"]
    names = [*map(str, range(26)), "TARGET_LABEL_BAD=1", ""]
    lines = ["\t".join(names), *("\t".join(["7"] * 26 + [end, ""]) for end in "01N")]
    found = default_sets._pakdd(gzip.compress("\n".join(lines).encode()))
    assert [row[26] for row in found] == ["TARGET_LABEL_BAD=1", "0", "1"], "N says nothing"
    assert len({one.name for one in default_sets.SETS}) == len(default_sets.SETS)


@pytest.mark.slow
def test_ran__is_the_study_of_fedlearn_new_beside_models_of_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 3, (240, 2)).round(2)
    rows = [f"{a},{b},{'ny'[int(a + b > 0)]}" for a, b in x]
    wheel = tmp_path / "archives" / "some-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("t.dat", "\n".join(rows))
    archive = Archive(
        name="some", package="some", version="1.0", file_name=wheel.name, licence="", megabytes=0,
        sha256=sha256(wheel.read_bytes()).hexdigest(),
    )  # fmt: skip
    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path))
    one = default_sets.Set(
        name="some", archive=archive, member="t.dat", label="label", rows=default_sets._numbered
    )
    found = defaults.ran(one, tmp_path, ["privacy=none", "rounds=5", "seed=3"])
    assert found.config.training.optimizer == "adam", "by rule"
    assert found.ours["auc"] > 0.9
    assert found.others["logistic"]["auc"] > 0.97
    assert found.others["boosting"]["auc"] > 0.9
    row = defaults.row_of(one, "none", [found, found])
    assert row["ours"] == f"{found.ours['auc']:.3f}"
