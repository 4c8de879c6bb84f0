"""A column of many values is learned from by a hash that depends on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError
from fedlearn.data.check.files import check
from fedlearn.data.tables.buckets import bucket_names, buckets_of
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.deidentify import Deidentify

from ....effort import examples
from ..reading import loaded


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.text(max_size=8), min_size=1), st.integers(2, 5000))
def test_bucket__of_a_cell_depends_on_that_cell_alone(texts: list[str], number: int) -> None:
    together = buckets_of(encode(texts), number, ("",))
    alone = [buckets_of(encode([text]), number, ("",))[0] for text in texts]
    assert together.tolist() == alone
    assert ((together >= 0) & (together <= number)).all()
    gaps = [text.strip() == "" for text in encode(texts).each()]
    assert ((together == 0) == gaps).all()


def test_buckets__are_even_and_of_equal_numbers_the_same() -> None:
    found = buckets_of(encode([f"code {i}" for i in range(40_000)]), 64, ())
    counts = np.bincount(found.astype(int), minlength=65)[1:]
    expected = 40_000 / 64
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert chi < 63 + 5 * np.sqrt(2 * 63), "within five deviations of a fair hash"
    assert len(set(buckets_of(encode(["7", "7.0", "007"]), 5000, ()).tolist())) == 1
    # Pinned, for every site and every later version has to find the same.
    assert buckets_of(encode(["5411", "I21.4"]), 256, ()).tolist() == [77, 146]
    assert bucket_names(3) == ("1", "2", "3")


def write(folder: Path, rows: int = 600) -> Path:
    """A table in which the code alone says who is ill; 150 codes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 150, rows)
    path = folder / "a.csv"
    lines = [f"K{code},{rng.integers(20, 90)},{int(code % 3 == 0)}" for code in codes]
    path.write_text("\n".join(["code,age,ill", *lines]))
    return path


def test_check__keeps_a_column_of_many_values_that_return(tmp_path: Path) -> None:
    path = write(tmp_path)
    report = check(path)
    assert report.problems == ()
    assert "scenario.buckets.code=256" in report.settings
    pool = loaded(Csv(path=str(path), label="ill", buckets={"code": 256}))
    assert pool.task.input.cardinalities == (257,)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"scenario.numeric and scenario.categories"):
        loaded(Csv(path=str(path), label="ill", buckets={"code": 256}), complete=True)
    named = Csv(path=str(path), label="ill", buckets={"code": 256}, numeric=("age",),
                gaps=(), classes=("0", "1"))  # fmt: skip
    assert len(loaded(named, by_record=True, complete=True)) == 600


def test_buckets__beside_another_way_are_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path))
    hidden = Deidentify(hash=("code",), key="key")
    for other in (
        {"numeric": ("code",)},
        {"categories": {"code": ("K1",)}},
        {"deidentify": hidden},
    ):
        with pytest.raises(ConfigError, match="as well"):
            loaded(Csv(path=path, label="ill", buckets={"code": 8}, **other))  # type: ignore[arg-type]
