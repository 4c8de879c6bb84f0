"""Arrow is ready before a test that hypothesis takes the time of."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.csv
import pytest


@pytest.fixture(scope="session", autouse=True)
def _arrow() -> None:
    """The first array looks for pandas, which takes a while where that is installed."""
    pa.array([""])
    pyarrow.csv.ReadOptions()
