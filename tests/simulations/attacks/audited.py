"""A small run that is audited, and what its checks say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedlearn.auditing.findings import Check, CheckName
from fedlearn.cli import main
from fedlearn.config import load
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from simulations.attacks.whole_update import checks_of_run
from tests.simulations.small import table

Sabotage = Callable[[pytest.MonkeyPatch], None]

FIVE = ("east", "middle", "north", "south", "west")


def simulated(folder: Path, *more: str, sites: tuple[str, ...] = ("north", "south")) -> ResultFile:
    """A short run at half of the records a step, two steps a round; `more` comes last."""
    words = [
        *table(folder, sites=sites), "training.sample_rate=0.5", "training.local_steps=2",
        "audit=slots", "audit.canaries=40", *more,
    ]  # fmt: skip
    if "audit=none" in more:
        words.remove("audit.canaries=40")
    if not any(word.startswith("privacy") for word in more):
        words.append("privacy.epsilon=8")
    assert main(["simulate", *words, f"out={folder / 'run'}"]) in (0, 6)
    return read_result(folder / "run")


def broken(result: ResultFile) -> dict[CheckName, Check]:
    """The checks that do not hold."""
    found = checks_of_run(load(result.config), result)
    assert found
    return {check.name: check for check in found if not check.holds}
