"""Flower's messages need a process that knows whose it is."""

from __future__ import annotations

import pytest

from fedlearn.flower import private


@pytest.fixture(autouse=True)
def identity() -> None:
    private.new_run(run_id=1)
