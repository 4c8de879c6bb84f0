"""What all tests share: the real heart data, and torch on one thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fedlearn.data import archives
from fedlearn.errors import DataError

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def heart_archive() -> Path:
    """The archive of the heart set: from the cache, or fetched; else the test is skipped."""
    try:
        return archives.fetch(archives.ARCHIVES["heart"], archives.default_cache(os.environ))
    except DataError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip(f"the heart archive is neither cached nor to be had: {error}")
