"""Pools that several test files share; the heart archive is the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedlearn.data.datasets import heart
from fedlearn.data.pool import Pool
from fedlearn.tasks import ClassificationTask, TableInput

from .reading import loaded


@pytest.fixture(scope="session")
def cache(heart_archive: Path) -> Path:
    """The user's own cache, in which the heart archive lies."""
    return heart_archive.parent.parent


@pytest.fixture(scope="session")
def heart_pool(cache: Path) -> Pool:
    return loaded(heart.Heart(), cache)


@pytest.fixture
def make_pool() -> Callable[..., Pool]:
    return _make_pool


def _make_pool(
    size: int = 60, classes: int = 3, sites: int = 4, train: int | None = None, numeric: int = 2
) -> Pool:
    """A pool with labels and sites in turn, training records first."""
    rows = np.arange(size)
    return Pool(
        name="made",
        task=ClassificationTask(
            input=TableInput(numeric=numeric), classes=tuple(f"class {i}" for i in range(classes))
        ),
        features=np.stack([rows + 1000.0 * i for i in range(numeric)], axis=1).astype(np.float32),
        labels=(rows % classes).astype(np.int64),
        is_train=rows < (size * 2 // 3 if train is None else train),
        natural_site=np.array([f"hospital {i}" for i in rows % sites]),
    )
