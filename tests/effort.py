"""How much the tests try: everything in `make test`, a part of it in `make check`.

A test with many examples takes `examples(n)` of them; one that is long for each of its cases
names the `quick` ones, and the others are left to the whole suite.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings

FEW = 10
"""Examples that `make check` tries at the most, where a test says how many it takes in all."""

_part = False


def configure(markexpr: str) -> None:
    """Take the marks that tests are chosen by; comes before the first test file is read."""
    global _part
    _part = markexpr == "not slow"
    settings.register_profile("part", max_examples=FEW)
    if _part:
        settings.load_profile("part")
        os.fsync = _written


def _written(file: int) -> None:
    """Wait for no disk: what a program finds in its files is the same, unless the power fails."""


def examples(number: int, few: int = FEW) -> int:
    """How many of a test's `number` examples are tried now; `few` in `make check`."""
    return min(number, few) if _part else number


def every(step: int) -> int:
    """The step through a long range whose places are much alike: 1, but in `make check`."""
    return step if _part else 1


def slow_but(
    quick: Callable[[Any], bool], cases: Iterable[Any], *, several: bool = False
) -> list[Any]:
    """The cases of a long test for `parametrize`: all but the quick ones are marked slow.

    `several`: each is a tuple for as many arguments.
    """
    return [_marked(case, not quick(case), several) for case in cases]


def thinned(cases: Iterable[Any], *, several: bool = False) -> list[Any]:
    """The cases of a long list that are much alike for `parametrize`: every third is quick."""
    return [_marked(case, i % 3 > 0, several) for i, case in enumerate(cases)]


def _marked(case: Any, slow: bool, several: bool) -> Any:
    values = case if several else (case,)
    return pytest.param(*values, marks=pytest.mark.slow if slow else ())
