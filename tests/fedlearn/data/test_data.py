from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlearn.core.rng import Streams
from fedlearn.data import DATASETS, SCENARIOS, Csv, Heart, load_pool
from fedlearn.data.pool import Pool


def test_datasets__describe_what_is_loaded(heart_pool: Pool) -> None:
    heart = DATASETS["heart"]
    assert heart.records == len(heart_pool)
    assert set(heart.sites) == set(heart_pool.natural_site)  # type: ignore[arg-type]
    assert heart.classes == heart_pool.task.classes


def test_datasets__are_scenarios() -> None:
    assert set(DATASETS) <= set(SCENARIOS.known)


def test_load_pool__gives_the_published_split_for_every_seed(cache: Path, heart_pool: Pool) -> None:
    assert load_pool(Heart(), Streams(7), cache).sha256 == heart_pool.sha256


def test_load_pool__splits_ones_own_table_by_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text("a,b,y\n" + "".join(f"{i * 3 % 11},{i * i},{i % 2}\n" for i in range(40)))
    pools = [load_pool(Csv(path=str(path), label="y"), Streams(s), tmp_path) for s in (0, 0, 1)]
    assert pools[0].sha256 == pools[1].sha256
    assert not np.array_equal(pools[0].is_train, pools[2].is_train)


@pytest.mark.slow
def test_load_pool__imports_neither_pandas_nor_flower() -> None:
    code = (
        "import sys, fedlearn.data, fedlearn.data.check.files;"
        "print([m for m in ('pandas', 'sklearn', 'flwr', 'hydra', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
