from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from fedlearn.core.errors import DataError
from fedlearn.data.datasets import fashion
from fedlearn.data.datasets.fashion import Fashion

from ..reading import loaded


@pytest.mark.slow
def test_fashion__has_the_published_split(fashion_folder: Path) -> None:
    pool = loaded(Fashion(path=str(fashion_folder)), fashion_folder)
    assert len(pool) == fashion.RECORDS
    assert pool.is_train.sum() == 60_000
    for part in (pool.is_train, ~pool.is_train):
        counts = np.bincount(pool.labels[part])
        assert (counts == counts[0]).all(), "every class is as frequent as the others"
    held = loaded(Fashion(path=fashion_folder, test="val"), fashion_folder)
    assert (len(held), held.is_train.sum()) == (60_000, 50_000)
    np.testing.assert_array_equal(held.features, pool.features[:60_000])
    few = loaded(Fashion(path=str(fashion_folder), limit=7), fashion_folder)
    np.testing.assert_array_equal(few.features[7:], pool.features[60_000:60_007])
    assert few.is_train.tolist() == [True] * 7 + [False] * 7
    assert (pool.features.min(), pool.features.max()) == (0.0, 1.0)


def test_fashion__is_looked_for_in_the_cache(tmp_path: Path) -> None:
    if not fashion.SYSTEM_FOLDER.is_dir():
        with pytest.raises(DataError, match=str(fashion.SYSTEM_FOLDER)):
            loaded(Fashion(), tmp_path)
        (tmp_path / "fashion-mnist").mkdir()
        with pytest.raises(DataError, match=str(tmp_path / "fashion-mnist")):
            loaded(Fashion(), tmp_path)


def test_fashion__says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset-fashion-mnist, or set scenario\.path"):
        loaded(Fashion(path=str(tmp_path)), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file; name the folder"):
        loaded(Fashion(path=str(tmp_path / "file")), tmp_path)


def test_fashion__takes_no_other_data(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        for what in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{part}-{what}-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match="does not hold the published data"):
        loaded(Fashion(path=str(tmp_path)), tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not packed")
    with pytest.raises(DataError, match="cannot be unpacked"):
        loaded(Fashion(path=str(tmp_path)), tmp_path)
