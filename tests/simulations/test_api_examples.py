"""Examples in the docstrings of the public API are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "fedlearn",
    "fedlearn.core.settings",
    "simulations.api.accounting",
    "simulations.api.comparison",
    "simulations.api.result",
    "simulations.api.running",
    "simulations.api.study",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings__are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
